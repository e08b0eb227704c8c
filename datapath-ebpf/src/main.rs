//! Margay's eBPF programs: one entry per hook, and the only place where a
//! decision becomes a verdict.
//!
//! A packet goes through one program on each node that it touches. The program
//! parses it, looks its destination up in the maps, decides, and this file
//! counts the decision and carries it out. The rooms are named for what they
//! do; functions stand in the order in which a packet meets them.

#![cfg_attr(target_arch = "bpf", no_std, no_main)]

#[cfg(target_arch = "bpf")]
mod act;
#[cfg(target_arch = "bpf")]
mod admit;
#[cfg(target_arch = "bpf")]
mod answer;
#[cfg(target_arch = "bpf")]
mod authenticate;
#[cfg(target_arch = "bpf")]
mod context;
#[cfg(target_arch = "bpf")]
mod count;
#[cfg(target_arch = "bpf")]
mod deny;
#[cfg(target_arch = "bpf")]
mod from_host;
#[cfg(target_arch = "bpf")]
mod from_network;
#[cfg(target_arch = "bpf")]
mod from_workload;
#[cfg(target_arch = "bpf")]
mod locate;
#[cfg(target_arch = "bpf")]
mod log;
#[cfg(target_arch = "bpf")]
mod maps;
#[cfg(target_arch = "bpf")]
mod onward;
#[cfg(target_arch = "bpf")]
mod skb;
#[cfg(target_arch = "bpf")]
mod xdp;

#[cfg(target_arch = "bpf")]
mod hooks {
    use core::hint::black_box;

    use aya_ebpf::{
        bindings::xdp_action,
        macros::{classifier, xdp},
        programs::{TcContext, XdpContext},
    };
    use margay_common::verdict::{DropReason, Program, Verdict};

    use crate::{
        act::{self, Forward},
        answer,
        context::{Context, Memory},
        count, from_host, from_network, from_workload, log,
        xdp::{self, Onward, XdpFrame},
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
        let frame = XdpFrame::new(&ctx);
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

    /// Has a program decide about a packet, counts the decision and carries it out.
    #[inline(always)]
    fn run(
        program: Program,
        ctx: &TcContext,
        decide: impl FnOnce(&mut Context<'_>) -> Result<Forward, DropReason>,
    ) -> i32 {
        let mut memory = Memory::EMPTY;
        let mut cx = Context::new(program, ctx, black_box(&mut memory));
        match decide(&mut cx) {
            Ok(decision) => {
                if let Some(verdict) = decision.verdict() {
                    count::verdict(program, &cx.packet, verdict);
                }
                act::carry_out(&cx.packet, &decision)
            }
            Err(reason) => {
                count::drop(program, &cx.packet, reason);
                log::of_packet(&cx.packet, program, reason);
                answer::explain(&cx, reason)
            }
        }
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
