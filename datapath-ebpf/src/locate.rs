//! Stage: where is the destination?

use margay_common::{
    endpoint::{BORROWED, EndpointEntry, INTERNAL, ROUTABLE, Side, Workload},
    net::{Addr, Family},
    route::{NODE, Prefix, Route, RouteKey, SUBNET, THIS_NODE},
    verdict::DropReason,
};
use margay_packet::{Frame, Headers, destination, is_link_local};

use crate::{context::Sender, maps};

/// Where a packet of a container goes.
pub enum Way {
    /// To a container here.
    Here(&'static EndpointEntry),
    /// To the node at the end of a route.
    There(&'static Route),
    /// To another node itself.
    Node(&'static Prefix),
    /// To the network's gateway, for which the programs answer.
    Gateway,
    /// Up to the host's stack, by `margay0`.
    Host { ifindex: u32 },
    /// To the world, out of the uplink.
    World { ifindex: u32, mtu: u32 },
}

/// Finds where a container's packet goes. For another node this is one look-up in a hash: the
/// route of the destination's block.
#[inline(always)]
pub fn from_workload(headers: &Headers, sender: &Sender) -> Result<Way, DropReason> {
    let Sender { workload, side } = *sender;
    if !headers.dst.matches(&side.addr, &side.subnet_mask) {
        return beyond(headers, workload);
    }
    // The endpoint comes before its block, which may be another node's.
    if headers.dst == side.gateway {
        return Ok(Way::Gateway);
    }
    if let Some(way) = within(headers, workload, side) {
        return Ok(way);
    }
    if headers.family == Family::V4 && headers.dst.is_last(&side.subnet_mask) {
        return Err(DropReason::Broadcast);
    }
    Err(DropReason::NoEndpoint)
}

/// Finds a destination of the sender's network. A node seldom has more than one block of a
/// network, so the route of a block other than the sender's is looked up first. If single
/// addresses are routed, this node may have borrowed the address, so endpoints come first.
#[inline(always)]
fn within(headers: &Headers, workload: &Workload, side: &Side) -> Option<Way> {
    let borrowed = workload.flags & BORROWED != 0;
    let blocks =
        Blocks { network: workload.network, mask: &side.block_mask, len: side.block_len as u32, borrowed };
    let elsewhere = !borrowed && !headers.dst.matches(&side.addr, &side.block_mask);
    if elsewhere && let Some(route) = blocks.route(&headers.dst) {
        return Some(Way::There(route));
    }
    if let Some(endpoint) = maps::endpoint(&headers.dst)
        && endpoint.network == workload.network
    {
        return Some(Way::Here(endpoint));
    }
    if elsewhere {
        return None;
    }
    blocks.route(&headers.dst).map(Way::There)
}

/// Finds a destination outside the sender's network.
#[inline(always)]
fn beyond(headers: &Headers, workload: &Workload) -> Result<Way, DropReason> {
    check_destination(headers)?;
    let node = maps::node().filter(|node| node.host_ifindex != 0).ok_or(DropReason::Unconfigured)?;
    let host = Way::Host { ifindex: node.host_ifindex };
    if let Some(prefix) = maps::prefix(&headers.dst) {
        return match prefix.kind {
            THIS_NODE => Ok(host),
            NODE => Ok(Way::Node(prefix)),
            SUBNET => Err(DropReason::Isolated),
            _ => Err(DropReason::NoEndpoint),
        };
    }
    if workload.flags & INTERNAL != 0 {
        return Err(DropReason::Internal);
    }
    if workload.flags & ROUTABLE == 0 {
        return Ok(host);
    }
    Ok(Way::World { ifindex: node.uplink_ifindex, mtu: node.uplink_mtu })
}

/// Drops packets to addresses that no router forwards to. Destinations in the sender's subnet
/// need no check: no subnet may overlap such a prefix (`SPECIAL` in the agent's
/// `model/network.rs`, which has to list every prefix of this function).
#[inline(always)]
pub fn check_destination(headers: &Headers) -> Result<(), DropReason> {
    let dst = &headers.dst;
    match headers.family {
        Family::V4 => match dst.v4_word().to_ne_bytes() {
            [255, 255, 255, 255] => Err(DropReason::Broadcast),
            [224..=239, ..] => Err(DropReason::Multicast),
            [0 | 127 | 240..=255, ..] => Err(DropReason::BadDestination),
            _ => Ok(()),
        },
        Family::V6 if dst.is_multicast_v6() => Err(DropReason::Multicast),
        Family::V6 if is_link_local(dst) => Err(DropReason::BadDestination),
        // Unspecified, loopback, IPv4-mapped and IPv4-compatible.
        Family::V6 if dst.0[0] == 0 => Err(DropReason::BadDestination),
        Family::V6 => Ok(()),
    }
}

/// Where the destination of a packet from the wire or the host is.
pub enum Place {
    /// A container here.
    Here(&'static EndpointEntry),
    /// In a subnet of the cluster, but no container here.
    Subnet(&'static Prefix),
    /// Not in the cluster.
    Elsewhere,
}

/// Finds a destination by its address alone. First looks for a local endpoint, since most
/// packets are for one.
#[inline(always)]
pub fn by_address(dst: &Addr) -> Place {
    if let Some(endpoint) = maps::endpoint(dst) {
        return Place::Here(endpoint);
    }
    match maps::prefix(dst) {
        Some(subnet) if subnet.kind == SUBNET => Place::Subnet(subnet),
        _ => Place::Elsewhere,
    }
}

/// Whether a malformed packet is for a subnet of the cluster. Its destination is read at the
/// usual offset, if the packet is long enough.
#[inline(always)]
pub fn is_for_a_subnet<F: Frame>(frame: &F, family: Family) -> bool {
    destination(frame, family).is_some_and(|dst| maps::prefix(&dst).is_some_and(|p| p.kind == SUBNET))
}

/// How the blocks of a subnet are keyed.
pub struct Blocks<'a> {
    /// The network's id.
    network: u32,
    /// Mask of one block.
    mask: &'a Addr,
    /// Length of that mask, of 128 bits.
    len: u32,
    /// Whether single addresses are routed, too.
    borrowed: bool,
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

    /// The route to an address of the subnet that is not on this node.
    #[inline(always)]
    pub fn route(&self, dst: &Addr) -> Option<&'static Route> {
        if self.borrowed
            && let Some(route) = maps::route(&RouteKey::new(self.network, 128, *dst))
        {
            return Some(route);
        }
        maps::route(&RouteKey::new(self.network, self.len, dst.masked(self.mask)))
    }
}
