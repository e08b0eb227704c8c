//! What comes in on the uplink.

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

/// Decides about a packet that came in on the uplink. What is not ours passes, whatever its
/// shape.
#[inline(always)]
pub fn decide(cx: &mut Context<'_>) -> Result<Forward, DropReason> {
    let Some(family) = family(cx)? else { return Ok(Forward::Pass) };
    // Also if it came by broadcast; what is another machine's does not enter.
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

/// The family of a packet that may be ours. Priority tags are ignored, as the kernel does; a
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

/// A container's packet to this node goes in by `margay0`, where its reverse route leads, so that
/// reverse-path filtering agrees. The host itself handles packets of other senders.
#[inline(always)]
fn to_this_node(src: &Addr, host_ifindex: u32) -> Forward {
    match maps::prefix(src) {
        Some(source) if source.kind == SUBNET => Forward::Host { ifindex: host_ifindex },
        _ => Forward::Pass,
    }
}

/// Delivers to a local endpoint what may reach it. Who is in its subnet is of its network.
#[inline(always)]
fn to_endpoint(cx: &mut Context<'_>, endpoint: &EndpointEntry) -> Result<Forward, DropReason> {
    let headers = &cx.headers;
    if !headers.src.matches(&headers.dst, &endpoint.subnet_mask) {
        admit(Origin::of(&headers.src), endpoint.network, endpoint.flags)?;
    }
    onward::fits(cx, endpoint)?;
    Ok(Forward::peer(endpoint))
}

/// A packet for a subnet of ours whose endpoint is not here. For a routable network every node
/// is a router; for others nobody has the address.
#[inline(always)]
fn through(cx: &mut Context<'_>, subnet: &Prefix) -> Result<Forward, DropReason> {
    admit(Origin::of(&cx.headers.src), subnet.network, subnet.flags)?;
    cx.error.gateway = subnet.via;
    match Blocks::of(subnet).route(&cx.headers.dst) {
        Some(route) if subnet.flags & ROUTABLE != 0 => onward::by_route(cx, route, Hop::Routed),
        _ => Err(DropReason::NoEndpoint),
    }
}
