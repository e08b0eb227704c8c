//! Creating and removing networks and their pools: the use case that every
//! front end shares.

pub mod pool;

use std::{net::IpAddr, sync::Arc};

use anyhow::{Context, Result, bail};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::{
    model::{
        self, Unknown,
        block::Allocations,
        key::{Key, ROOT, ipam_of, routes_of},
        network::{Network, NetworkRequest},
        snapshot::{Event, Snapshot},
    },
    store::{Commit, Condition, Op, Store, Txn},
};

/// Attempts before a race is given up as lost.
const ATTEMPTS: usize = 16;
/// The greatest network id: 24 bits, as a VXLAN header carries it.
const ID_MAX: u32 = (1 << 24) - 1;

/// The value of the guard's key.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Guard {
    /// The id of the next network.
    next_network: u32,
    /// Fields of a newer agent.
    #[serde(flatten)]
    unknown: Unknown,
}

/// What creating and removing rests on.
struct Reading {
    snapshot: Snapshot,
    guard: Guard,
    /// That nobody else created or removed anything since.
    unchanged: Condition,
}

/// The networks of the cluster.
#[derive(Clone, Debug)]
pub struct Networks {
    store: Arc<dyn Store>,
}

impl Networks {
    /// The networks in a store.
    pub fn new(store: Arc<dyn Store>) -> Self {
        Self { store }
    }

    /// Creates a network, or finds the same one. Gives the revision at which
    /// it is in the store.
    pub async fn create(&self, request: NetworkRequest) -> Result<(Network, i64)> {
        for _ in 0..ATTEMPTS {
            let Reading { snapshot, guard, unchanged } = self.read().await?;
            let mut request = request.clone();
            if let Some(found) = snapshot.network(&request.name) {
                let revision = snapshot.network_revisions.get(&found.id).copied().unwrap_or_default();
                if request.subnets.is_empty() {
                    request.subnets = found.subnets.iter().map(|subnet| subnet.cidr).collect();
                }
                let wanted = request.into_network(found.id)?;
                return same(found, &wanted).map(|found| (found, revision));
            }
            if request.subnets.is_empty() {
                request.subnets = pool::take(&snapshot, request.ipv6)?;
            }
            let next = guard.next_network;
            let network = request.into_network(next)?;
            check_overlap(&network, &snapshot)?;
            if next > ID_MAX {
                bail!("all {ID_MAX} network ids are used up; ids are never given twice");
            }
            let guard = Guard { next_network: next + 1, ..guard };
            let txn = Txn {
                conditions: vec![unchanged, Condition::Absent(Key::Network(next))],
                ops: vec![
                    Op::Put(Key::Guard, model::encode(&guard)),
                    Op::Put(Key::Network(next), model::encode(&network)),
                ],
            };
            if let Commit::Done(revision) = self.store.commit(txn).await? {
                return Ok((network, revision));
            }
        }
        bail!("others create and remove networks at every attempt; try again");
    }

    /// Puts a network back that the store lost, unless another has its id.
    pub async fn put_back(&self, network: &Network) -> Result<()> {
        for _ in 0..ATTEMPTS {
            let Reading { snapshot, mut guard, unchanged } = self.read().await?;
            if snapshot.networks.contains_key(&network.id) {
                return Ok(());
            }
            guard.next_network = guard.next_network.max(network.id + 1);
            let txn = Txn {
                conditions: vec![unchanged, Condition::Absent(Key::Network(network.id))],
                ops: vec![
                    Op::Put(Key::Guard, model::encode(&guard)),
                    Op::Put(Key::Network(network.id), model::encode(network)),
                ],
            };
            if let Commit::Done(_) = self.store.commit(txn).await? {
                return Ok(());
            }
        }
        bail!("others create and remove networks at every attempt");
    }

    /// Removes a network that has no endpoints anywhere.
    pub async fn remove(&self, name: &str) -> Result<i64> {
        for _ in 0..ATTEMPTS {
            let Reading { snapshot, guard, unchanged } = self.read().await?;
            let Some(network) = snapshot.network(name) else { bail!("there is no network {name}") };
            let ipam = self.store.list(&[ipam_of(network.id)]).await?;
            let holders = holders(&ipam.entries);
            if !holders.is_empty() {
                bail!("network {name} has endpoints: {}", holders.join(", "));
            }
            let seen = snapshot.network_revisions.get(&network.id).copied().unwrap_or_default();
            let txn = Txn {
                conditions: vec![
                    unchanged,
                    Condition::Revision(Key::Network(network.id), seen),
                    Condition::UnchangedSince(ipam_of(network.id), ipam.revision),
                ],
                ops: vec![
                    Op::Put(Key::Guard, model::encode(&guard)),
                    Op::DeletePrefix(ipam_of(network.id)),
                    Op::DeletePrefix(routes_of(network.id)),
                    Op::Delete(Key::Network(network.id)),
                ],
            };
            if let Commit::Done(revision) = self.store.commit(txn).await? {
                return Ok(revision);
            }
        }
        bail!("others use network {name} at every attempt; try again");
    }

    /// The revision of the network of that name, if the store has it.
    pub async fn find(&self, name: &str) -> Result<Option<i64>> {
        let Reading { snapshot, .. } = self.read().await?;
        Ok(snapshot.network(name).and_then(|network| snapshot.network_revisions.get(&network.id).copied()))
    }

    /// Networks, nodes, pools and the guard at one revision.
    async fn read(&self) -> Result<Reading> {
        let mut prefixes: Vec<String> =
            ["networks/", "nodes/", "pools/"].map(|p| format!("{ROOT}{p}")).into();
        prefixes.push(Key::Guard.to_string());
        let listing = self.store.list(&prefixes).await?;
        let mut snapshot = Snapshot::default();
        snapshot.replace(&listing.entries);
        if let Some((key, reason)) = snapshot.unreadable.first_key_value() {
            bail!("{key} {reason}; until that is mended no network can be created or removed");
        }
        let guard = match listing.value_of(&Key::Guard) {
            Some(value) => model::decode(value).with_context(|| Key::Guard.to_string())?,
            None => Guard { next_network: 1, unknown: Unknown::new() },
        };
        Ok(Reading { snapshot, guard, unchanged: listing.unchanged(&Key::Guard) })
    }
}

/// The same request twice is fine; another under the same name is not.
fn same(found: &Network, wanted: &Network) -> Result<Network> {
    if found.same_options(wanted) {
        return Ok(found.clone());
    }
    let plain = |network: &Network| {
        let subnets: Vec<String> = network
            .subnets
            .iter()
            .map(|s| format!("{} gateway {} blocks of /{}", s.cidr, s.gateway, s.block_len))
            .collect();
        let mtu = network.mtu.map(|mtu| format!(", mtu {mtu}")).unwrap_or_default();
        let internal = if network.internal { ", internal" } else { "" };
        let routable = if network.routable { ", routable" } else { "" };
        format!("{}{mtu}{internal}{routable}", subnets.join(" and "))
    };
    bail!("network {} exists with other options: it has {}, not {}", found.name, plain(found), plain(wanted));
}

fn check_overlap(network: &Network, snapshot: &Snapshot) -> Result<()> {
    for subnet in &network.subnets {
        let cidr = subnet.cidr;
        for other in snapshot.networks.values() {
            if let Some(theirs) = other.subnets.iter().find(|theirs| overlap(theirs.cidr, cidr)) {
                bail!("subnet {cidr} overlaps {} of network {}", theirs.cidr, other.name);
            }
        }
        for node in snapshot.nodes.values() {
            if let Some(addr) = node.addresses.iter().find(|addr: &&IpAddr| cidr.contains(*addr)) {
                bail!("subnet {cidr} contains {addr}, the address of node {}", node.name);
            }
        }
    }
    Ok(())
}

pub(super) fn overlap(a: IpNet, b: IpNet) -> bool {
    a.contains(&b) || b.contains(&a)
}

/// Who has endpoints in a network: "2 on node h1 (web, db)".
fn holders(entries: &[Event]) -> Vec<String> {
    let mut by_node = std::collections::BTreeMap::<String, std::collections::BTreeSet<String>>::new();
    for entry in entries {
        let Event::Put { key, value, .. } = entry else { continue };
        match model::decode::<Allocations>(value) {
            Ok(allocations) => {
                let names = allocations.addresses.into_values();
                let names = names.map(|holder| holder.name.unwrap_or(holder.endpoint));
                let mut names = names.peekable();
                if names.peek().is_some() {
                    by_node.entry(allocations.node).or_default().extend(names);
                }
            }
            Err(error) => drop(by_node.entry(format!("? ({key} {error})")).or_default().insert("?".into())),
        }
    }
    let line = |(node, names): (String, std::collections::BTreeSet<String>)| {
        let list: Vec<String> = names.iter().take(5).cloned().collect();
        let more = if names.len() > 5 { ", ..." } else { "" };
        format!("{} on node {node} ({}{more})", names.len(), list.join(", "))
    };
    by_node.into_iter().map(line).collect()
}

#[cfg(test)]
mod tests;
