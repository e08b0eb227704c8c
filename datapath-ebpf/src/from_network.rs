//! Packets that come in on the uplink.

use margay_common::{
    endpoint::{EndpointEntry, ROUTABLE},
    net::{Addr, Family},
    route::{Prefix, SUBNET},
    verdict::DropReason,
};

use crate::{
    act::Forward,
    admit::{Origin, admit},
    context::Context,
    deny,
    locate::{self, Blocks, Place},
    maps,
    onward::{self, Hop},
};

/// Decides about a packet that came in on the uplink. Packets that are not Margay's pass, even
/// if they are malformed.
#[inline(always)]
pub fn decide(cx: &mut Context<'_>) -> Result<Forward, DropReason> {
    let Some(family) = family(cx)? else { return Ok(Forward::Pass) };
    // The deny list also applies to broadcast. Frames for another machine do not enter the host.
    if !cx.packet.is_for_another_host() {
        deny::check(&cx.packet, family)?;
    }
    if !cx.packet.is_for_this_host() {
        return Ok(Forward::Pass);
    }
    match cx.headers.parse(&cx.packet, family) {
        Err(reason) if locate::is_for_a_subnet(&cx.packet, family) => return Err(reason),
        Err(_) => return Ok(Forward::Pass),
        Ok(()) => {}
    }
    if let Some(node) = maps::node().filter(|node| node.host_ifindex != 0)
        && cx.headers.dst == *node.address(family)
    {
        return Ok(to_this_node(&cx.headers.src, node.host_ifindex));
    }
    match locate::by_address(&cx.headers.dst) {
        Place::Here(endpoint) => to_endpoint(cx, endpoint),
        Place::Subnet(subnet) => through(cx, subnet),
        Place::Elsewhere => Ok(Forward::Pass),
    }
}

/// The family of a packet that may be Margay's. Priority tags are ignored, as in the kernel; a
/// frame of a VLAN belongs to the VLAN's interface and not to this one.
#[inline(always)]
fn family(cx: &Context<'_>) -> Result<Option<Family>, DropReason> {
    if cx.packet.had_vlan() {
        cx.packet.strip_priority_tags().map_err(|()| DropReason::Vlan)?;
        if cx.packet.had_vlan() {
            return Ok(None);
        }
    }
    Ok(cx.packet.family())
}

/// Moves a container's packet to this node into `margay0`. Its reverse route leads there, so
/// reverse-path filtering accepts it. Packets of all others pass to the host unchanged.
#[inline(always)]
fn to_this_node(src: &Addr, host_ifindex: u32) -> Forward {
    match maps::prefix(src) {
        Some(source) if source.kind == SUBNET => Forward::Host { ifindex: host_ifindex },
        _ => Forward::Pass,
    }
}

/// Delivers to a local endpoint if the sender may reach it. A source in the endpoint's subnet
/// belongs to its network.
#[inline(always)]
fn to_endpoint(cx: &mut Context<'_>, endpoint: &EndpointEntry) -> Result<Forward, DropReason> {
    let headers = &cx.headers;
    if !headers.src.matches(&headers.dst, &endpoint.subnet_mask) {
        admit(Origin::of(&headers.src), endpoint.network, endpoint.flags)?;
    }
    onward::fits(cx, endpoint)?;
    Ok(Forward::peer(endpoint))
}

/// A packet for a subnet of the cluster without a local endpoint. Every node routes for a
/// routable network; in other networks the address is unreachable from here.
#[inline(always)]
fn through(cx: &mut Context<'_>, subnet: &Prefix) -> Result<Forward, DropReason> {
    admit(Origin::of(&cx.headers.src), subnet.network, subnet.flags)?;
    cx.error.gateway = subnet.via;
    match Blocks::of(subnet).route(&cx.headers.dst) {
        Some(route) if subnet.flags & ROUTABLE != 0 => onward::by_route(cx, route, Hop::Routed),
        _ => Err(DropReason::NoEndpoint),
    }
}
