//! Dropped packets for the agent's log, while it is switched on.

use aya_ebpf::{bindings::__sk_buff, programs::TcContext};
use margay_common::{
    endpoint::Workload,
    log::Logged,
    net::Addr,
    verdict::{DropReason, Note, Program, counter},
};

use margay_packet::{Frame, addresses};

use crate::{
    maps,
    skb::Skb,
    xdp::{self, XdpFrame},
};

/// Logs a dropped packet, if drops are logged.
#[inline(always)]
pub fn of_packet(packet: &Skb<'_>, program: Program, reason: DropReason) {
    if maps::is_logging() {
        log_packet(packet.raw(), program as u32, reason as u32);
    }
}

/// [`of_packet`] as a global function, which the verifier checks once and which costs
/// forwarded packets no registers.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn log_packet(skb: *mut __sk_buff, program: u32, reason: u32) -> i32 {
    let ctx = TcContext::new(skb);
    let packet = &Skb::new(&ctx);
    let program = Program::of_tc(program);
    let mut drop = Logged::new(program, reason, packet.ifindex(), packet.len());
    // The drop may have come before the header was parsed, so read the addresses here.
    let addresses = packet.family().and_then(|family| addresses(packet, family));
    [drop.src, drop.dst] = addresses.unwrap_or_default();
    // A container can forge its source but not its interface.
    let sender = match program {
        Program::FromWorkload => maps::workload(drop.ifindex).map_or(Addr::UNSPECIFIED, own_address),
        _ => maps::logged_for(&drop.src),
    };
    log(program, &sender, &drop);
    0
}

/// The same for a frame that XDP drops.
#[inline(always)]
pub fn of_frame(frame: &XdpFrame<'_>, reason: DropReason) {
    if maps::is_logging() {
        log_frame(frame, reason);
    }
}

#[inline(never)]
fn log_frame(frame: &XdpFrame<'_>, reason: DropReason) {
    let mut drop = Logged::new(Program::Xdp, reason as u32, frame.ifindex(), frame.len());
    let addresses = xdp::family(frame).and_then(|family| addresses(frame, family));
    [drop.src, drop.dst] = addresses.unwrap_or_default();
    log(Program::Xdp, &maps::logged_for(&drop.src), &drop);
}

/// The address that stands for a container in the budgets.
#[inline(always)]
fn own_address(workload: &Workload) -> Addr {
    if workload.v4.addr.is_unspecified() { workload.v6.addr } else { workload.v4.addr }
}

#[inline(always)]
fn log(program: Program, sender: &Addr, drop: &Logged) {
    if !maps::log(sender, drop) {
        maps::count(counter(program, Note::LogLimited as u8), drop.len);
    }
}
