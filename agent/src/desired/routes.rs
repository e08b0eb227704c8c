//! Blocks and borrowed addresses of other nodes.

use std::net::IpAddr;

use ipnet::IpNet;
use margay_common::{
    net::Addr,
    route::{Route, RouteKey},
};

use super::facts::LocalFacts;
use crate::{
    model::{block::Claim, key::Key, node::Node, snapshot::Snapshot},
    tables::Entry,
};

/// The route to a block or borrowed address, unless it is this node's own or of
/// no network. One whose node cannot be read stays as it is.
pub(super) fn entry(
    network: u32,
    cidr: IpNet,
    claim: &Claim,
    snapshot: &Snapshot,
    facts: &LocalFacts,
) -> Option<Entry> {
    if claim.node == facts.node || !snapshot.networks.contains_key(&network) {
        return None;
    }
    let owner = snapshot.nodes.get(&claim.node);
    if owner.is_none() && snapshot.unreadable.contains_key(&Key::Node(claim.node.clone()).to_string()) {
        return None;
    }
    let next_hop = owner.and_then(|owner| next_hop(owner, cidr.addr(), facts));
    let route = Route::new(next_hop.map(Addr::from).unwrap_or_default());
    Some(Entry::Route(key(network, cidr), route))
}

/// The key of the route to a prefix of a network.
pub fn key(network: u32, cidr: IpNet) -> RouteKey {
    let addr = Addr::from(cidr.network());
    RouteKey::new(network, addr.mapped_len(cidr.prefix_len()), addr)
}

/// The address of a node that packets of a family can be sent to: one of that
/// family on the link. IPv6 also goes by the link-local address where both
/// nodes share a link.
fn next_hop(node: &Node, family: IpAddr, facts: &LocalFacts) -> Option<IpAddr> {
    if family.is_ipv6() && facts.no_ipv6.is_some() {
        return None;
    }
    let mut on_link = node.addresses.iter().copied().filter(|addr| facts.is_on_link(*addr));
    if let Some(addr) = on_link.clone().find(|addr| addr.is_ipv4() == family.is_ipv4()) {
        return Some(addr);
    }
    let shares_link = on_link.next().is_some();
    let link_local = node.link_local.filter(|_| shares_link && family.is_ipv6());
    link_local.map(IpAddr::V6)
}
