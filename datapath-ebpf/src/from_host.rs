//! From the host's stack, which has one route per network and family, to
//! `margay0`.

use margay_common::{
    endpoint::ROUTABLE,
    net::{Addr, Family},
    route::{Prefix, SUBNET},
    verdict::DropReason,
};

use crate::{
    forward::Forward,
    icmp::Blame,
    ip::{Ip, check_size},
    maps, ndp,
    packet::Packet,
    route::{self, Blocks, Hop},
};

/// Decides about a packet that the host sends to a network.
#[inline(always)]
pub fn decide(packet: &Packet<'_>, place: &mut Ip, blame: &mut Blame) -> Result<Forward, DropReason> {
    let family = packet.family().ok_or(DropReason::EtherType)?;
    let ip = Ip::parse(packet, family, place)?;
    if is_multicast(&ip.dst, family) {
        return Err(DropReason::Multicast);
    }
    let welcome = is_own(packet, ip) || packet.is_masqueraded_reply();
    if let Some(endpoint) = maps::endpoint(&ip.dst) {
        if !welcome && endpoint.flags & ROUTABLE == 0 {
            return Err(DropReason::Outside);
        }
        if packet.l3_len() > endpoint.mtu {
            blame.mtu = endpoint.mtu;
            blame.gateway = maps::prefix(&ip.dst).map(|subnet| subnet.via).unwrap_or_default();
            check_size(packet, ip, endpoint.mtu)?;
        }
        return Ok(Forward::out(endpoint));
    }
    match maps::prefix(&ip.dst) {
        Some(subnet) if subnet.kind == SUBNET => to_remote(packet, ip, subnet, welcome, blame),
        _ => Err(DropReason::BadDestination),
    }
}

/// Whether this host made the packet. The proof is a socket. Some replies of the kernel have
/// none (TCP resets, SYN cookies, rejections by a firewall); those come from one of the
/// host's own addresses and are no fragments. A source address alone proves nothing: a
/// neighbour of a router can forge it in IPv6. Nor does a missing ingress interface:
/// `ip6_copy_metadata` drops it when the kernel fragments a forwarded packet.
#[inline(always)]
fn is_own(packet: &Packet<'_>, ip: &Ip) -> bool {
    packet.ingress_ifindex() == 0
        && (packet.has_socket() || !ip.is_fragment() && maps::is_own_address(&ip.src))
}

/// Sends to the node that has the address. The host's stack has already taken
/// one off the TTL of what it forwards.
#[inline(always)]
fn to_remote(
    packet: &Packet<'_>,
    ip: &Ip,
    subnet: &Prefix,
    welcome: bool,
    blame: &mut Blame,
) -> Result<Forward, DropReason> {
    if !welcome && subnet.flags & ROUTABLE == 0 {
        return Err(DropReason::Outside);
    }
    blame.gateway = subnet.via;
    let blocks = Blocks::of(subnet);
    match route::lookup(&ip.dst, &blocks) {
        Some(route) => route::follow(packet, ip, route, Hop::Origin, blame),
        None => Err(DropReason::NoEndpoint),
    }
}

#[inline(always)]
fn is_multicast(addr: &Addr, family: Family) -> bool {
    match family {
        Family::V4 => matches!(addr.v4_word().to_ne_bytes(), [224..=239, ..] | [255, 255, 255, 255]),
        Family::V6 => addr.is_multicast_v6() || ndp::is_link_local(addr),
    }
}
