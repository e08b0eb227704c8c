//! From the wire, before the kernel makes a packet of it: what ends in silence
//! ends here, and what only passes through goes on at once.
//!
//! Whatever needs a closer look or an answer passes: `from_network` decides
//! about it as if this program were not there.

use aya_ebpf::programs::XdpContext;
use margay_common::{
    endpoint::{Endpoint, ROUTABLE},
    net::Family,
    route::{Neighbour, Prefix, SUBNET, THIS_NODE},
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

    /// A frame without fragments is all there.
    #[inline(always)]
    fn pull(&self, _: usize) {}
}

impl<'a> Frame<'a> {
    /// Wraps the context of a program.
    #[inline(always)]
    pub fn new(ctx: &'a XdpContext) -> Self {
        Self { ctx }
    }

    /// The uplink.
    #[inline(always)]
    pub fn ifindex(&self) -> u32 {
        // SAFETY: the kernel passes a context that is valid for the whole run
        // and rewrites this access into one of its own structure.
        unsafe { (*self.ctx.ctx).ingress_ifindex }
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
    let Some(family) = family_of(ethernet.kind) else { return Ok(Onward::Pass) };
    if ethernet.dst != node.uplink_mac {
        return Ok(Onward::Pass);
    }
    let l3_len = frame.len().wrapping_sub(ETH_LEN as u32);
    // Whatever its shape.
    if maps::has_guards() && Ip::source(frame, family).is_some_and(|src| maps::is_guarded(&src)) {
        return Err(DropReason::Guarded);
    }
    let ip = match Ip::parse_plain(frame, family, l3_len) {
        Ok(Some(ip)) => ip,
        Ok(None) => return Ok(Onward::Pass),
        Err(reason) => return refuse_if_ours(frame, family, reason),
    };
    let own = match family {
        Family::V4 => &node.v4,
        Family::V6 => &node.v6,
    };
    if ip.dst == *own {
        return Ok(Onward::Pass);
    }
    // With nothing to be said about it to its sender.
    let fits = ip.ttl > 1 && l3_len <= node.uplink_mtu;
    if fits && let Some(way) = maps::known_flow(&ip.src, &ip.dst) {
        return transmit(frame, &ip, way);
    }
    if let Some(endpoint) = maps::endpoint(&ip.dst) {
        return to_endpoint(&ip, endpoint);
    }
    match maps::prefix(&ip.dst) {
        Some(subnet) if subnet.kind == SUBNET => through(frame, &ip, subnet, fits),
        _ => Ok(Onward::Pass),
    }
}

/// The family by the EtherType.
#[inline(always)]
fn family_of(kind: u16) -> Option<Family> {
    match kind {
        IPV4 => Some(Family::V4),
        IPV6 => Some(Family::V6),
        _ => None,
    }
}

/// The family of a frame.
#[inline(always)]
pub fn family(frame: &Frame<'_>) -> Option<Family> {
    family_of(frame.ethernet()?.kind)
}

/// What cannot be read is dropped only if it is for a subnet of ours, as by
/// `from_network`.
#[inline(always)]
fn refuse_if_ours(frame: &Frame<'_>, family: Family, reason: DropReason) -> Result<Onward, DropReason> {
    match Ip::destination(frame, family) {
        Some(dst) if maps::prefix(&dst).is_some_and(|p| p.kind == SUBNET) => Err(reason),
        _ => Ok(Onward::Pass),
    }
}

/// A frame for a container here. Those of its own subnet pay for no look at prefixes.
#[inline(always)]
fn to_endpoint(ip: &Ip, endpoint: &Endpoint) -> Result<Onward, DropReason> {
    if !ip.src.matches(&ip.dst, &endpoint.subnet_mask) {
        admit(maps::prefix(&ip.src), endpoint.flags & ROUTABLE != 0)?;
    }
    Ok(Onward::Pass)
}

/// Ends what comes from outside of the network if nobody would be told of it;
/// `from_network` tells the others.
#[inline(always)]
fn admit(source: Option<&Prefix>, routable: bool) -> Result<(), DropReason> {
    match source {
        Some(source) if source.kind == THIS_NODE => Err(DropReason::SpoofedSource),
        None if !routable => Err(DropReason::Outside),
        _ => Ok(()),
    }
}

/// A frame for a subnet of ours whose endpoint is not here: of a routable network
/// it is sent on to the node that has it, if it fits.
#[inline(always)]
fn through(frame: &Frame<'_>, ip: &Ip, subnet: &Prefix, fits: bool) -> Result<Onward, DropReason> {
    let routable = subnet.flags & ROUTABLE != 0;
    let source = maps::prefix(&ip.src);
    admit(source, routable)?;
    let isolated = source.is_some_and(|s| s.kind == SUBNET && s.network != subnet.network);
    if isolated || !routable || !fits {
        return Ok(Onward::Pass);
    }
    let Some(route) = route::lookup(&ip.dst, &Blocks::of(subnet)) else { return Ok(Onward::Pass) };
    let Some(neighbour) = maps::neighbour(&route.next_hop) else { return Ok(Onward::Pass) };
    maps::remember_flow(&ip.src, &ip.dst, neighbour);
    transmit(frame, ip, neighbour)
}

/// One hop further.
#[inline(always)]
fn transmit(frame: &Frame<'_>, ip: &Ip, way: &Neighbour) -> Result<Onward, DropReason> {
    decrement_ttl(frame, ip)?;
    frame.set_macs(way.mac, way.own).ok_or(DropReason::Malformed)?;
    Ok(Onward::Transmit)
}
