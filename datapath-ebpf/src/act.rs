//! The last stage: the ways on for a packet, and how each is taken.

use aya_ebpf::bindings::{BPF_F_INGRESS, TC_ACT_SHOT, TC_ACT_UNSPEC};
use margay_common::{
    endpoint::EndpointEntry,
    net::{Addr, GATEWAY_MAC, MacWord},
    verdict::Verdict,
};

use margay_packet::Frame;

use crate::skb::Skb;

/// Where a packet goes that is not dropped.
pub enum Forward {
    /// The packet is not Margay's: it passes unchanged.
    Pass,
    /// Straight into the namespace behind a local container's interface. Only from
    /// the ingress side: the helper drops elsewhere.
    Peer { ifindex: u32, mac: MacWord },
    /// Out of the host side of a local container's interface.
    Out { ifindex: u32, mac: MacWord },
    /// To another node.
    Node { ifindex: u32, next_hop: Addr },
    /// To the world, by the kernel's own routing.
    World { ifindex: u32 },
    /// Up to the host's stack, as if it had come in on `margay0`.
    Host { ifindex: u32 },
    /// A global function has already counted and redirected the packet.
    Finished { action: i32 },
}

impl Forward {
    /// Into the namespace of a local endpoint.
    #[inline(always)]
    pub fn peer(endpoint: &EndpointEntry) -> Self {
        Self::Peer { ifindex: endpoint.ifindex, mac: endpoint.mac }
    }

    /// Out of the host side of a local endpoint.
    #[inline(always)]
    pub fn out(endpoint: &EndpointEntry) -> Self {
        Self::Out { ifindex: endpoint.ifindex, mac: endpoint.mac }
    }

    /// The verdict to count, if it is not counted yet.
    #[inline(always)]
    pub const fn verdict(&self) -> Option<Verdict> {
        Some(match self {
            Self::Pass => Verdict::Passed,
            Self::Peer { .. } | Self::Out { .. } => Verdict::Local,
            Self::Node { .. } => Verdict::Remote,
            Self::World { .. } => Verdict::World,
            Self::Host { .. } => Verdict::Host,
            Self::Finished { .. } => return None,
        })
    }
}

/// Sends a packet on its way.
#[inline(always)]
pub fn carry_out(packet: &Skb<'_>, decision: &Forward) -> i32 {
    match *decision {
        Forward::Pass => TC_ACT_UNSPEC,
        Forward::Finished { action } => action,
        Forward::Peer { ifindex, mac } => {
            packet.adopt();
            readdress(packet, mac, packet.redirect_peer(ifindex))
        }
        Forward::Out { ifindex, mac } => {
            packet.adopt();
            readdress(packet, mac, packet.redirect(ifindex, 0))
        }
        Forward::Node { ifindex, next_hop } => packet.redirect_neigh(ifindex, &next_hop),
        Forward::World { ifindex } => packet.redirect_routed(ifindex),
        Forward::Host { ifindex } => {
            packet.adopt();
            readdress(packet, GATEWAY_MAC.word(), packet.redirect(ifindex, BPF_F_INGRESS.into()))
        }
    }
}

/// Addresses the frame to `mac`, from the gateway.
#[inline(always)]
fn readdress(packet: &Skb<'_>, mac: MacWord, action: i32) -> i32 {
    match packet.set_macs(mac, GATEWAY_MAC.word()) {
        Some(()) => action,
        None => TC_ACT_SHOT,
    }
}
