//! Frames from the wire, before the kernel makes packets of them. This program drops frames
//! that get no ICMP error, and forwards transit frames at once.
//!
//! All frames that need further checks or a reply pass: `from_network` decides about them as
//! if this program did not exist.

use aya_ebpf::programs::XdpContext;
use margay_common::{
    endpoint::{EndpointEntry, ROUTABLE},
    icmp::error_for,
    net::Family,
    route::{Neighbour, Prefix},
    verdict::DropReason,
};
use margay_packet::{Frame, Headers, IPV4, IPV6, decrement_ttl};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::{
    admit::{Origin, admit},
    deny,
    locate::{self, Blocks, Place},
    maps,
    skb::view,
};

/// A frame as the driver hands it over.
pub struct XdpFrame<'a> {
    ctx: &'a XdpContext,
}

/// Where a frame goes that is not dropped.
pub enum Onward {
    /// The kernel makes a packet of it.
    Pass,
    /// Back out of the uplink, to another node.
    Transmit,
}

impl Frame for XdpFrame<'_> {
    #[inline(always)]
    fn len(&self) -> u32 {
        (self.ctx.data_end() - self.ctx.data()) as u32
    }

    /// A frame without fragments is all there.
    #[inline(always)]
    fn pull(&self, _: usize) {}

    #[inline(always)]
    fn get<T: FromBytes>(&self, offset: usize) -> Option<T> {
        // SAFETY: `view` compared the end with the frame's, and every bit pattern is a `T`.
        view(self.ctx.data(), self.ctx.data_end(), offset).map(|p: *mut T| unsafe { p.read_unaligned() })
    }

    #[inline(always)]
    fn set<T: IntoBytes + Immutable>(&self, offset: usize, value: T) -> Option<()> {
        // SAFETY: as in `get`; no reference to the bytes lives, since `get` copies.
        view(self.ctx.data(), self.ctx.data_end(), offset)
            .map(|p: *mut T| unsafe { p.write_unaligned(value) })
    }
}

impl<'a> XdpFrame<'a> {
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
}

/// Decides about a frame that came in on the uplink.
#[inline(always)]
pub fn decide(frame: &XdpFrame<'_>) -> Result<Onward, DropReason> {
    let (Some(ethernet), Some(node)) = (frame.ethernet(), maps::node()) else { return Ok(Onward::Pass) };
    let Some(family) = family_of(ethernet.kind) else { return Ok(Onward::Pass) };
    if ethernet.dst != node.uplink_mac {
        return Ok(Onward::Pass);
    }
    deny::check(frame, family)?;
    let headers = match Headers::parse_plain(frame, family) {
        Ok(Some(headers)) => headers,
        Ok(None) => return Ok(Onward::Pass),
        Err(reason) if locate::is_for_a_subnet(frame, family) => return Err(reason),
        Err(_) => return Ok(Onward::Pass),
    };
    if headers.dst == *node.address(family) {
        return Ok(Onward::Pass);
    }
    // Its sender gets no error.
    let fits = headers.ttl > 1 && frame.l3_len() <= node.uplink_mtu;
    if fits && let Some(way) = maps::known_flow(&headers.src, &headers.dst) {
        return transmit(frame, &headers, way);
    }
    match locate::by_address(&headers.dst) {
        Place::Here(endpoint) => to_endpoint(&headers, endpoint),
        Place::Subnet(subnet) => through(frame, &headers, subnet, fits),
        Place::Elsewhere => Ok(Onward::Pass),
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
pub fn family(frame: &XdpFrame<'_>) -> Option<Family> {
    family_of(frame.ethernet()?.kind)
}

/// A frame for a container here. A source in the container's subnet needs no prefix look-up.
#[inline(always)]
fn to_endpoint(headers: &Headers, endpoint: &EndpointEntry) -> Result<Onward, DropReason> {
    if !headers.src.matches(&headers.dst, &endpoint.subnet_mask) {
        enters(headers, endpoint.network, endpoint.flags)?;
    }
    Ok(Onward::Pass)
}

/// Whether a frame enters a network. Drops frames that would get no ICMP error; `from_network`
/// decides about the others.
#[inline(always)]
fn enters(headers: &Headers, network: u32, flags: u32) -> Result<bool, DropReason> {
    match admit(Origin::of(&headers.src), network, flags) {
        Ok(()) => Ok(true),
        Err(reason) if error_for(reason, headers.family).is_none() => Err(reason),
        Err(_) => Ok(false),
    }
}

/// A frame for a subnet of the cluster without a local endpoint. If the network is routable
/// and the frame fits, it is sent to the node that has the address.
#[inline(always)]
fn through(
    frame: &XdpFrame<'_>,
    headers: &Headers,
    subnet: &Prefix,
    fits: bool,
) -> Result<Onward, DropReason> {
    if !enters(headers, subnet.network, subnet.flags)? || subnet.flags & ROUTABLE == 0 || !fits {
        return Ok(Onward::Pass);
    }
    let Some(route) = Blocks::of(subnet).route(&headers.dst) else { return Ok(Onward::Pass) };
    let Some(neighbour) = maps::neighbour(&route.next_hop) else { return Ok(Onward::Pass) };
    maps::remember_flow(&headers.src, &headers.dst, neighbour);
    transmit(frame, headers, neighbour)
}

/// Sends the frame to the next hop.
#[inline(always)]
fn transmit(frame: &XdpFrame<'_>, headers: &Headers, way: &Neighbour) -> Result<Onward, DropReason> {
    decrement_ttl(frame, headers)?;
    frame.set_macs(way.mac, way.own).ok_or(DropReason::Malformed)?;
    Ok(Onward::Transmit)
}
