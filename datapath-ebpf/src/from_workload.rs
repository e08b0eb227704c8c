//! From a container: is it who it claims to be, and where does it want to go?

use margay_common::{
    endpoint::{BORROWED, Endpoint, INTERNAL, NETKIT, ROUTABLE, Side, Workload},
    net::{Addr, Family, GATEWAY_MAC},
    route::{NODE, Route, SUBNET, THIS_NODE},
    verdict::DropReason,
};

use crate::{
    arp, echo,
    forward::Forward,
    icmp::Blame,
    ip::Ip,
    maps, ndp,
    packet::{ARP, Bytes, ETH_LEN, IPV4, IPV6, Packet, QINQ, VLAN},
    route::{self, Blocks, Hop},
};

/// Decides about a packet that came out of a container.
///
/// To another node it costs one look-up in a hash: the destination's block as a
/// route. The container behind the interface has its slot in an array.
#[inline(always)]
pub fn decide(packet: &Packet<'_>, place: &mut Ip, blame: &mut Blame) -> Result<Forward, DropReason> {
    let workload = maps::workload(packet.ifindex()).ok_or(DropReason::UnknownInterface)?;
    packet.pull(ETH_LEN);
    let ethernet = packet.ethernet().ok_or(DropReason::Malformed)?;
    if packet.had_vlan() {
        return Err(DropReason::Vlan);
    }
    if ethernet.src != workload.mac {
        return Err(DropReason::SpoofedMac);
    }
    let by_netkit = workload.flags & NETKIT != 0;
    if by_netkit && packet.protocol() != ethernet.kind {
        return Err(DropReason::EtherType);
    }
    let family = match ethernet.kind {
        IPV4 => Family::V4,
        IPV6 => Family::V6,
        ARP => return arp::decide(packet, workload),
        VLAN | QINQ => return Err(DropReason::Vlan),
        _ => return Err(DropReason::EtherType),
    };
    let ip = Ip::parse(packet, family, place)?;
    if family == Family::V6
        && let Some(kind) = ip.icmp_type(packet)
        && ndp::is_ndp(kind)
    {
        return ndp::decide(packet, workload, ip);
    }
    if ethernet.dst != GATEWAY_MAC.word() {
        check_destination(ip)?;
        return Err(DropReason::OtherHost);
    }
    let (workload, side) = sender(workload, ip)?;
    blame.gateway = side.gateway;
    deliver(packet, ip, workload, side, by_netkit, blame)
}

/// Refuses destinations that no router forwards to. Those within the sender's subnet are not
/// asked about: no subnet is created that overlaps one of these (`SPECIAL` in the agent's
/// `model/network.rs`, which has to have all that is here).
#[inline(always)]
fn check_destination(ip: &Ip) -> Result<(), DropReason> {
    match ip.family {
        Family::V4 => match ip.dst.v4_word().to_ne_bytes() {
            [255, 255, 255, 255] => Err(DropReason::Broadcast),
            [224..=239, ..] => Err(DropReason::Multicast),
            [0 | 127 | 240..=255, ..] => Err(DropReason::BadDestination),
            _ => Ok(()),
        },
        Family::V6 if ip.dst.is_multicast_v6() => Err(DropReason::Multicast),
        Family::V6 if ndp::is_link_local(&ip.dst) => Err(DropReason::BadDestination),
        // Unspecified, loopback, IPv4-mapped and IPv4-compatible.
        Family::V6 if ip.dst.0[0] == 0 => Err(DropReason::BadDestination),
        Family::V6 => Ok(()),
    }
}

/// Whether the container may use an address: its own, or that of another
/// endpoint of the same sandbox.
#[inline(always)]
pub fn may_use(workload: &Workload, side: &Side, addr: &Addr) -> bool {
    side.has(addr) || maps::endpoint(addr).is_some_and(|endpoint| workload.shares_sandbox(endpoint))
}

/// The endpoint that a packet counts as by its source: this one, or another
/// of the same sandbox, since a container on two networks may answer through
/// the other interface.
#[inline(always)]
fn sender(workload: &'static Workload, ip: &Ip) -> Result<(&'static Workload, &'static Side), DropReason> {
    let side = workload.side(ip.family);
    if side.has(&ip.src) {
        return Ok((workload, side));
    }
    if ip.src.is_unspecified() {
        return Err(DropReason::SpoofedSource);
    }
    let other = maps::endpoint(&ip.src).ok_or(DropReason::SpoofedSource)?;
    if !workload.shares_sandbox(other) {
        return Err(DropReason::SpoofedSource);
    }
    let other = maps::workload(other.ifindex).ok_or(DropReason::SpoofedSource)?;
    let side = other.side(ip.family);
    if side.has(&ip.src) { Ok((other, side)) } else { Err(DropReason::SpoofedSource) }
}

/// Finds the way to the destination.
#[inline(always)]
fn deliver(
    packet: &Packet<'_>,
    ip: &Ip,
    workload: &Workload,
    side: &Side,
    by_netkit: bool,
    blame: &mut Blame,
) -> Result<Forward, DropReason> {
    if !ip.dst.matches(&side.addr, &side.subnet_mask) {
        return leave(packet, ip, workload, blame);
    }
    // Before its block, which may be another node's.
    if ip.dst == side.gateway {
        return echo::decide(packet, ip);
    }
    match locate(ip, workload, side) {
        // A netkit loses what its program sends by bpf_redirect_peer.
        Some(Place::Here(endpoint)) if by_netkit => return Ok(Forward::out(endpoint)),
        Some(Place::Here(endpoint)) => return Ok(Forward::peer(endpoint)),
        Some(Place::There(route)) => return route::follow(packet, ip, route, Hop::Routed, blame),
        None => {}
    }
    if ip.family == Family::V4 && ip.dst.is_last(&side.subnet_mask) {
        return Err(DropReason::Broadcast);
    }
    Err(DropReason::NoEndpoint)
}

/// Where a destination of the sender's network lives.
enum Place {
    Here(&'static Endpoint),
    There(&'static Route),
}

/// Finds a destination of the sender's network. A node seldom has more than
/// one block of a network, so another block than the sender's own is looked for
/// elsewhere first; unless single addresses are routed, since a block's route
/// then says nothing of an address that has come here.
#[inline(always)]
fn locate(ip: &Ip, workload: &Workload, side: &Side) -> Option<Place> {
    let borrowed = workload.flags & BORROWED != 0;
    let blocks =
        Blocks { network: workload.network, mask: &side.block_mask, len: side.block_len as u32, borrowed };
    let elsewhere = !borrowed && !ip.dst.matches(&side.addr, &side.block_mask);
    if elsewhere && let Some(route) = route::lookup(&ip.dst, &blocks) {
        return Some(Place::There(route));
    }
    if let Some(endpoint) = maps::endpoint(&ip.dst)
        && endpoint.network == workload.network
    {
        return Some(Place::Here(endpoint));
    }
    if elsewhere {
        return None;
    }
    route::lookup(&ip.dst, &blocks).map(Place::There)
}

/// Finds the way to a destination that is not of the sender's network.
#[inline(always)]
fn leave(
    packet: &Packet<'_>,
    ip: &Ip,
    workload: &Workload,
    blame: &mut Blame,
) -> Result<Forward, DropReason> {
    check_destination(ip)?;
    let node = maps::node().filter(|node| node.host_ifindex != 0).ok_or(DropReason::Unconfigured)?;
    let host = Forward::Host { ifindex: node.host_ifindex };
    if let Some(prefix) = maps::prefix(&ip.dst) {
        return match prefix.kind {
            THIS_NODE => Ok(host),
            NODE => route::to_node(packet, ip, prefix, blame),
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
    route::onwards(packet, ip, Hop::Routed, node.uplink_mtu, blame)?;
    Ok(Forward::World { ifindex: node.uplink_ifindex })
}
