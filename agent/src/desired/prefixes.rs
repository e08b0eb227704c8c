//! Subnets and nodes.

use std::net::IpAddr;

use ipnet::IpNet;
use margay_common::{
    endpoint::{BORROWED, INTERNAL, ROUTABLE},
    net::Addr,
    route::{NODE, Prefix, SUBNET, THIS_NODE},
};

use super::facts::LocalFacts;
use crate::{
    model::{network::Network, node::Node, snapshot::Snapshot},
    tables::{Entry, PrefixKey},
};

/// The key of a prefix.
pub fn key(cidr: IpNet) -> PrefixKey {
    let addr = Addr::from(cidr.network());
    PrefixKey { len: addr.mapped_len(cidr.prefix_len()), addr }
}

/// The subnets of a network.
pub(super) fn subnets(network: &Network, snapshot: &Snapshot) -> impl Iterator<Item = Entry> {
    let flags = flags(network, snapshot);
    network.subnets.iter().map(move |subnet| {
        let len = subnet.mapped_len();
        let addr = Addr::from(subnet.cidr.network());
        let prefix = Prefix {
            kind: SUBNET,
            network: network.id,
            flags,
            block_len: subnet.mapped_block_len(),
            block_mask: Addr::mask(subnet.mapped_block_len()),
            via: Addr::from(subnet.gateway),
            ..Prefix::default()
        };
        Entry::Prefix(PrefixKey { len, addr }, prefix)
    })
}

/// The options of a network as the programs carry them.
pub(super) fn flags(network: &Network, snapshot: &Snapshot) -> u32 {
    let mut flags = 0;
    flags |= if network.internal { INTERNAL } else { 0 };
    flags |= if network.routable { ROUTABLE } else { 0 };
    flags |= if network.subnets.iter().any(|s| snapshot.has_borrowed(network.id, s)) { BORROWED } else { 0 };
    flags
}

/// The addresses of a node, this one's included.
pub(super) fn node(node: &Node, snapshot: &Snapshot, facts: &LocalFacts) -> Vec<Entry> {
    let this = node.name == facts.node;
    let entry = |addr: &IpAddr| {
        let on_link = !this && facts.is_on_link(*addr);
        let prefix = Prefix {
            kind: if this { THIS_NODE } else { NODE },
            via: if on_link { Addr::from(*addr) } else { Addr::UNSPECIFIED },
            ifindex: facts.uplink.ifindex,
            mtu: facts.uplink.mtu,
            ..Prefix::default()
        };
        Entry::Prefix(PrefixKey { len: 128, addr: Addr::from(*addr) }, prefix)
    };
    // Whatever another says, this node's own address is its own, and a container's no node's.
    let is_its_own =
        |addr: &&IpAddr| this || !(facts.addresses.contains(addr) || snapshot.is_in_subnet(**addr));
    node.addresses.iter().filter(is_its_own).map(entry).collect()
}
