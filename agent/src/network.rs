//! Creating and removing networks and their pools: the use case that every
//! front end shares.

mod deny;
pub mod pool;
mod runtime;

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use anyhow::{Context, Result, bail};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

pub use runtime::Naming;

use crate::{
    model::{
        self, Unknown,
        block::Allocations,
        check::Value,
        key::{Key, ROOT, ipam_of, routes_of},
        network::{Network, NetworkRequest, overlap},
        snapshot::{Event, Snapshot},
    },
    problem::{Problem, Rejection},
    store::{Commit, Condition, Op, Store, Txn},
};
use runtime::Reservation;

/// Attempts before a race is given up as lost.
const ATTEMPTS: usize = 16;
/// The greatest network id: 24 bits, as a VXLAN header carries it.
const ID_MAX: u32 = margay_common::route::NETWORK_MAX;

/// The value of the sequence's key.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Sequence {
    /// The id of the next network.
    next_network: u32,
    /// Fields of a newer agent.
    #[serde(flatten)]
    unknown: Unknown,
}

/// What creating and removing rests on.
struct Reading {
    snapshot: Snapshot,
    /// Subnets that are kept for networks to come.
    reserved: BTreeMap<IpNet, Reservation>,
    sequence: Sequence,
    /// That nobody else created or removed anything since.
    unchanged: Condition,
    /// That no node came or changed since.
    same_nodes: Condition,
}

impl Value for Sequence {
    fn check(&self, _: &Key) -> Result<(), String> {
        match self.next_network {
            0 => Err("says that the next network is 0".into()),
            next if next > ID_MAX + 1 => Err(format!("says that the next network is {next}")),
            _ => Ok(()),
        }
    }
}

impl Reading {
    fn revision_of(&self, network: u32) -> i64 {
        self.snapshot.network_revisions.get(&network).copied().unwrap_or_default()
    }
}

/// The networks of the cluster.
#[derive(Clone, Debug)]
pub struct Networks {
    store: Arc<dyn Store>,
    /// Options of the runtime in which networks are compared.
    compared: &'static [&'static str],
}

impl Networks {
    /// The networks in a store. `compared` names options of the runtime: networks that differ
    /// in one of them are not the same.
    pub fn new(store: Arc<dyn Store>, compared: &'static [&'static str]) -> Self {
        Self { store, compared }
    }

    /// Whether two networks behave the same.
    pub fn same_options(&self, one: &Network, other: &Network) -> bool {
        one.same_options(other, self.compared)
    }

    /// Whether the other network can replace this one, whose subnets nobody chose.
    pub fn gives_way_to(&self, network: &Network, other: &Network) -> bool {
        network.gives_way_to(other, self.compared)
    }

    /// Creates a network, or finds the same one. Gives the revision at which
    /// it is in the store.
    pub async fn create(&self, request: NetworkRequest) -> Result<(Network, i64)> {
        for _ in 0..ATTEMPTS {
            let reading = self.read().await?;
            let mut request = request.clone();
            if let Some(found) = reading.snapshot.network(&request.name) {
                request.like(found);
                let wanted = request.into_network(found.id)?;
                return self.same(found, &wanted).map(|found| (found, reading.revision_of(wanted.id)));
            }
            if request.subnets.is_empty() {
                request.subnets = pool::take(&reading, request.ipv6)?;
                request.pooled = true;
            }
            if let Some(done) = self.add(reading, request, |_, _| false).await? {
                return Ok(done);
            }
        }
        bail!(Rejection::contended("other nodes changed networks at every attempt"));
    }

    /// Gives the network that is there if a request wants the same one, and refuses otherwise.
    fn same(&self, found: &Network, wanted: &Network) -> Result<Network> {
        if self.same_options(found, wanted) { Ok(found.clone()) } else { bail!(differs(found, wanted)) }
    }

    /// Adds to what all agree upon, as `plan` says of what is there; nothing if
    /// all is as wanted. Gives the revision of the change.
    async fn amend(&self, plan: impl Fn(&Snapshot) -> Result<Vec<Op>>) -> Result<i64> {
        self.read().await?;
        self.lessen(plan).await
    }

    /// Takes away from what all agree upon, whatever else of it cannot be read.
    async fn lessen(&self, plan: impl Fn(&Snapshot) -> Result<Vec<Op>>) -> Result<i64> {
        for _ in 0..ATTEMPTS {
            let Reading { snapshot, sequence, unchanged, same_nodes, .. } = self.read_what_can_be().await?;
            let mut ops = plan(&snapshot)?;
            if ops.is_empty() {
                return Ok(0);
            }
            ops.push(Op::Put(Key::Sequence, model::encode(&sequence)));
            let txn = Txn { conditions: vec![unchanged, same_nodes], ops };
            if let Commit::Done(revision) = self.store.commit(txn).await? {
                return Ok(revision);
            }
        }
        bail!(Rejection::contended("other nodes changed the cluster at every attempt"));
    }

    /// Adds a network that is not there, on subnets that are kept for it, as
    /// `own` knows; `None` if the race is lost.
    async fn add(
        &self,
        reading: Reading,
        request: NetworkRequest,
        own: impl Fn(&IpNet, &Reservation) -> bool,
    ) -> Result<Option<(Network, i64)>> {
        let Reading { snapshot, mut reserved, sequence, unchanged, same_nodes } = reading;
        let next = sequence.next_network;
        if next > ID_MAX {
            let what = format!("all {ID_MAX} network ids are used up, and no id is given twice");
            bail!(Rejection::conflict(what, "move to a new cluster"));
        }
        let network = request.into_network(next)?;
        let kept: Vec<IpNet> =
            reserved.extract_if(.., |cidr, by| own(cidr, by)).map(|(cidr, _)| cidr).collect();
        check_overlap(&network, &snapshot, &reserved, &self.store.addresses().await)?;
        let sequence = Sequence { next_network: next + 1, ..sequence };
        let mut txn = Txn {
            conditions: vec![unchanged, same_nodes, Condition::Absent(Key::Network(next))],
            ops: vec![
                Op::Put(Key::Sequence, model::encode(&sequence)),
                Op::Put(Key::Network(next), model::encode(&network)),
            ],
        };
        txn.ops.extend(kept.into_iter().map(|cidr| Op::Delete(Key::Reservation(cidr))));
        match self.store.commit(txn).await? {
            Commit::Done(revision) => Ok(Some((network, revision))),
            _ => Ok(None),
        }
    }

    /// Puts a network back that the store lost, unless another has its id.
    pub async fn put_back(&self, network: &Network) -> Result<()> {
        for _ in 0..ATTEMPTS {
            let Reading { snapshot, mut sequence, unchanged, .. } = self.read().await?;
            if snapshot.networks.contains_key(&network.id) {
                return Ok(());
            }
            sequence.next_network = sequence.next_network.max(network.id + 1);
            let txn = Txn {
                conditions: vec![unchanged, Condition::Absent(Key::Network(network.id))],
                ops: vec![
                    Op::Put(Key::Sequence, model::encode(&sequence)),
                    Op::Put(Key::Network(network.id), model::encode(network)),
                ],
            };
            if let Commit::Done(_) = self.store.commit(txn).await? {
                return Ok(());
            }
        }
        bail!(Rejection::contended("other nodes changed networks at every attempt"));
    }

    /// Removes a network that has no endpoints anywhere.
    pub async fn remove(&self, name: &str) -> Result<i64> {
        let missing =
            || Rejection::missing(format!("there is no network {name}"), "margay network ls lists them");
        Ok(self.take_away(|snapshot| snapshot.network(name)).await?.ok_or_else(missing)?)
    }

    /// Removes the network that `find` gives; `None` if it gives none.
    async fn take_away(&self, find: impl Fn(&Snapshot) -> Option<&Network> + Sync) -> Result<Option<i64>> {
        for _ in 0..ATTEMPTS {
            let Reading { snapshot, sequence, unchanged, .. } = self.read_what_can_be().await?;
            let Some(network) = find(&snapshot) else { return Ok(None) };
            let name = &network.name;
            let ipam = self.store.list(&[ipam_of(network.id)]).await?;
            let holders = holders(&ipam.entries);
            if !holders.is_empty() {
                let what = format!("network {name} has endpoints: {}", holders.join(", "));
                bail!(Rejection::conflict(what, "detach them first"));
            }
            let seen = snapshot.network_revisions.get(&network.id).copied().unwrap_or_default();
            let txn = Txn {
                conditions: vec![
                    unchanged,
                    Condition::Revision(Key::Network(network.id), seen),
                    Condition::UnchangedSince(ipam_of(network.id), ipam.revision),
                ],
                ops: vec![
                    Op::Put(Key::Sequence, model::encode(&sequence)),
                    Op::DeletePrefix(ipam_of(network.id)),
                    Op::DeletePrefix(routes_of(network.id)),
                    Op::Delete(Key::Network(network.id)),
                ],
            };
            if let Commit::Done(revision) = self.store.commit(txn).await? {
                return Ok(Some(revision));
            }
        }
        bail!(Rejection::contended("other nodes used the network at every attempt"));
    }

    /// The revision of the network of that name, if the store has it.
    pub async fn find(&self, name: &str) -> Result<Option<i64>> {
        let Reading { snapshot, .. } = self.read().await?;
        Ok(snapshot.network(name).and_then(|network| snapshot.network_revisions.get(&network.id).copied()))
    }

    /// Networks, nodes, pools and the sequence at one revision, all of them readable: an addition
    /// has to be checked against everything that exists.
    async fn read(&self) -> Result<Reading> {
        let reading = self.read_what_can_be().await?;
        match reading.snapshot.unreadable.first_key_value() {
            Some((key, reason)) => bail!(Rejection::Unavailable(Problem::new(
                format!("{key} {reason}, so nothing can be created"),
                "write the value again, or delete the key"
            ))),
            None => Ok(reading),
        }
    }

    /// The same, whatever cannot be read: enough for taking something away.
    async fn read_what_can_be(&self) -> Result<Reading> {
        let mut prefixes: Vec<String> = ["refused/", "networks/", "nodes/", "pools/", "reservations/"]
            .map(|p| format!("{ROOT}{p}"))
            .into();
        prefixes.push(Key::Sequence.to_string());
        let listing = self.store.list(&prefixes).await?;
        let mut snapshot = Snapshot::default();
        snapshot.replace(&listing.entries);
        let sequence = match listing.value_of(&Key::Sequence) {
            Some(value) => model::decode(&Key::Sequence, value).with_context(|| Key::Sequence.to_string())?,
            None => Sequence { next_network: 1, unknown: Unknown::new() },
        };
        let reserved = runtime::reservations(&listing.entries)?;
        let unchanged = listing.unchanged(&Key::Sequence);
        let same_nodes = Condition::UnchangedSince(format!("{ROOT}nodes/"), listing.revision);
        Ok(Reading { snapshot, reserved, sequence, unchanged, same_nodes })
    }
}

/// Why a request is refused whose name or subnet a network with other options has.
fn differs(found: &Network, wanted: &Network) -> Rejection {
    let plain = |network: &Network| {
        let subnets: Vec<String> = network
            .subnets
            .iter()
            .map(|s| format!("{} gateway {} blocks of /{}", s.cidr, s.gateway, s.block_len))
            .collect();
        let mtu = network.mtu.map(|mtu| format!(", mtu {mtu}")).unwrap_or_default();
        let ranges: Vec<String> =
            network.subnets.iter().filter_map(|s| Some(format!(", range {}", s.range?))).collect();
        let aux = network.subnets.iter().flat_map(|s| &s.aux);
        let aux: Vec<String> = aux.map(|(name, addr)| format!(", {name} at {addr}")).collect();
        let internal = if network.internal { ", internal" } else { "" };
        let routable = if network.routable { ", routable" } else { "" };
        format!("{}{}{}{mtu}{internal}{routable}", subnets.join(" and "), ranges.concat(), aux.concat())
    };
    let what = format!(
        "network {} exists with other options: it has {}, not {}",
        found.name,
        plain(found),
        plain(wanted)
    );
    Rejection::conflict(what, "choose another name, or remove that network first")
}

/// That a network's subnets are nobody else's, and hold nothing that a node needs to be
/// reached or to reach the store.
fn check_overlap(
    network: &Network,
    snapshot: &Snapshot,
    reserved: &BTreeMap<IpNet, Reservation>,
    store: &[IpAddr],
) -> Result<(), Rejection> {
    const ANOTHER: &str = "choose another subnet";
    for cidr in network.cidrs() {
        let overlaps = |what: String| Rejection::conflict(format!("subnet {cidr} overlaps {what}"), ANOTHER);
        let contains = |what: String| Rejection::conflict(format!("subnet {cidr} contains {what}"), ANOTHER);
        if let Some((kept, by)) = reserved.iter().find(|(kept, _)| overlap(**kept, cidr)) {
            return Err(overlaps(format!("{kept}, where node {} is creating a network", by.node)));
        }
        for other in snapshot.networks.values() {
            if let Some(theirs) = other.subnets.iter().find(|theirs| overlap(theirs.cidr, cidr)) {
                return Err(overlaps(format!("{} of network {}", theirs.cidr, other.name)));
            }
        }
        if let Some(denied) = snapshot.denied.keys().find(|denied| overlap(**denied, cidr)) {
            let what = format!("subnet {cidr} overlaps {denied}, which is on the deny list");
            return Err(Rejection::conflict(what, format!("margay guard rm {denied}")));
        }
        for node in snapshot.nodes.values() {
            if let Some(addr) = node.addresses.iter().find(|addr: &&IpAddr| cidr.contains(*addr)) {
                return Err(contains(format!("{addr}, the address of node {}", node.name)));
            }
        }
        if let Some(addr) = store.iter().find(|addr| cidr.contains(*addr)) {
            return Err(contains(format!("{addr}, an address of the store")));
        }
        for node in snapshot.nodes.values() {
            if let Some(addr) = node.depends_on.iter().find(|addr| cidr.contains(*addr)) {
                let by = format!("{addr}, by which node {} reaches the store or the world", node.name);
                return Err(contains(by));
            }
            // What holds the node's own address is the underlay, which may be wide.
            let underlay = |net: &IpNet| node.addresses.iter().any(|addr| net.contains(addr));
            let link = node.occupied.iter().find(|net| !underlay(net) && overlap(**net, cidr));
            if let Some(link) = link {
                let of = format!("{link}, which is on a link of node {}, such as Docker's bridge", node.name);
                return Err(overlaps(of));
            }
        }
    }
    Ok(())
}

/// Who has endpoints in a network: "2 on node h1 (web, db)".
fn holders(entries: &[Event]) -> Vec<String> {
    let mut by_node = std::collections::BTreeMap::<String, std::collections::BTreeSet<String>>::new();
    for entry in entries {
        let Event::Put { key, value, .. } = entry else { continue };
        let Some(key) = Key::parse(key) else { continue };
        match model::decode::<Allocations>(&key, value) {
            Ok(allocations) => {
                for holder in allocations.addresses.into_values() {
                    let node = holder.node.unwrap_or_else(|| allocations.node.clone());
                    by_node.entry(node).or_default().insert(holder.name.unwrap_or(holder.endpoint));
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
