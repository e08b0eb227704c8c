//! What the loop knows. Plain data: a reader sees the state of one moment.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use tracing::{info, warn};

use super::{
    Fold, Read, Rounds, Routes,
    concern::{Concern, Events},
    hold::describe,
};
use crate::{
    desired::{Dirty, LocalFacts, Source, World, Xdp, endpoint_keys},
    kernel::xdp::Refused,
    model::{
        key::Prefix,
        membership::{Known, Trust, judge},
        snapshot::{Event, Snapshot},
    },
    problem::Problem,
    reconcile::{Change, Retry},
    store::{Away, Feed},
    tables::{ENDPOINT_PREFIX, Entry, Interface, Key, Tables, host_interface},
};

/// How the store stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoreState {
    /// Why it does not answer, and since when, seconds since 1970.
    pub away: Option<(Away, u64)>,
    /// Why it can only be read, and since when.
    pub unwritable: Option<(Away, u64)>,
}

impl StoreState {
    /// Why nothing can be written to it, if so.
    pub fn unusable(&self) -> Option<&Away> {
        self.away.as_ref().or(self.unwritable.as_ref()).map(|(away, _)| away)
    }
}

/// What the loop knows. A copy costs next to nothing: whatever can be large is shared.
#[derive(Clone, Default)]
pub struct State {
    /// What the store said last, as far as it is believed; before it has said
    /// anything, what the journal remembers of it.
    pub snapshot: Snapshot,
    /// What a store says that is not believed at all.
    pub doubted: Option<Snapshot>,
    /// The newest revision that anything of it was told at.
    pub revision: i64,
    /// Up to which revision everything of networks, nodes, pools and denied prefixes was told.
    pub told: i64,
    /// The highest revision seen of the store that is believed.
    pub seen: i64,
    /// What this node remembers of its cluster.
    pub known: Option<Arc<Known>>,
    /// How far the store is believed.
    pub trust: Trust,
    /// How the store stands.
    pub store: StoreState,
    /// Nodes whose lease ran out, and when we learnt it.
    pub lost: BTreeMap<String, u64>,
    /// What the host says of itself.
    pub facts: LocalFacts,
    /// Whether the host may be another than these say: it is about to be looked at.
    pub facts_stale: bool,
    /// What is known of the host's own routes.
    pub routes: Routes,
    /// What is wrong with the uplink.
    pub uplink_problem: Option<Problem>,
    /// What the kernel should hold, as of the last round.
    pub fold: Fold,
    /// What the kernel holds, once it was read.
    pub actual: Option<Tables>,
    /// How often what was read of the kernel has come into doubt, and the doubts that there
    /// were when it was read. Until they are the same, what was read counts for those who look
    /// and nothing is changed.
    pub doubts: u64,
    /// See there.
    pub read: Option<u64>,
    /// Whether there is something quick that is still to be changed.
    pub changing: bool,
    /// Interfaces that an attach is about to make.
    pub coming: BTreeSet<String>,
    /// Entries of endpoints that are released and still in the kernel.
    pub released: BTreeSet<Key>,
    /// Why this node has not joined the cluster.
    pub join_problem: Option<Problem>,
    /// Changes of the watched parts of the store that came in.
    pub events: Events,
    /// What failed and waits.
    pub retry: Retry,
    /// What the loop counts of its own work.
    pub rounds: Rounds,
}

impl State {
    /// Whether the store has been seen whole and is believed.
    pub fn in_sync(&self) -> bool {
        self.trust == Trust::Whole
    }

    /// Whether every program at a hook is the one that it should be: what another object's
    /// programs read is still needed until then.
    pub fn hooks_are_settled(&self) -> bool {
        let Some(actual) = &self.actual else { return false };
        let open = |key: &Key| !matches!(key, Key::Xdp(_));
        self.is_read()
            && !self.changing
            && actual.attachments.values().all(|found| found.current)
            && actual.xdp.values().all(|found| found.current)
            && !self.retry.pending().keys().any(open)
    }

    /// How XDP is attached to the uplink, or why it is not.
    pub fn xdp(&self) -> String {
        let name = &self.facts.uplink.name;
        let there = self.actual.as_ref().and_then(|actual| actual.xdp.get(name));
        let there = there.map(|there| if there.native { Xdp::Native } else { Xdp::Generic });
        let waiting =
            self.retry.pending().get(&Key::Xdp(name.clone())).map(|waiting| &waiting.reason.problem);
        match (there, waiting, &self.facts.xdp) {
            (Some(there), None, _) => there.to_string(),
            (Some(there), Some(reason), _) => format!("{there} ({reason})"),
            (None, Some(reason), _) => format!("off: {reason}"),
            (None, None, off @ Xdp::Off(_)) => off.to_string(),
            (None, None, _) => "off: not attached yet".into(),
        }
    }

    /// Gives up an XDP program that is refused and that nobody insists on. Whether
    /// it did: other failures are tried again.
    pub fn refused_xdp(&mut self, change: &Change, error: &anyhow::Error) -> bool {
        let refused = matches!(change, Change::Put(Entry::Xdp(..))) && error.is::<Refused>();
        let gives_up = refused && self.facts.xdp == Xdp::Auto;
        if gives_up {
            info!("uplink {} takes no XDP program: {error:#}", self.facts.uplink.name);
            self.facts.xdp = Xdp::Off(format!("off: {error:#}"));
        }
        gives_up
    }

    /// Takes over what the store tells, and says what that changes.
    pub fn take(&mut self, feed: Feed<Read>) -> Dirty {
        let mut dirty = Dirty::Nothing;
        match feed {
            Feed::Listing(Read { revision, mut snapshot }) => {
                snapshot.settle(&self.facts.vital(), &self.snapshot.followed());
                (self.revision, self.told) = (revision, revision);
                self.doubted = None;
                dirty = Dirty::Everything;
                self.believe(snapshot);
                self.back();
                self.note_lost_nodes();
            }
            Feed::Events { revision, whole, events } => dirty = self.take_events(revision, &whole, &events),
            Feed::Away(away) => {
                if self.store.away.is_none() {
                    warn!("{away}");
                }
                let since = self.store.away.take().map_or_else(now, |(_, since)| since);
                self.store.away = Some((away, since));
            }
            Feed::Back => self.back(),
            Feed::Writable(Err(why)) => {
                warn!("{why}");
                self.store.unwritable = Some((why, now()));
            }
            Feed::Writable(Ok(())) => {
                if self.store.unwritable.take().is_some() {
                    info!("the store takes writes again");
                }
            }
        }
        dirty
    }

    /// Takes over changes of the store, and says what they change here.
    fn take_events(&mut self, revision: i64, whole: &[Prefix], events: &[Event]) -> Dirty {
        self.revision = self.revision.max(revision);
        if whole.contains(&Prefix::Networks) {
            self.told = self.told.max(revision);
        }
        let mut read = match self.doubted.take() {
            Some(doubted) => doubted,
            None => std::mem::take(&mut self.snapshot),
        };
        let concerns: Vec<Concern> = events.iter().map(Concern::of).collect();
        let followed = concerns.iter().any(|concern| concern.networks).then(|| read.followed());
        let mut dirty = Dirty::Nothing;
        // What cannot be read keeps more than its own entries.
        let mut unreadable = read.lacks_a_value();
        for (event, concern) in events.iter().zip(&concerns) {
            self.events.count(event);
            read.apply(event);
            unreadable |= concern.known && read.unreadable.contains_key(event.key());
            dirty.add(if concern.known && unreadable { Dirty::Everything } else { concern.dirty.clone() });
        }
        if let Some(followed) = followed {
            read.settle(&self.facts.vital(), &followed);
        }
        dirty.add(self.believe(read));
        self.back();
        concerns.into_iter().filter_map(|concern| concern.node).for_each(|name| self.note_lost_node(name));
        dirty
    }

    /// Replaces what the node remembers of the cluster, and judges the store by that.
    pub fn remember(&mut self, known: Arc<Known>) -> Dirty {
        self.seen = known.revision;
        self.known = Some(known);
        if self.trust != Trust::Unseen {
            let read = self.doubted.take().unwrap_or_else(|| std::mem::take(&mut self.snapshot));
            return self.believe(read);
        }
        Dirty::Nothing
    }

    /// Judges what was read, and takes it over unless it is another cluster's.
    /// Another judgement changes everything.
    fn believe(&mut self, read: Snapshot) -> Dirty {
        let trust = judge(self.known.as_deref(), self.seen, &read, self.revision);
        if trust == Trust::Whole {
            self.seen = self.seen.max(self.revision);
        }
        let changed = trust != self.trust;
        if changed {
            match &trust {
                Trust::Whole => info!(revision = self.revision, "in sync with the store"),
                doubt => warn!("{}", describe(doubt)),
            }
        }
        self.trust = trust;
        if matches!(self.trust, Trust::Other { .. }) {
            self.doubted = Some(read);
        } else {
            self.snapshot = read;
        }
        if changed { Dirty::Everything } else { Dirty::Nothing }
    }

    /// Takes over which interfaces are ours now. What hangs on one that is gone
    /// is removed by name; one that is another under an old name, or the host's
    /// own, has the kernel read afresh.
    pub fn has_interfaces(&mut self, interfaces: BTreeMap<String, u32>) -> Dirty {
        let before = std::mem::replace(&mut self.facts.interfaces, interfaces.into());
        let now = &self.facts.interfaces;
        let changed = |name: &&String| before.get(*name) != now.get(*name);
        let names: BTreeSet<String> = before.keys().chain(now.keys()).filter(changed).cloned().collect();
        if names.is_empty() {
            return Dirty::Nothing;
        }
        let replaced = |name: &String| before.contains_key(name) && now.contains_key(name);
        let of_host = |name: &String| !name.starts_with(ENDPOINT_PREFIX);
        if names.iter().any(|name| replaced(name) || (of_host(name) && before.contains_key(name))) {
            self.doubts += 1;
            return Dirty::Everything;
        }
        if names.iter().any(of_host) {
            return Dirty::Everything;
        }
        if let Some(actual) = &mut self.actual {
            for name in &names {
                match now.get(name) {
                    None => drop(actual.interfaces.remove(name)),
                    Some(_) => drop(actual.interfaces.insert(name.clone(), Interface::Endpoint)),
                }
            }
        }
        let mut dirty = Dirty::Nothing;
        for endpoint in self.facts.endpoints.values().filter(|e| names.contains(&e.host_interface)) {
            // What is held of an orphan is in no fold.
            let orphan = !self.snapshot.networks.contains_key(&endpoint.network);
            let source = || Source::Endpoint(endpoint.id.clone()).into();
            dirty.add(if orphan { Dirty::Everything } else { source() });
        }
        dirty
    }

    /// Notes which of our interfaces are down: they are to be set up again.
    pub fn has_down(&mut self, names: &BTreeSet<String>) -> Dirty {
        let Some(actual) = &mut self.actual else { return Dirty::Everything };
        let served = |name: &&String| actual.interfaces.contains_key(*name) && !self.coming.contains(*name);
        let down: Vec<String> = names.iter().filter(served).cloned().collect();
        actual.interfaces.retain(|name, _| !down.contains(name));
        if down.is_empty() { Dirty::Nothing } else { Dirty::Everything }
    }

    /// Takes over the host's own addresses, and says what that changes.
    pub fn has_addresses(&mut self, own: BTreeSet<IpAddr>) -> Dirty {
        let before = std::mem::replace(&mut self.facts.own, own);
        if before == self.facts.own { Dirty::Nothing } else { Dirty::Everything }
    }

    /// Forgets released entries that the kernel holds no longer, or holds for another.
    pub fn forget_released(&mut self) {
        let Self { released, fold, actual: Some(actual), .. } = self else { return };
        released.retain(|key| actual.get(key).is_some_and(|found| fold.tables.get(key) != Some(found)));
    }

    /// Takes over what the host has become; what has been `changed` since the reading began we
    /// know better.
    pub(super) fn hears(&mut self, mut read: Tables, world: Option<World>, changed: &BTreeSet<Key>) -> Dirty {
        let same_world = world.as_ref().is_none_or(|world| self.facts.world == *world);
        self.facts.world = world.unwrap_or_else(|| std::mem::take(&mut self.facts.world));
        let actual = self.actual.get_or_insert_default();
        keep(&mut read, actual, changed);
        let before = actual.clone();
        let Tables { host_routes, firewall, accepts, sysctls, .. } = read;
        *actual = Tables { host_routes, firewall, accepts, sysctls, ..std::mem::take(actual) };
        if same_world && *actual == before { Dirty::Nothing } else { Dirty::Everything }
    }

    /// Notes that an endpoint's entries may go, whatever the store says.
    /// Gives the entries.
    pub fn release(&mut self, id: &str) -> Vec<Key> {
        // An attach that failed early has announced its interface and no more.
        self.coming.remove(&host_interface(id));
        let Some(endpoint) = self.facts.endpoints.remove(id) else { return Vec::new() };
        self.coming.remove(&endpoint.host_interface);
        let index = self.facts.interfaces.get(&endpoint.host_interface);
        let mut keys: Vec<Key> = index.map(|index| Key::Workload(*index)).into_iter().collect();
        keys.push(Key::Attachment(endpoint.host_interface.clone()));
        keys.push(Key::Interface(endpoint.host_interface));
        keys.extend(endpoint.addresses.into_iter().map(|addr| Key::Endpoint(addr.into())));
        self.released.extend(keys.iter().cloned());
        keys
    }

    /// Whether the kernel was asked to let all of these released entries go.
    pub fn has_let_go(&self, keys: &[Key]) -> bool {
        keys.iter().all(|key| !self.released.contains(key) || self.retry.pending().contains_key(key))
    }

    /// Whether what was read of the kernel counts.
    pub fn is_read(&self) -> bool {
        self.actual.is_some() && self.read == Some(self.doubts)
    }

    /// Takes over what the kernel was found to hold of our own; what has been `changed` since
    /// the reading began we know better.
    pub(super) fn has_read(&mut self, mut read: Tables, changed: &BTreeSet<Key>, doubts: u64) {
        let before = self.actual.take().unwrap_or_default();
        keep(&mut read, &before, changed);
        // That part is read by itself.
        let Tables { firewall, accepts, sysctls, .. } = before;
        self.actual = Some(Tables { firewall, accepts, sysctls, ..read });
        self.read = Some(doubts);
    }

    /// Takes over a change that the kernel made.
    pub fn applied(&mut self, change: &Change) {
        self.retry.succeeded(&change.key());
        self.released.remove(&change.key());
        self.rounds.applied.inc();
        let Some(actual) = &mut self.actual else { return };
        match change {
            Change::Put(entry) => actual.put(entry.clone()),
            Change::Remove(key) => actual.remove(key),
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

    /// Whether everything of an endpoint is in the kernel; `None` while that is open.
    pub fn served(&self, id: &str) -> Option<Result<(), Problem>> {
        let endpoint = self.facts.endpoints.get(id)?;
        let actual = self.actual.as_ref().filter(|_| self.is_read())?;
        if let Some(reason) = &endpoint.lost {
            return Some(Err(Problem::new(reason.clone(), "detach it, and attach it again")));
        }
        if !self.snapshot.networks.contains_key(&endpoint.network) {
            let gone = format!("network {} was removed", endpoint.network_name);
            return Some(Err(Problem::new(gone, "create it again: margay network create")));
        }
        let Some(index) = self.facts.interfaces.get(&endpoint.host_interface) else {
            if self.facts_stale {
                return None;
            }
            let gone = format!("interface {} disappeared", endpoint.host_interface);
            return Some(Err(Problem::new(gone, "attach it again")));
        };
        let keys: BTreeSet<Key> = endpoint_keys(endpoint, &self.facts).collect();
        let failed = self.retry.pending().iter().find(|(key, _)| keys.contains(key));
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

    /// The same for the one node that an event concerns.
    fn note_lost_node(&mut self, name: String) {
        if self.snapshot.nodes.contains_key(&name) && !self.snapshot.alive.contains_key(&name) {
            self.lost.entry(name).or_insert_with(now);
        } else {
            self.lost.remove(&name);
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

/// Puts into a reading what is known better of some entries.
fn keep(read: &mut Tables, known: &Tables, keys: &BTreeSet<Key>) {
    for key in keys {
        match known.get(key) {
            Some(entry) => read.put(entry),
            None => read.remove(key),
        }
    }
}

/// Seconds since 1970.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
