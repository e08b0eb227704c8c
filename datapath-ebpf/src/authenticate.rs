//! Stage: is the sender who it claims to be?

use margay_common::{
    endpoint::{NETKIT, Side, Workload},
    net::{Addr, GATEWAY_MAC},
    verdict::DropReason,
};
use margay_packet::{ETH_LEN, Frame, Link};

use crate::{
    context::{Context, Sender},
    locate, maps,
};

/// The container behind the interface, and the frame's Ethernet header.
///
/// # Errors
///
/// The interface has no container, or the frame has a foreign MAC, a VLAN tag, or another
/// EtherType than the kernel handles it by.
#[inline(always)]
pub fn interface(cx: &Context<'_>) -> Result<(&'static Workload, Link), DropReason> {
    let packet = &cx.packet;
    let workload = maps::workload(packet.ifindex()).ok_or(DropReason::UnknownInterface)?;
    packet.pull(ETH_LEN);
    let ethernet = packet.ethernet().ok_or(DropReason::Malformed)?;
    if packet.had_vlan() {
        return Err(DropReason::Vlan);
    }
    if ethernet.src != workload.mac {
        return Err(DropReason::SpoofedMac);
    }
    if workload.flags & NETKIT != 0 && packet.protocol() != ethernet.kind {
        return Err(DropReason::EtherType);
    }
    Ok((workload, ethernet))
}

/// Finds the endpoint to which the source address belongs: the one behind the interface, or
/// another of the same sandbox, since a container on two networks may answer through the other
/// interface.
///
/// # Errors
///
/// The source address is not the container's, or the frame is not addressed to the gateway.
#[inline(always)]
pub fn source(
    cx: &mut Context<'_>,
    workload: &'static Workload,
    ethernet: &Link,
) -> Result<Sender, DropReason> {
    if ethernet.dst != GATEWAY_MAC.word() {
        locate::check_destination(cx.headers)?;
        return Err(DropReason::OtherHost);
    }
    let sender = sender(cx, workload)?;
    cx.error.gateway = sender.side.gateway;
    Ok(*cx.sender.insert(sender))
}

#[inline(always)]
fn sender(cx: &Context<'_>, workload: &'static Workload) -> Result<Sender, DropReason> {
    let headers = &cx.headers;
    let side = workload.side(headers.family);
    if side.has(&headers.src) {
        return Ok(Sender { workload, side });
    }
    if headers.src.is_unspecified() {
        return Err(DropReason::SpoofedSource);
    }
    let other = maps::endpoint(&headers.src).ok_or(DropReason::SpoofedSource)?;
    if !workload.shares_sandbox(other) {
        return Err(DropReason::SpoofedSource);
    }
    let workload = maps::workload(other.ifindex).ok_or(DropReason::SpoofedSource)?;
    let side = workload.side(headers.family);
    if side.has(&headers.src) { Ok(Sender { workload, side }) } else { Err(DropReason::SpoofedSource) }
}

/// Whether the container may use an address: its own, or that of another endpoint of the same
/// sandbox.
#[inline(always)]
pub fn may_use(workload: &Workload, side: &Side, addr: &Addr) -> bool {
    side.has(addr) || maps::endpoint(addr).is_some_and(|endpoint| workload.shares_sandbox(endpoint))
}

/// Whether this host made the packet. The proof is a socket. Some replies of the kernel have
/// none (TCP resets, SYN cookies, rejections by a firewall); those come from one of the
/// host's own addresses and are no fragments. A source address alone proves nothing: a
/// neighbour of a router can forge it in IPv6. Nor does a missing ingress interface:
/// `ip6_copy_metadata` drops it when the kernel fragments a forwarded packet.
#[inline(always)]
pub fn is_hosts_own(cx: &Context<'_>) -> bool {
    let (packet, headers) = (&cx.packet, &cx.headers);
    packet.ingress_ifindex() == 0
        && (packet.has_socket() || !headers.is_fragment() && maps::is_own_address(&headers.src))
}
