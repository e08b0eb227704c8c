//! From the uplink: is it for one of ours, and may its sender reach it?

use margay_common::{
    endpoint::{Endpoint, ROUTABLE},
    net::Family,
    route::{Prefix, SUBNET, THIS_NODE},
    verdict::DropReason,
};

use crate::{
    forward::Forward,
    icmp::Blame,
    ip::{Ip, check_size},
    maps,
    packet::Packet,
    route::{self, Blocks, Hop},
};

/// Decides about a packet that came in on the uplink. What is not ours passes,
/// whatever its shape. Priority tags are ignored, as the kernel does; a frame of a VLAN
/// belongs to the VLAN's interface and not to this one.
#[inline(always)]
pub fn decide(packet: &Packet<'_>, place: &mut Ip, blame: &mut Blame) -> Result<Forward, DropReason> {
    if packet.had_vlan() {
        packet.strip_priority_tags().map_err(|()| DropReason::Vlan)?;
        if packet.had_vlan() {
            return Ok(Forward::Pass);
        }
    }
    let Some(family) = packet.family() else { return Ok(Forward::Pass) };
    // Whatever its shape, and also if it came by broadcast; what is another
    // machine's does not enter.
    if maps::has_guards()
        && !packet.is_for_another_host()
        && Ip::source(packet, family).is_some_and(|src| maps::is_guarded(&src))
    {
        return Err(DropReason::Guarded);
    }
    if !packet.is_for_this_host() {
        return Ok(Forward::Pass);
    }
    let ip = match Ip::parse(packet, family, place) {
        Ok(ip) => ip,
        Err(reason) => return refuse_if_ours(packet, family, reason),
    };
    if let Some(node) = maps::node().filter(|node| node.host_ifindex != 0) {
        let own = match family {
            Family::V4 => &node.v4,
            Family::V6 => &node.v6,
        };
        if ip.dst == *own {
            return Ok(to_this_node(ip, node.host_ifindex));
        }
    }
    if let Some(endpoint) = maps::endpoint(&ip.dst) {
        return to_endpoint(packet, ip, endpoint, blame);
    }
    match maps::prefix(&ip.dst) {
        Some(subnet) if subnet.kind == SUBNET => through(packet, ip, subnet, blame),
        _ => Ok(Forward::Pass),
    }
}

/// A packet that cannot be parsed is dropped only if it is for an endpoint.
/// Its destination is where it always is, if it has one at all.
#[inline(always)]
fn refuse_if_ours(packet: &Packet<'_>, family: Family, reason: DropReason) -> Result<Forward, DropReason> {
    match Ip::destination(packet, family) {
        Some(dst) if maps::prefix(&dst).is_some_and(|p| p.kind == SUBNET) => Err(reason),
        _ => Ok(Forward::Pass),
    }
}

/// A container's packet to this node goes in by `margay0`, where its reverse
/// route leads, so that reverse-path filtering agrees. Everybody else's is the
/// host's own business.
#[inline(always)]
fn to_this_node(ip: &Ip, host_ifindex: u32) -> Forward {
    match maps::prefix(&ip.src) {
        Some(source) if source.kind == SUBNET => Forward::Host { ifindex: host_ifindex },
        _ => Forward::Pass,
    }
}

/// Delivers to a local endpoint what may reach it.
#[inline(always)]
fn to_endpoint(
    packet: &Packet<'_>,
    ip: &Ip,
    endpoint: &Endpoint,
    blame: &mut Blame,
) -> Result<Forward, DropReason> {
    let routable = endpoint.flags & ROUTABLE != 0;
    if !ip.src.matches(&ip.dst, &endpoint.subnet_mask) {
        admit(maps::prefix(&ip.src), routable)?;
    }
    if packet.l3_len() > endpoint.mtu {
        blame.mtu = endpoint.mtu;
        blame.gateway = maps::prefix(&ip.dst).map(|subnet| subnet.via).unwrap_or_default();
        check_size(packet, ip, endpoint.mtu)?;
    }
    Ok(Forward::peer(endpoint))
}

/// Who is not of the network reaches it as a node of the cluster, or if the
/// network is routable. An endpoint of another network never does.
#[inline(always)]
fn admit(source: Option<&Prefix>, routable: bool) -> Result<(), DropReason> {
    match source {
        Some(source) if source.kind == SUBNET => Err(DropReason::Isolated),
        // This node's own address does not come in from the wire.
        Some(source) if source.kind == THIS_NODE => Err(DropReason::SpoofedSource),
        Some(_) => Ok(()),
        None if routable => Ok(()),
        None => Err(DropReason::Outside),
    }
}

/// A packet for a subnet of ours whose endpoint is not here. For a routable
/// network every node is a router; for others nobody has the address.
#[inline(always)]
fn through(packet: &Packet<'_>, ip: &Ip, subnet: &Prefix, blame: &mut Blame) -> Result<Forward, DropReason> {
    let routable = subnet.flags & ROUTABLE != 0;
    let source = maps::prefix(&ip.src);
    let same_network = source.is_some_and(|s| s.kind == SUBNET && s.network == subnet.network);
    if !same_network {
        admit(source, routable)?;
    }
    blame.gateway = subnet.via;
    let blocks = Blocks::of(subnet);
    match route::lookup(&ip.dst, &blocks) {
        Some(route) if routable => route::follow(packet, ip, route, Hop::Routed, blame),
        _ => Err(DropReason::NoEndpoint),
    }
}
