//! Packets that a container sends.

use margay_common::{endpoint::NETKIT, net::Family, verdict::DropReason};
use margay_packet::{ARP, IPV4, IPV6, QINQ, VLAN, ndp};

use crate::{
    act::Forward,
    answer, authenticate,
    context::Context,
    locate::{self, Way},
    onward::{self, Hop},
};

/// Decides about a packet that came out of a container.
#[inline(always)]
pub fn decide(cx: &mut Context<'_>) -> Result<Forward, DropReason> {
    let (workload, ethernet) = authenticate::interface(cx)?;
    let family = match ethernet.kind {
        IPV4 => Family::V4,
        IPV6 => Family::V6,
        ARP => return Ok(answer::neighbour(&cx.packet)),
        VLAN | QINQ => return Err(DropReason::Vlan),
        _ => return Err(DropReason::EtherType),
    };
    cx.headers.parse(&cx.packet, family)?;
    if family == Family::V6 && cx.headers.icmp_type(&cx.packet).is_some_and(ndp::is_ndp) {
        return Ok(answer::neighbour(&cx.packet));
    }
    let sender = authenticate::source(cx, workload, &ethernet)?;
    match locate::from_workload(cx.headers, &sender)? {
        // A netkit loses what its program sends by bpf_redirect_peer.
        Way::Here(endpoint) if workload.flags & NETKIT != 0 => Ok(Forward::out(endpoint)),
        Way::Here(endpoint) => Ok(Forward::peer(endpoint)),
        Way::There(route) => onward::by_route(cx, route, Hop::Routed),
        Way::Node(node) => onward::to_node(cx, node),
        Way::Gateway => answer::echo(&cx.packet, cx.headers),
        Way::Host { ifindex } => Ok(Forward::Host { ifindex }),
        Way::World { ifindex, mtu } => onward::to_world(cx, ifindex, mtu),
    }
}
