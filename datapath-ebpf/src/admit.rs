//! Stage: may what comes from elsewhere enter a network? The rule is one for the uplink, the
//! host and XDP.

use margay_common::{
    endpoint::ROUTABLE,
    net::Addr,
    route::{SUBNET, THIS_NODE},
    verdict::DropReason,
};

use crate::maps;

/// Where a packet comes from that no container here has sent.
#[derive(Clone, Copy)]
pub enum Origin {
    /// A container of a network, by its id.
    Network(u32),
    /// Another node, or this host itself. What answers a masqueraded flow counts as the host's:
    /// a container asked for it.
    Node,
    /// It says that it is this node, and comes from the wire.
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

/// Who is not of the network reaches it as a node of the cluster, or if the network is
/// routable. An endpoint of another network never does. `flags` are the network's.
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
