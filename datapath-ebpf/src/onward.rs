//! Stage: size and TTL of packets that go on to a next hop or to a container here.

use margay_common::{
    endpoint::EndpointEntry,
    route::{Prefix, Route},
    verdict::DropReason,
};
use margay_packet::{Frame, check_size, decrement_ttl};

use crate::{act::Forward, context::Context, maps};

/// Whether the node forwards a packet, and so decrements its TTL, or made it itself.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Hop {
    /// The node forwards it.
    Routed,
    /// The node made it.
    Origin,
}

/// To the node at the end of a route.
#[inline(always)]
pub fn by_route(cx: &mut Context<'_>, route: &Route, hop: Hop) -> Result<Forward, DropReason> {
    if !route.is_reachable() {
        return Err(DropReason::NodeUnreachable);
    }
    // margay0 may be missing: containers still reach each other without it.
    let node = maps::node().filter(|node| node.uplink_ifindex != 0).ok_or(DropReason::Unconfigured)?;
    pay(cx, hop, node.uplink_mtu)?;
    Ok(Forward::Node { ifindex: node.uplink_ifindex, next_hop: route.next_hop })
}

/// To another node itself.
#[inline(always)]
pub fn to_node(cx: &mut Context<'_>, node: &Prefix) -> Result<Forward, DropReason> {
    if node.via.is_unspecified() {
        return Err(DropReason::NodeUnreachable);
    }
    pay(cx, Hop::Routed, node.mtu)?;
    Ok(Forward::Node { ifindex: node.ifindex, next_hop: node.via })
}

/// To the world, out of the uplink.
#[inline(always)]
pub fn to_world(cx: &mut Context<'_>, ifindex: u32, mtu: u32) -> Result<Forward, DropReason> {
    pay(cx, Hop::Routed, mtu)?;
    Ok(Forward::World { ifindex })
}

/// Checks TTL and size of a packet that leaves the node, then decrements the TTL.
#[inline(always)]
fn pay(cx: &mut Context<'_>, hop: Hop, mtu: u32) -> Result<(), DropReason> {
    if hop == Hop::Routed && cx.headers.ttl <= 1 {
        return Err(DropReason::TtlExceeded);
    }
    cx.error.mtu = mtu;
    check_size(&cx.packet, cx.headers, mtu)?;
    match hop {
        Hop::Routed => decrement_ttl(&cx.packet, cx.headers),
        Hop::Origin => Ok(()),
    }
}

/// Whether a container here takes a packet of this size. If it does not, the network's gateway
/// is looked up for the error.
#[inline(always)]
pub fn fits(cx: &mut Context<'_>, endpoint: &EndpointEntry) -> Result<(), DropReason> {
    if cx.packet.l3_len() <= endpoint.mtu {
        return Ok(());
    }
    cx.error.mtu = endpoint.mtu;
    cx.error.gateway = maps::prefix(&cx.headers.dst).map(|subnet| subnet.via).unwrap_or_default();
    check_size(&cx.packet, cx.headers, endpoint.mtu)
}
