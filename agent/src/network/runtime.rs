//! Networks that a container runtime makes. It asks for a subnet before it
//! tells of a network, and the network's name is learnt last.

use std::collections::BTreeMap;

use anyhow::{Result, bail};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::{ATTEMPTS, Networks, Reading, pool};
use crate::{
    model::{
        self, Unknown,
        check::Value,
        key::Key,
        network::{Network, NetworkRequest, check_new_name},
        snapshot::{Event, Snapshot},
    },
    problem::Rejection,
    store::{Commit, Condition, Op, Txn},
};

/// Subnets that one node may keep at a time. Docker asks again for as long as
/// it does not like what it gets.
const KEPT_MAX: usize = 64;

/// Whom a subnet is kept for.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Reservation {
    /// The node whose runtime asked for it.
    pub node: String,
    /// When, in seconds since 1970.
    since: u64,
    /// The name of the network that is to have it, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    network: Option<String>,
    /// Fields of a newer agent.
    #[serde(flatten)]
    unknown: Unknown,
}

impl Value for Reservation {
    fn check(&self, _: &Key) -> Result<(), String> {
        match &self.network {
            Some(name) => check_new_name(name).map_err(|error| format!("is invalid: {error}")),
            None => Ok(()),
        }
    }
}

/// What came of giving a network its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Naming {
    /// It has it, as of a revision.
    Done(i64),
    /// It has another for good.
    Named(String),
    /// Another network has the name.
    Taken(Box<Network>),
    /// There is no such network.
    Gone,
}

impl Networks {
    /// The subnet that a runtime of `node` is to create a network with. With a
    /// name it is that network's, if there is one, or the one that is kept for
    /// it; else a free one of a pool, which is kept until the network is there.
    pub async fn reserve(&self, node: &str, v4: bool, name: Option<&str>, now: u64) -> Result<IpNet> {
        let of_family = |cidr: &&IpNet| cidr.addr().is_ipv4() == v4;
        for _ in 0..ATTEMPTS {
            let reading = self.read().await?;
            if let Some(name) = name {
                if let Some(network) = reading.snapshot.network(name) {
                    let mut subnets = network.subnets.iter().map(|subnet| &subnet.cidr);
                    let family = if v4 { "IPv4" } else { "IPv6" };
                    let Some(cidr) = subnets.find(of_family) else {
                        let what = format!("network {name} exists, without a subnet of {family}");
                        bail!(Rejection::conflict(what, "choose another name"));
                    };
                    return Ok(*cidr);
                }
                let mut kept = reading.reserved.iter().filter(|(_, by)| by.network.as_deref() == Some(name));
                if let Some((cidr, _)) = kept.find(|(cidr, _)| of_family(cidr)) {
                    return Ok(*cidr);
                }
            }
            if reading.reserved.values().filter(|by| by.node == node).count() >= KEPT_MAX {
                let what = format!("{KEPT_MAX} subnets of the pools were refused on this host");
                bail!(Rejection::conflict(what, "name a subnet with --subnet"));
            }
            let cidr = pool::take_one(&reading, v4)?;
            let value = Reservation {
                node: node.into(),
                since: now,
                network: name.map(str::to_owned),
                unknown: Unknown::new(),
            };
            let ops = vec![
                Op::Put(Key::Sequence, model::encode(&reading.sequence)),
                Op::Put(Key::Reservation(cidr), model::encode(&value)),
            ];
            let conditions = vec![reading.unchanged, Condition::Absent(Key::Reservation(cidr))];
            if let Commit::Done(_) = self.store.commit(Txn { conditions, ops }).await? {
                return Ok(cidr);
            }
        }
        bail!(Rejection::contended("other nodes changed networks at every attempt"));
    }

    /// Gives up what this node keeps since before `before` and, if said, lies
    /// at `cidr`.
    pub async fn unreserve(&self, node: &str, cidr: Option<IpNet>, before: u64) -> Result<()> {
        let reading = self.read().await?;
        let stale = reading.reserved.iter().filter(|(kept, by)| {
            by.node == node && by.since <= before && cidr.is_none_or(|cidr| **kept == cidr)
        });
        let ops: Vec<Op> = stale.map(|(kept, _)| Op::Delete(Key::Reservation(*kept))).collect();
        if !ops.is_empty() {
            self.store.commit(Txn { conditions: vec![], ops }).await?;
        }
        Ok(())
    }

    /// The network of a request of `node`'s runtime: the one that has these
    /// subnets, if its options are the same, or a new one. One whose name is
    /// taken by a network that it can give way to begins without a name. With
    /// `only` it is that network or none: nobody wants a new one.
    pub async fn establish(
        &self,
        node: &str,
        request: &NetworkRequest,
        only: Option<u32>,
    ) -> Result<(Network, i64)> {
        for _ in 0..ATTEMPTS {
            let reading = self.read().await?;
            let mut request = request.clone();
            let kept = request.subnets.iter().filter_map(|cidr| reading.reserved.get(cidr));
            let kept: Vec<&Reservation> = kept.filter(|by| by.node == node || by.network.is_some()).collect();
            request.pooled = !kept.is_empty() && kept.len() == request.subnets.len();
            if let Some(name) = kept.iter().find_map(|by| by.network.clone()).filter(|_| request.unnamed) {
                (request.name, request.unnamed) = (name, false);
            }
            let found = with_subnet(&reading.snapshot, &request.subnets);
            if only.is_some() && only != found.map(|found| found.id) {
                let what = format!("network {} was removed meanwhile", request.name);
                bail!(Rejection::missing(what, "create it again"));
            }
            if let Some(found) = found {
                if !request.unnamed && !found.unnamed && found.name != request.name {
                    let what = format!("subnet {} is network {}'s", found.subnets[0].cidr, found.name);
                    bail!(Rejection::conflict(what, "choose another subnet"));
                }
                request.like(found);
                let wanted = request.into_network(found.id)?;
                return self.same(found, &wanted).map(|found| (found, reading.revision_of(wanted.id)));
            }
            if let Some(found) = reading.snapshot.network(&request.name) {
                let wanted = request.clone().into_network(found.id)?;
                if !self.gives_way_to(&wanted, found) {
                    return self.same(found, &wanted).map(|found| (found, reading.revision_of(wanted.id)));
                }
                request.name = format!("{}-{}", request.name, reading.sequence.next_network);
                request.unnamed = true;
            }
            let own = request.subnets.clone();
            let own = |cidr: &IpNet, by: &Reservation| {
                own.contains(cidr) && (by.node == node || by.network.is_some())
            };
            if let Some(done) = self.add(reading, request, own).await? {
                return Ok(done);
            }
        }
        bail!(Rejection::contended("other nodes changed networks at every attempt"));
    }

    /// Gives a network that has none the name that it was made under.
    pub async fn name(&self, id: u32, name: &str, labels: &BTreeMap<String, String>) -> Result<Naming> {
        check_new_name(name)?;
        for _ in 0..ATTEMPTS {
            let Reading { snapshot, sequence, unchanged, .. } = self.read().await?;
            let Some(network) = snapshot.networks.get(&id) else { return Ok(Naming::Gone) };
            if !network.unnamed {
                return Ok(match network.name == name {
                    true => Naming::Done(snapshot.network_revisions.get(&id).copied().unwrap_or_default()),
                    false => Naming::Named(network.name.clone()),
                });
            }
            if let Some(other) = snapshot.network(name) {
                return Ok(Naming::Taken(Box::new(other.clone())));
            }
            let mut named = Network { name: name.into(), unnamed: false, ..network.clone() };
            named.runtime.labels.clone_from(labels);
            let ops = vec![
                Op::Put(Key::Sequence, model::encode(&sequence)),
                Op::Put(Key::Network(id), model::encode(&named)),
            ];
            if let Commit::Done(revision) =
                self.store.commit(Txn { conditions: vec![unchanged], ops }).await?
            {
                return Ok(Naming::Done(revision));
            }
        }
        bail!(Rejection::contended("other nodes changed networks at every attempt"));
    }

    /// Removes the network of that id, if it is there and has no endpoints.
    pub async fn remove_id(&self, id: u32) -> Result<Option<i64>> {
        self.take_away(|snapshot| snapshot.networks.get(&id)).await
    }
}

fn with_subnet<'a>(snapshot: &'a Snapshot, subnets: &[IpNet]) -> Option<&'a Network> {
    let has = |network: &&Network| network.subnets.iter().any(|subnet| subnets.contains(&subnet.cidr));
    snapshot.networks.values().find(has)
}

/// The subnets that are kept, among a listing.
pub(super) fn reservations(entries: &[Event]) -> Result<BTreeMap<IpNet, Reservation>> {
    let mut reserved = BTreeMap::new();
    for entry in entries {
        let Event::Put { key, value, .. } = entry else { continue };
        if let Some(Key::Reservation(cidr)) = Key::parse(key) {
            // A reservation that cannot be read still holds its subnet.
            let by = model::decode(&Key::Reservation(cidr), value).unwrap_or_else(|_| Reservation {
                node: "?".into(),
                since: u64::MAX,
                network: None,
                unknown: Unknown::new(),
            });
            reserved.insert(cidr, by);
        }
    }
    Ok(reserved)
}
