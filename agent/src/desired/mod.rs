//! What the kernel should hold, from what the store and the host say now:
//! pure and memoryless, a fold of one function per entry.

mod endpoints;
mod facts;
pub mod host;
mod prefixes;
mod routes;
mod source;
mod world;

pub use endpoints::keys as endpoint_keys;
pub use facts::{LocalFacts, Uplink, Xdp};
pub use prefixes::key as prefix_key;
pub use routes::key as route_key;
pub use source::{Dirty, Source};
pub use world::{V6Forwarding, World};

use ipnet::IpNet;

use crate::{
    model::snapshot::Snapshot,
    tables::{Entry, Tables},
};

/// Everything that the kernel should hold.
pub fn desired(snapshot: &Snapshot, facts: &LocalFacts) -> Tables {
    let mut tables = Tables::default();
    entries(snapshot, facts).for_each(|entry| tables.put(entry));
    tables
}

/// The same, entry by entry. No two entries have one key.
pub fn entries<'a>(snapshot: &'a Snapshot, facts: &'a LocalFacts) -> impl Iterator<Item = Entry> + 'a {
    let host = host::entries(snapshot, facts).into_iter();
    let blocks = snapshot.claims.iter().map(|((id, cidr), claim)| (*id, *cidr, claim));
    let borrowed = snapshot.borrowed.iter().map(|((id, addr), claim)| (*id, IpNet::from(*addr), claim));
    let routes = blocks.chain(borrowed);
    let routes = routes.filter_map(|(id, cidr, claim)| routes::entry(id, cidr, claim, snapshot, facts));
    let networks = snapshot.networks.values().flat_map(|network| {
        let prefixes = prefixes::subnets(network, snapshot);
        prefixes.chain(host::routes(network, facts))
    });
    let nodes = snapshot.nodes.values().flat_map(|node| prefixes::node(node, snapshot, facts));
    let endpoints = facts.endpoints.values().flat_map(|endpoint| {
        let network = snapshot.networks.get(&endpoint.network);
        network.into_iter().flat_map(|network| endpoints::entries(endpoint, network, snapshot, facts))
    });
    host.chain(routes).chain(networks).chain(nodes).chain(endpoints).chain(world::entries(snapshot, facts))
}

#[cfg(test)]
mod tests;
