//! What the programs answer themselves: neighbours, echo, and ICMP errors. Each is a global
//! function, so that the verifier checks it once and not once for each path that leads to it.
//! Such a function gets only the context and numbers, and reads the packet again.

use core::hint::black_box;

use aya_ebpf::{
    bindings::{__sk_buff, BPF_F_INGRESS, TC_ACT_SHOT},
    programs::TcContext,
};
use margay_common::{
    icmp::{IcmpError, error_for},
    net::{Addr, Family},
    verdict::{DropReason, Note, Program, Verdict},
};
use margay_packet::{ARP, Frame, Headers, arp, echo as packet_echo, icmp, ndp};

use crate::{act::Forward, authenticate::may_use, context::Context, count, log, maps, skb::Skb};

/// Answers ARP or neighbour discovery of a container.
#[inline(always)]
pub fn neighbour(packet: &Skb<'_>) -> Forward {
    Forward::Finished { action: answer_neighbour(packet.raw()) }
}

/// Answers an echo request to the gateway, which answers nothing else.
#[inline(always)]
pub fn echo(packet: &Skb<'_>, headers: &Headers) -> Result<Forward, DropReason> {
    if !packet_echo::is_request(packet, headers) {
        return Err(DropReason::GatewayPort);
    }
    Ok(Forward::Finished { action: answer_echo(packet.raw()) })
}

/// Turns a dropped packet into the ICMP error about it, if RFCs and budget allow one.
#[inline(always)]
pub fn explain(cx: &Context<'_>, reason: DropReason) -> i32 {
    let gateway = &cx.error.gateway;
    match error_for(reason, cx.headers.family) {
        // The gateway is unknown until the packet is parsed.
        Some(error) if !gateway.is_unspecified() => {
            let [high, low] = gateway.0;
            let what = [error.kind, error.code, error.carries_mtu.into(), cx.program as u8];
            answer_error(cx.packet.raw(), u32::from_ne_bytes(what), cx.error.mtu, high, low)
        }
        _ => TC_ACT_SHOT,
    }
}

/// [`neighbour`] as a global function.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn answer_neighbour(skb: *mut __sk_buff) -> i32 {
    let ctx = TcContext::new(skb);
    let packet = Skb::new(&ctx);
    match discover(&packet) {
        Ok(()) => answered(&packet),
        Err(reason) => dropped(&packet, reason),
    }
}

#[inline(always)]
fn discover(packet: &Skb<'_>) -> Result<(), DropReason> {
    let workload = maps::workload(packet.ifindex()).ok_or(DropReason::UnknownInterface)?;
    let mac = workload.mac;
    if packet.ethernet().ok_or(DropReason::Malformed)?.kind == ARP {
        let side = &workload.v4;
        return arp::answer(packet, mac, &side.gateway, |addr| may_use(workload, side, addr));
    }
    let mut memory = Headers::NONE;
    let headers = black_box(&mut memory);
    headers.parse(packet, Family::V6)?;
    let side = &workload.v6;
    ndp::answer(packet, headers, mac, &side.gateway, |addr| may_use(workload, side, addr))
}

/// [`echo`] as a global function.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn answer_echo(skb: *mut __sk_buff) -> i32 {
    let ctx = TcContext::new(skb);
    let packet = Skb::new(&ctx);
    let mut memory = Headers::NONE;
    let headers = black_box(&mut memory);
    let Some(family) = packet.family() else { return dropped(&packet, DropReason::EtherType) };
    match headers.parse(&packet, family).and_then(|()| packet_echo::answer(&packet, headers)) {
        Ok(()) => answered(&packet),
        Err(reason) => dropped(&packet, reason),
    }
}

#[inline(always)]
fn answered(packet: &Skb<'_>) -> i32 {
    count::verdict(Program::FromWorkload, packet, Verdict::Answered);
    packet.redirect(packet.ifindex(), 0)
}

#[inline(always)]
fn dropped(packet: &Skb<'_>, reason: DropReason) -> i32 {
    count::drop(Program::FromWorkload, packet, reason);
    log::of_packet(packet, Program::FromWorkload, reason);
    TC_ACT_SHOT
}

/// [`explain`] as a global function: `what` holds type and code of the error, whether it carries
/// an MTU, and the program; the last two arguments are its source address.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn answer_error(skb: *mut __sk_buff, what: u32, mtu: u32, high: u64, low: u64) -> i32 {
    let ctx = TcContext::new(skb);
    let packet = Skb::new(&ctx);
    let [kind, code, carries_mtu, program] = what.to_ne_bytes();
    let error = IcmpError { kind, code, carries_mtu: carries_mtu != 0 };
    let program = Program::of_tc(program.into());
    let ifindex = packet.ifindex();
    if tell(program, &packet, error, &Addr([high, low]), mtu).is_none() {
        return TC_ACT_SHOT;
    }
    // What came out of margay0 goes back in, everything else back where it came from.
    let flags = if matches!(program, Program::FromHost) { BPF_F_INGRESS } else { 0 };
    packet.redirect(ifindex, flags.into())
}

#[inline(always)]
fn tell(program: Program, packet: &Skb<'_>, error: IcmpError, gateway: &Addr, mtu: u32) -> Option<()> {
    let mut memory = Headers::NONE;
    let headers = black_box(&mut memory);
    headers.parse(packet, packet.family()?).ok()?;
    if !icmp::may_answer(packet, headers) {
        return None;
    }
    if !error.carries_mtu && !maps::may_send_error(&payer(program, &headers.src)) {
        count::note(program, packet, Note::IcmpLimited);
        return None;
    }
    icmp::answer(packet, headers, error, gateway, mtu, maps::draft()?)?;
    count::note(program, packet, Note::IcmpSent);
    Some(())
}

/// Whose budget an error is taken from. Each container and each node has its own budget:
/// `from_workload` verified their source, here or on their own node, as far as the link
/// between the nodes is trusted. All others can forge sources and share one budget, so that
/// forged sources neither fill the table of budgets nor take errors from containers.
#[inline(always)]
fn payer(program: Program, src: &Addr) -> Addr {
    match program {
        Program::FromWorkload => *src,
        _ => maps::sender(src),
    }
}
