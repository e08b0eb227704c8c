//! Dropped packets for the agent's log, while it is switched on.

use margay_common::{
    endpoint::Workload,
    log::Logged,
    net::{Addr, Family},
    verdict::{DropReason, Note, Program, counter},
};

use crate::{
    maps,
    packet::{Bytes, Packet, V4_ADDRESSES, V6_ADDRESSES},
    xdp::{self, Frame},
};

/// Logs a dropped packet, if drops are logged.
#[inline(always)]
pub fn of_packet(packet: &Packet<'_>, program: Program, reason: DropReason) {
    if maps::is_logging() {
        log_packet(packet, program, reason);
    }
}

/// Not inlined, so that it costs forwarded packets no registers.
#[inline(never)]
fn log_packet(packet: &Packet<'_>, program: Program, reason: DropReason) {
    let mut drop = Logged::new(program, reason, packet.ifindex(), packet.len());
    // The drop may have come before the header was parsed, so read the addresses here.
    let addresses = packet.family().and_then(|family| match family {
        Family::V4 => packet.load(V4_ADDRESSES).map(of_v4),
        Family::V6 => packet.load(V6_ADDRESSES),
    });
    [drop.src, drop.dst] = addresses.unwrap_or_default();
    // A container can forge its source but not its interface.
    let sender = match program {
        Program::FromWorkload => maps::workload(drop.ifindex).map_or(Addr::UNSPECIFIED, own_address),
        _ => maps::logged_for(&drop.src),
    };
    log(program, &sender, &drop);
}

/// The same for a frame that XDP drops.
#[inline(always)]
pub fn of_frame(frame: &Frame<'_>, reason: DropReason) {
    if maps::is_logging() {
        log_frame(frame, reason);
    }
}

#[inline(never)]
fn log_frame(frame: &Frame<'_>, reason: DropReason) {
    let mut drop = Logged::new(Program::Xdp, reason, frame.ifindex(), frame.len());
    let addresses = xdp::family(frame).and_then(|family| match family {
        Family::V4 => frame.read(V4_ADDRESSES).map(of_v4),
        Family::V6 => frame.read(V6_ADDRESSES),
    });
    [drop.src, drop.dst] = addresses.unwrap_or_default();
    log(Program::Xdp, &maps::logged_for(&drop.src), &drop);
}

/// Both addresses as they lie in a header of IPv4.
#[inline(always)]
fn of_v4(addresses: [u32; 2]) -> [Addr; 2] {
    addresses.map(Addr::from_v4_word)
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
