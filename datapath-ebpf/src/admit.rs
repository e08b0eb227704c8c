//! Stage: may what comes from elsewhere enter a network? The rule is one for the uplink, the
//! host and XDP.

use margay_common::{
    endpoint::ROUTABLE,
    net::Addr,
    route::{SUBNET, THIS_NODE},
    verdict::DropReason,
};

use crate::maps;

/// Who sent a packet that comes from outside this node's containers.
#[derive(Clone, Copy)]
pub enum Origin {
    /// A container of a network, by its id.
    Network(u32),
    /// Another node, or this host itself. Replies to a masqueraded flow count as the host's,
    /// since a container opened the flow.
    Node,
    /// The packet came from the wire with this node's own source address.
    ThisNode,
    /// From outside the cluster.
    Outside,
}

impl Origin {
    /// By the source address of a packet from the wire.
    #[inline(always)]
    pub fn of(src: &Addr) -> Self {
        match maps::prefix(src) {
            Some(source) if source.kind == SUBNET => Self::Network(source.network),
            Some(source) if source.kind == THIS_NODE => Self::ThisNode,
            Some(_) => Self::Node,
            None => Self::Outside,
        }
    }
}

/// Whether a sender outside the network may reach it. The cluster's nodes may, and everybody
/// if the network is routable; an endpoint of another network never may. `flags` are the
/// network's.
#[inline(always)]
pub fn admit(origin: Origin, network: u32, flags: u32) -> Result<(), DropReason> {
    match origin {
        Origin::Network(own) if own == network => Ok(()),
        Origin::Network(_) => Err(DropReason::Isolated),
        Origin::ThisNode => Err(DropReason::SpoofedSource),
        Origin::Node => Ok(()),
        Origin::Outside if flags & ROUTABLE != 0 => Ok(()),
        Origin::Outside => Err(DropReason::Outside),
    }
}
