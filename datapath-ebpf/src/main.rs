//! Margay's eBPF programs: one entry per hook, and the only place where a
//! decision becomes a verdict.
//!
//! A packet goes through one program on each node that it touches. The program
//! parses it, looks its destination up in the maps, decides, and this file
//! counts the decision and carries it out. The rooms are named for what they
//! do; functions stand in the order in which a packet meets them.

#![cfg_attr(target_arch = "bpf", no_std, no_main)]

#[cfg(target_arch = "bpf")]
mod arp;
#[cfg(target_arch = "bpf")]
mod count;
#[cfg(target_arch = "bpf")]
mod echo;
#[cfg(target_arch = "bpf")]
mod forward;
#[cfg(target_arch = "bpf")]
mod from_host;
#[cfg(target_arch = "bpf")]
mod from_network;
#[cfg(target_arch = "bpf")]
mod from_workload;
#[cfg(target_arch = "bpf")]
mod icmp;
#[cfg(target_arch = "bpf")]
mod ip;
#[cfg(target_arch = "bpf")]
mod log;
#[cfg(target_arch = "bpf")]
mod maps;
#[cfg(target_arch = "bpf")]
mod ndp;
#[cfg(target_arch = "bpf")]
mod packet;
#[cfg(target_arch = "bpf")]
mod route;
#[cfg(target_arch = "bpf")]
mod xdp;

#[cfg(target_arch = "bpf")]
mod hooks {
    use core::hint::black_box;

    use aya_ebpf::{
        bindings::{BPF_F_INGRESS, TC_ACT_SHOT, xdp_action},
        macros::{classifier, xdp},
        programs::{TcContext, XdpContext},
    };
    use margay_common::{
        icmp::error_for,
        verdict::{DropReason, Program, Verdict},
    };

    use crate::{
        count,
        forward::{self, Forward},
        from_host, from_network, from_workload,
        icmp::{self, Blame},
        ip::Ip,
        log,
        packet::Packet,
        xdp::{self, Frame, Onward},
    };

    /// What a container sends: ingress of its veth's host side, or its netkit's inner end.
    #[classifier]
    pub fn from_workload(ctx: TcContext) -> i32 {
        run(Program::FromWorkload, &ctx, from_workload::decide)
    }

    /// Ingress of the uplink.
    #[classifier]
    pub fn from_network(ctx: TcContext) -> i32 {
        run(Program::FromNetwork, &ctx, from_network::decide)
    }

    /// Egress of `margay0`.
    #[classifier]
    pub fn from_host(ctx: TcContext) -> i32 {
        run(Program::FromHost, &ctx, from_host::decide)
    }

    /// XDP of the uplink.
    #[xdp]
    pub fn xdp_uplink(ctx: XdpContext) -> u32 {
        let frame = Frame::new(&ctx);
        let (code, action) = match xdp::decide(&frame) {
            Ok(Onward::Pass) => (Verdict::Passed as u8, xdp_action::XDP_PASS),
            Ok(Onward::Transmit) => (Verdict::Remote as u8, xdp_action::XDP_TX),
            Err(reason) => {
                log::of_frame(&frame, reason);
                (reason as u8, xdp_action::XDP_DROP)
            }
        };
        count::frame(&frame, code);
        action
    }

    /// Has a program decide about a packet, counts the decision and carries it out. What is
    /// found out about the packet lies in memory whose address is hidden from LLVM (`Ip::parse`).
    #[inline(always)]
    fn run(
        program: Program,
        ctx: &TcContext,
        decide: impl FnOnce(&Packet<'_>, &mut Ip, &mut Blame) -> Result<Forward, DropReason>,
    ) -> i32 {
        let packet = Packet::new(ctx);
        let mut memory = (Ip::NONE, Blame::NONE);
        let (ip, blame) = black_box(&mut memory);
        match decide(&packet, ip, blame) {
            Ok(decision) => {
                count::verdict(program, &packet, decision.verdict());
                forward::carry_out(&packet, &decision)
            }
            Err(reason) => {
                count::drop(program, &packet, reason);
                log::of_packet(&packet, program, reason);
                explain(program, &packet, reason, ip, blame)
            }
        }
    }

    /// Turns a dropped packet into the ICMP error about it, where one is due.
    #[inline(always)]
    fn explain(program: Program, packet: &Packet<'_>, reason: DropReason, ip: &Ip, blame: &Blame) -> i32 {
        let Some(error) = error_for(reason, ip.family) else { return TC_ACT_SHOT };
        let ifindex = packet.ifindex();
        if icmp::answer(program, packet, error, ip, blame).is_err() {
            return TC_ACT_SHOT;
        }
        // What came out of margay0 goes back in, everything else back where
        // it came from.
        let flags = if matches!(program, Program::FromHost) { BPF_F_INGRESS } else { 0 };
        packet.redirect(ifindex, flags.into())
    }
}

#[cfg(not(target_arch = "bpf"))]
fn main() {}

#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // No path reaches this: the programs neither index nor unwrap.
    loop {}
}

#[cfg(target_arch = "bpf")]
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
