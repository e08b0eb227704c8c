//! From the wire, before the kernel makes a packet of it: what ends in silence
//! ends here, and what only passes through goes on at once.
//!
//! Whatever needs a closer look or an answer passes: `from_network` decides
//! about it as if this program were not there.

use aya_ebpf::programs::XdpContext;
use margay_common::{
    endpoint::ROUTABLE,
    net::Family,
    route::{Node, Prefix, SUBNET, THIS_NODE},
    verdict::DropReason,
};

use crate::{
    ip::{Ip, decrement_ttl},
    maps,
    packet::{Bytes, ETH_LEN, IPV4, IPV6},
    route::{self, Blocks},
};

/// A frame as the driver hands it over.
pub struct Frame<'a> {
    ctx: &'a XdpContext,
}

/// What becomes of a frame that is not dropped.
pub enum Onward {
    /// The kernel makes a packet of it.
    Pass,
    /// Back out of the uplink, to another node.
    Transmit,
}

impl Bytes for Frame<'_> {
    #[inline(always)]
    fn start(&self) -> usize {
        self.ctx.data()
    }

    #[inline(always)]
    fn end(&self) -> usize {
        self.ctx.data_end()
    }
}

impl<'a> Frame<'a> {
    /// Wraps the context of a program.
    #[inline(always)]
    pub fn new(ctx: &'a XdpContext) -> Self {
        Self { ctx }
    }

    /// Length of the frame with its link header.
    #[inline(always)]
    pub fn len(&self) -> u32 {
        (self.end() - self.start()) as u32
    }
}

/// Decides about a frame that came in on the uplink.
#[inline(always)]
pub fn decide(frame: &Frame<'_>) -> Result<Onward, DropReason> {
    let (Some(ethernet), Some(node)) = (frame.ethernet(), maps::node()) else { return Ok(Onward::Pass) };
    let family = match ethernet.kind {
        IPV4 => Family::V4,
        IPV6 => Family::V6,
        _ => return Ok(Onward::Pass),
    };
    if ethernet.dst != node.uplink_mac {
        return Ok(Onward::Pass);
    }
    let l3_len = frame.len().wrapping_sub(ETH_LEN as u32);
    let Some(ip) = Ip::parse_plain(frame, family, l3_len) else { return Ok(Onward::Pass) };
    if maps::has_guards() && maps::is_guarded(&ip.src) {
        return Err(DropReason::Guarded);
    }
    match maps::prefix(&ip.dst) {
        Some(subnet) if subnet.kind == SUBNET => to_subnet(frame, &ip, subnet, node, l3_len),
        _ => Ok(Onward::Pass),
    }
}

/// A frame for an address of ours. Who may not send it ends here if he would
/// not be told; `from_network` tells the others.
#[inline(always)]
fn to_subnet(
    frame: &Frame<'_>,
    ip: &Ip,
    subnet: &Prefix,
    node: &Node,
    l3_len: u32,
) -> Result<Onward, DropReason> {
    let routable = subnet.flags & ROUTABLE != 0;
    match maps::prefix(&ip.src) {
        Some(source) if source.kind == SUBNET => {
            if source.network != subnet.network {
                return Ok(Onward::Pass);
            }
            // A container of this very node does not send from elsewhere.
            if maps::endpoint(&ip.src).is_some() {
                return Err(DropReason::SpoofedSource);
            }
        }
        Some(source) if source.kind == THIS_NODE => return Err(DropReason::SpoofedSource),
        None if !routable => return Err(DropReason::Outside),
        _ => {}
    }
    if !routable {
        return Ok(Onward::Pass);
    }
    through(frame, ip, subnet, node, l3_len)
}

/// Sends a frame on to the node that has the endpoint, if there is nothing to be
/// said about it.
#[inline(always)]
fn through(
    frame: &Frame<'_>,
    ip: &Ip,
    subnet: &Prefix,
    node: &Node,
    l3_len: u32,
) -> Result<Onward, DropReason> {
    let blocks = Blocks::of(subnet);
    // Only where single addresses move has a block's route nothing to say of
    // those that are here.
    if blocks.borrowed && maps::endpoint(&ip.dst).is_some() {
        return Ok(Onward::Pass);
    }
    let Some(route) = route::lookup(&ip.dst, &blocks) else { return Ok(Onward::Pass) };
    if ip.ttl <= 1 || l3_len > node.uplink_mtu {
        return Ok(Onward::Pass);
    }
    let Some(neighbour) = maps::neighbour(&route.next_hop) else { return Ok(Onward::Pass) };
    decrement_ttl(frame, ip)?;
    frame.set_macs(neighbour.mac, neighbour.own).ok_or(DropReason::Malformed)?;
    Ok(Onward::Transmit)
}
