//! Packets that the host's stack sends to a network. The stack has one route per network and
//! family, to `margay0`.

use margay_common::{
    endpoint::EndpointEntry,
    net::{Addr, Family},
    route::Prefix,
    verdict::DropReason,
};
use margay_packet::is_link_local;

use crate::{
    act::Forward,
    admit::{Origin, admit},
    authenticate,
    context::Context,
    locate::{self, Blocks, Place},
    onward::{self, Hop},
};

/// Decides about a packet that the host sends to a network.
#[inline(always)]
pub fn decide(cx: &mut Context<'_>) -> Result<Forward, DropReason> {
    let family = cx.packet.family().ok_or(DropReason::EtherType)?;
    cx.headers.parse(&cx.packet, family)?;
    if is_multicast(&cx.headers.dst, family) {
        return Err(DropReason::Multicast);
    }
    let origin = if authenticate::is_hosts_own(cx) || cx.packet.is_masqueraded_reply() {
        Origin::Node
    } else {
        Origin::Outside
    };
    match locate::by_address(&cx.headers.dst) {
        Place::Here(endpoint) => to_endpoint(cx, origin, endpoint),
        Place::Subnet(subnet) => to_remote(cx, origin, subnet),
        Place::Elsewhere => Err(DropReason::BadDestination),
    }
}

#[inline(always)]
fn to_endpoint(
    cx: &mut Context<'_>,
    origin: Origin,
    endpoint: &EndpointEntry,
) -> Result<Forward, DropReason> {
    admit(origin, endpoint.network, endpoint.flags)?;
    onward::fits(cx, endpoint)?;
    Ok(Forward::out(endpoint))
}

/// Sends to the node that has the address. The host's stack has already decremented the TTL
/// of packets that it forwards.
#[inline(always)]
fn to_remote(cx: &mut Context<'_>, origin: Origin, subnet: &Prefix) -> Result<Forward, DropReason> {
    admit(origin, subnet.network, subnet.flags)?;
    cx.error.gateway = subnet.via;
    let route = Blocks::of(subnet).route(&cx.headers.dst).ok_or(DropReason::NoEndpoint)?;
    onward::by_route(cx, route, Hop::Origin)
}

#[inline(always)]
fn is_multicast(addr: &Addr, family: Family) -> bool {
    match family {
        Family::V4 => matches!(addr.v4_word().to_ne_bytes(), [224..=239, ..] | [255, 255, 255, 255]),
        Family::V6 => addr.is_multicast_v6() || is_link_local(addr),
    }
}
