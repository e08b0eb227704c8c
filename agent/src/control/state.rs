//! What the loop knows. Plain data: whoever looks sees one moment of it.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{SystemTime, UNIX_EPOCH},
};

use tracing::{info, warn};

use crate::{
    desired::LocalFacts,
    model::snapshot::Snapshot,
    reconcile::{Change, Retry},
    store::Feed,
    tables::{Key, Tables},
};

/// How the store stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoreState {
    /// Whether a complete listing has been seen.
    pub listed: bool,
    /// Why it does not answer, and since when, seconds since 1970.
    pub away: Option<(String, u64)>,
}

/// What the loop knows.
#[derive(Default)]
pub struct State {
    /// What the store said last.
    pub snapshot: Snapshot,
    /// The revision of that.
    pub revision: i64,
    /// How the store stands.
    pub store: StoreState,
    /// Nodes whose lease ran out, and when we learnt it.
    pub lost: BTreeMap<String, u64>,
    /// What the host says of itself.
    pub facts: LocalFacts,
    /// Whether the host has to be asked before the next round.
    pub facts_stale: bool,
    /// What is wrong with the uplink.
    pub uplink_problem: Option<String>,
    /// What the kernel should hold, as of the last round.
    pub desired: Tables,
    /// What the kernel holds, once it was read.
    pub actual: Option<Tables>,
    /// Interfaces that an attach is about to make.
    pub coming: BTreeSet<String>,
    /// Why this node has not joined the cluster.
    pub join_problem: Option<String>,
    /// Changes of the watched part of the store that came in.
    pub events: u64,
    /// What failed and waits.
    pub retry: Retry,
    /// Rounds so far.
    pub round: u64,
}

impl State {
    /// Whether the store has been seen whole, so that the kernel may change.
    pub fn in_sync(&self) -> bool {
        self.store.listed
    }

    /// Takes over what the store tells.
    pub fn take(&mut self, feed: Feed) {
        match feed {
            Feed::Listing(listing) => {
                self.snapshot.replace(&listing.entries);
                self.revision = listing.revision;
                self.store.listed = true;
                self.back();
                info!("in sync with the store at revision {}", self.revision);
            }
            Feed::Events { revision, events } => {
                events.iter().for_each(|event| self.snapshot.apply(event));
                self.events += events.len() as u64;
                self.revision = self.revision.max(revision);
                self.back();
            }
            Feed::Away(reason) => {
                if self.store.away.is_none() {
                    warn!("the store is away: {reason}");
                }
                let since = self.store.away.take().map_or_else(now, |(_, since)| since);
                self.store.away = Some((reason, since));
            }
            Feed::Back => self.back(),
        }
        self.note_lost_nodes();
    }

    /// Takes over a change that the kernel made.
    pub fn applied(&mut self, change: &Change) {
        self.retry.succeeded(&change.key());
        let Some(actual) = &mut self.actual else { return };
        match change {
            Change::Put(entry) => actual.put(entry.clone()),
            Change::Remove(key) => actual.remove(key),
        }
    }

    /// Whether an entry stays although nothing asks for it: an interface that
    /// is just coming, an endpoint of ours whose network is not to be seen, and
    /// everything about others while part of the store cannot be read.
    pub fn holds(&self, key: &Key) -> bool {
        let endpoints = || self.facts.endpoints.values();
        let orphans = || endpoints().filter(|e| !self.snapshot.networks.contains_key(&e.network));
        let index = |name: &String| self.facts.interfaces.get(name);
        match key {
            Key::Interface(name) => {
                self.coming.contains(name) || endpoints().any(|e| e.host_interface == *name)
            }
            Key::Attachment(name) => orphans().any(|e| e.host_interface == *name),
            Key::Workload(found) => orphans().any(|e| index(&e.host_interface) == Some(found)),
            Key::Endpoint(addr) => orphans().any(|e| e.addresses.iter().any(|own| *addr == (*own).into())),
            Key::Route(_) | Key::Prefix(_) | Key::HostRoute(_) => !self.snapshot.unreadable.is_empty(),
            Key::Node(()) => false,
        }
    }

    /// The interface that an entry opens or closes.
    pub fn ifindex_of(&self, key: &Key) -> Option<u32> {
        match key {
            Key::Workload(index) => Some(*index),
            Key::Attachment(name) => self.facts.interfaces.get(name).copied(),
            _ => None,
        }
    }

    /// Whether everything (or, with `present` false, nothing) of an endpoint
    /// is in the kernel; `None` while that is open.
    pub fn served(&self, id: &str, present: bool) -> Option<Result<(), String>> {
        if !self.in_sync() {
            let refusal = "the store has not been in sync since the agent started".to_owned();
            return Some(if present { Err(refusal) } else { Ok(()) });
        }
        let actual = self.actual.as_ref()?;
        let Some(endpoint) = self.facts.endpoints.get(id) else {
            // Released: done when nothing of the round is left to change.
            return (!present).then_some(Ok(()));
        };
        if !present {
            return None;
        }
        if !self.snapshot.networks.contains_key(&endpoint.network) {
            return Some(Err(format!("network {} is gone", endpoint.network_name)));
        }
        let Some(index) = self.facts.interfaces.get(&endpoint.host_interface) else {
            return Some(Err(format!("interface {} is gone", endpoint.host_interface)));
        };
        let of_endpoint = |key: &Key| match key {
            Key::Workload(found) => found == index,
            Key::Attachment(name) => *name == endpoint.host_interface,
            Key::Endpoint(addr) => endpoint.addresses.iter().any(|own| *addr == (*own).into()),
            _ => false,
        };
        let failed = self.retry.pending().iter().find(|(key, _)| of_endpoint(key));
        if let Some((_, pending)) = failed {
            return Some(Err(pending.reason.clone()));
        }
        let there = actual.workloads.contains_key(index)
            && actual.attachments.contains_key(&endpoint.host_interface)
            && endpoint.addresses.iter().all(|addr| {
                actual.endpoints.get(&(*addr).into()).is_some_and(|found| found.ifindex == *index)
            });
        there.then_some(Ok(()))
    }

    fn back(&mut self) {
        if self.store.away.take().is_some() {
            info!("the store is back");
        }
    }

    /// A lost lease marks a node and changes nothing else.
    fn note_lost_nodes(&mut self) {
        let Self { snapshot, lost, .. } = self;
        lost.retain(|name, _| snapshot.nodes.contains_key(name) && !snapshot.alive.contains_key(name));
        for name in snapshot.nodes.keys().filter(|name| !snapshot.alive.contains_key(*name)) {
            lost.entry(name.clone()).or_insert_with(now);
        }
    }
}

/// Seconds since 1970.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
