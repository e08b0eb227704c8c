//! From a destination to the way there.

use margay_common::{
    endpoint::BORROWED,
    net::Addr,
    route::{Prefix, Route, RouteKey},
    verdict::DropReason,
};

use crate::{
    forward::Forward,
    icmp::Blame,
    ip::{Ip, check_size, decrement_ttl},
    maps,
    packet::Packet,
};

/// How the blocks of a subnet are keyed.
pub struct Blocks<'a> {
    /// The network's id.
    pub network: u32,
    /// Mask of one block.
    pub mask: &'a Addr,
    /// Length of that mask, of 128 bits.
    pub len: u32,
    /// Whether single addresses are routed, too.
    pub borrowed: bool,
}

impl<'a> Blocks<'a> {
    /// The blocks of a prefix that is a subnet.
    #[inline(always)]
    pub fn of(subnet: &'a Prefix) -> Self {
        Self {
            network: subnet.network,
            mask: &subnet.block_mask,
            len: subnet.block_len,
            borrowed: subnet.flags & BORROWED != 0,
        }
    }
}

/// The route to an address of a subnet that is not on this node.
#[inline(always)]
pub fn lookup(dst: &Addr, blocks: &Blocks<'_>) -> Option<&'static Route> {
    if blocks.borrowed
        && let Some(route) = maps::route(&RouteKey::new(blocks.network, 128, *dst))
    {
        return Some(route);
    }
    maps::route(&RouteKey::new(blocks.network, blocks.len, dst.masked(blocks.mask)))
}

/// Whether the node routes a packet onwards, and so takes one off its TTL, or
/// made it itself.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Hop {
    /// One hop further.
    Routed,
    /// The first.
    Origin,
}

/// Sends a packet to the node at the end of a route.
#[inline(always)]
pub fn follow(
    packet: &Packet<'_>,
    ip: &Ip,
    route: &Route,
    hop: Hop,
    blame: &mut Blame,
) -> Result<Forward, DropReason> {
    if !route.is_reachable() {
        return Err(DropReason::NodeUnreachable);
    }
    // Not whether the host has margay0: containers go on without it.
    let node = maps::node().filter(|node| node.uplink_ifindex != 0).ok_or(DropReason::Unconfigured)?;
    onwards(packet, ip, hop, node.uplink_mtu, blame)?;
    Ok(Forward::Node { ifindex: node.uplink_ifindex, next_hop: route.next_hop })
}

/// Sends a packet to another node itself.
#[inline(always)]
pub fn to_node(
    packet: &Packet<'_>,
    ip: &Ip,
    node: &Prefix,
    blame: &mut Blame,
) -> Result<Forward, DropReason> {
    if node.via.is_unspecified() {
        return Err(DropReason::NodeUnreachable);
    }
    onwards(packet, ip, Hop::Routed, node.mtu, blame)?;
    Ok(Forward::Node { ifindex: node.ifindex, next_hop: node.via })
}

/// What every packet pays that leaves the node: size first, then TTL.
#[inline(always)]
pub fn onwards(
    packet: &Packet<'_>,
    ip: &Ip,
    hop: Hop,
    mtu: u32,
    blame: &mut Blame,
) -> Result<(), DropReason> {
    if hop == Hop::Routed && ip.ttl <= 1 {
        return Err(DropReason::TtlExceeded);
    }
    blame.mtu = mtu;
    check_size(packet, ip, mtu)?;
    match hop {
        Hop::Routed => decrement_ttl(packet, ip),
        Hop::Origin => Ok(()),
    }
}
