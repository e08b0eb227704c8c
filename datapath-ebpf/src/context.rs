//! One packet in one program, with what the program's stages have found out about it.

use aya_ebpf::programs::TcContext;
use margay_common::{
    endpoint::{Side, Workload},
    net::Addr,
    verdict::Program,
};
use margay_packet::Headers;

use crate::skb::Skb;

/// The packet of this run. Each stage reads what the ones before it have written.
pub struct Context<'a> {
    /// The program.
    pub program: Program,
    /// The packet's bytes and metadata.
    pub packet: Skb<'a>,
    /// Its headers, once they are parsed.
    pub headers: &'a mut Headers,
    /// The container that sends it, once that is proven.
    pub sender: Option<Sender>,
    /// What an ICMP error about it would say.
    pub error: &'a mut ErrorContext,
}

/// Which container a packet counts as.
#[derive(Clone, Copy)]
pub struct Sender {
    /// The container.
    pub workload: &'static Workload,
    /// Its half for the packet's family.
    pub side: &'static Side,
}

/// What an ICMP error about a packet would say, filled in as soon as it is known. Without a
/// source no error can be sent.
pub struct ErrorContext {
    /// The gateway of the network concerned, source of the error.
    pub gateway: Addr,
    /// The MTU that a packet was too big for, bytes.
    pub mtu: u32,
}

/// What the stages find out. It lies in memory whose address is hidden from LLVM
/// ([`Headers::parse`] says why).
pub struct Memory {
    headers: Headers,
    error: ErrorContext,
}

impl Memory {
    /// Nothing yet.
    pub const EMPTY: Self =
        Self { headers: Headers::NONE, error: ErrorContext { gateway: Addr::UNSPECIFIED, mtu: 0 } };
}

impl<'a> Context<'a> {
    /// A packet that no stage has looked at yet.
    #[inline(always)]
    pub fn new(program: Program, ctx: &'a TcContext, memory: &'a mut Memory) -> Self {
        let Memory { headers, error } = memory;
        Self { program, packet: Skb::new(ctx), headers, sender: None, error }
    }
}
