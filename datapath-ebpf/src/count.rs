//! Every packet is counted once, under its verdict or the reason of its drop.

use margay_common::verdict::{DropReason, Note, Program, Verdict, counter};

use margay_packet::Frame;

use crate::maps;

/// Counts a packet that goes on.
#[inline(always)]
pub fn verdict(program: Program, packet: &impl Frame, verdict: Verdict) {
    maps::count(counter(program, verdict as u8), packet.len());
}

/// Counts a packet that is dropped.
#[inline(always)]
pub fn drop(program: Program, packet: &impl Frame, reason: DropReason) {
    maps::count(counter(program, reason as u8), packet.len());
}

/// Counts something beside the verdict.
#[inline(always)]
pub fn note(program: Program, packet: &impl Frame, note: Note) {
    maps::count(counter(program, note as u8), packet.len());
}

/// Counts a frame of XDP, by the code of its verdict or drop.
#[inline(always)]
pub fn frame(frame: &impl Frame, code: u8) {
    maps::count(counter(Program::Xdp, code), frame.len());
}
