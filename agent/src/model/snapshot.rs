//! Everything that the watched part of the store says.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::IpAddr,
};

use ipnet::IpNet;
use serde::de::DeserializeOwned;

use super::{
    block::Claim,
    check::Value,
    decode,
    denied::Denied,
    encode,
    key::{Key, Prefix},
    network::{Network, Subnet, bits, max_len, overlap},
    node::{Alive, Cluster, Node, Removed},
    pool::Pool,
};
use crate::shared::Shared;

/// The watched part of the store at one revision.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Snapshot {
    /// The cluster.
    pub cluster: Option<Cluster>,
    /// Networks by id.
    pub networks: Shared<u32, Network>,
    /// Revisions of the networks' keys, for transactions that rest on them.
    pub network_revisions: Shared<u32, i64>,
    /// Nodes by name.
    pub nodes: Shared<String, Node>,
    /// Nodes whose lease lives.
    pub alive: Shared<String, Alive>,
    /// Nodes that were removed and have not come back.
    pub removed: Shared<String, Removed>,
    /// Where networks take subnets from.
    pub pools: Shared<IpNet, Pool>,
    /// The deny list.
    pub denied: Shared<IpNet, Denied>,
    /// Owners of blocks, by network and prefix.
    pub claims: Shared<(u32, IpNet), Claim>,
    /// Nodes that have single addresses of other nodes' blocks, by network and
    /// address.
    pub borrowed: Shared<(u32, IpAddr), Claim>,
    /// Values that cannot be used, and why, by key. For these the last good
    /// value above stays.
    pub unreadable: Shared<String, String>,
    /// Networks that can be read and must not be followed on this node, and why
    /// ([`Snapshot::settle`]).
    pub barred: Shared<u32, (Network, String)>,
    /// The subnets of the networks that are followed, as they were settled last.
    subnets: Subnets,
}

/// What an address is, without which a node reaches nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Vital {
    /// The store's.
    Store,
    /// A gateway's of the host.
    Gateway,
    /// The node's own.
    Own,
}

impl fmt::Display for Vital {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Store => "an address of the store",
            Self::Gateway => "a gateway of this host",
            Self::Own => "an address of this node",
        })
    }
}

/// One change of the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A key has a new value.
    Put {
        /// The key.
        key: String,
        /// Its value.
        value: Vec<u8>,
        /// The revision of the change.
        revision: i64,
    },
    /// A key is gone.
    Delete {
        /// The key.
        key: String,
    },
}

impl Event {
    /// The key that changed.
    pub fn key(&self) -> &str {
        match self {
            Self::Put { key, .. } | Self::Delete { key } => key,
        }
    }
}

impl Snapshot {
    /// The parts of the store that it is made of: what its owner watches.
    pub const PREFIXES: [Prefix; 8] = [
        Prefix::Alive,
        Prefix::Cluster,
        Prefix::Networks,
        Prefix::Nodes,
        Prefix::Pools,
        Prefix::Denied,
        Prefix::Removed,
        Prefix::Routes,
    ];

    /// Takes over one change.
    pub fn apply(&mut self, event: &Event) {
        match event {
            Event::Put { key, value, revision } => {
                self.unreadable.remove(key);
                if let Err(reason) = self.put(key, value, *revision) {
                    self.unreadable.insert(key.clone(), reason);
                }
            }
            Event::Delete { key } => {
                self.unreadable.remove(key);
                self.delete(key);
            }
        }
    }

    /// A whole listing. What does not parse keeps its last good value from
    /// `old`.
    pub fn of(listing: &[Event], old: &Self) -> Self {
        let mut new = Self::default();
        // Claims are judged by their networks.
        let is_network = |event: &&Event| matches!(Key::parse(event.key()), Some(Key::Network(_)));
        let (networks, others): (Vec<&Event>, Vec<&Event>) = listing.iter().partition(is_network);
        for event in networks.into_iter().chain(others) {
            new.apply(event);
            if new.unreadable.contains_key(event.key()) {
                new.keep(old, event.key());
            }
        }
        new
    }

    /// Puts a whole listing in the place of what was known.
    pub fn replace(&mut self, listing: &[Event]) {
        *self = Self::of(listing, self);
    }

    /// The network of that name.
    pub fn network(&self, name: &str) -> Option<&Network> {
        self.networks.values().find(|network| network.name == name)
    }

    /// Whether single addresses of a subnet are routed.
    pub fn has_borrowed(&self, network: u32, subnet: &Subnet) -> bool {
        let (first, last) = (subnet.cidr.network(), subnet.cidr.broadcast());
        self.borrowed.range((network, first)..=(network, last)).next().is_some()
    }

    /// Blocks and single addresses of a network, each with the node that has
    /// it.
    pub fn owners(&self, network: u32) -> impl Iterator<Item = (IpNet, &Claim)> {
        let blocks = self.claims.iter().filter(move |((id, _), _)| *id == network);
        let single = self.borrowed.iter().filter(move |((id, _), _)| *id == network);
        let blocks = blocks.map(|((_, cidr), claim)| (*cidr, claim));
        blocks.chain(single.map(|((_, addr), claim)| (IpNet::from(*addr), claim)))
    }

    /// Blocks and single addresses that a node has, each with its network.
    pub fn claims_of(&self, node: &str) -> impl Iterator<Item = (u32, IpNet, &Claim)> {
        let blocks = self.claims.iter().map(|((id, cidr), claim)| (*id, *cidr, claim));
        let single = self.borrowed.iter().map(|((id, addr), claim)| (*id, IpNet::from(*addr), claim));
        blocks.chain(single).filter(move |(_, _, claim)| claim.node == node)
    }

    /// The last good values of what cannot be read, as the store holds them.
    pub fn last_good(&self) -> BTreeMap<String, Vec<u8>> {
        let value = |key: &String| {
            let value = match Key::parse(key)? {
                Key::Cluster => encode(self.cluster.as_ref()?),
                Key::Network(id) => {
                    encode(self.networks.get(&id).or_else(|| self.barred.get(&id).map(|(found, _)| found))?)
                }
                Key::Node(name) => encode(self.nodes.get(&name)?),
                Key::Pool(cidr) => encode(self.pools.get(&cidr)?),
                Key::Denied(cidr) => encode(self.denied.get(&cidr)?),
                Key::Route(id, cidr) => encode(match single(cidr) {
                    Some(addr) => self.borrowed.get(&(id, addr))?,
                    None => self.claims.get(&(id, cidr))?,
                }),
                // Of these there is nothing to keep.
                Key::Alive(_) | Key::Removed(_) => return None,
                Key::Sequence | Key::Reservation(_) | Key::Address(_) | Key::Ipam(..) => return None,
            };
            Some((key.clone(), value))
        };
        self.unreadable.keys().filter_map(value).collect()
    }

    /// Whether the value of any key that this agent knows cannot be read.
    pub fn lacks_a_value(&self) -> bool {
        self.unreadable.keys().any(|key| Key::parse(key).is_some())
    }

    /// What cannot be read and was never read either: of these nothing may be
    /// concluded.
    pub fn blind(&self) -> BTreeSet<Key> {
        let known = self.last_good();
        let blind = self.unreadable.keys().filter(|key| !known.contains_key(*key));
        blind.filter_map(|key| Key::parse(key)).collect()
    }

    fn put(&mut self, key: &str, value: &[u8], revision: i64) -> Result<(), String> {
        let key = Key::parse(key).ok_or("is a key that this agent does not know")?;
        let at = &key;
        match key.clone() {
            Key::Cluster => self.cluster = Some(read(at, value)?),
            Key::Network(id) => {
                let network = read(at, value)?;
                self.put_network(id, network, revision);
            }
            Key::Node(name) => drop(self.nodes.insert(name, read(at, value)?)),
            Key::Alive(name) => drop(self.alive.insert(name, read(at, value)?)),
            Key::Removed(name) => drop(self.removed.insert(name, read(at, value)?)),
            Key::Pool(cidr) => drop(self.pools.insert(cidr, read(at, value)?)),
            Key::Denied(cidr) => drop(self.denied.insert(cidr, read(at, value)?)),
            Key::Route(id, cidr) => {
                let claim = read(at, value)?;
                let network = self.networks.get(&id).or_else(|| self.barred.get(&id).map(|(found, _)| found));
                if let Some(network) = network.filter(|network| !network.has_block(cidr)) {
                    return Err(not_a_block(network));
                }
                match single(cidr) {
                    Some(addr) => drop(self.borrowed.insert((id, addr), claim)),
                    None => drop(self.claims.insert((id, cidr), claim)),
                }
            }
            // No part of the snapshot ([`Snapshot::PREFIXES`]).
            Key::Sequence | Key::Reservation(_) | Key::Address(_) | Key::Ipam(..) => {}
        }
        Ok(())
    }

    /// Takes over a network, and judges the claims that came before it.
    fn put_network(&mut self, id: u32, network: Network, revision: i64) {
        let strange: Vec<IpNet> =
            self.owners(id).map(|(cidr, _)| cidr).filter(|cidr| !network.has_block(*cidr)).collect();
        for cidr in strange {
            let key = Key::Route(id, cidr).to_string();
            self.delete(&key);
            self.unreadable.insert(key, not_a_block(&network));
        }
        match self.barred.get_mut(&id) {
            Some((barred, _)) => *barred = network,
            None => drop(self.networks.insert(id, network)),
        }
        self.network_revisions.insert(id, revision);
    }

    /// Subnets of the networks that are followed, by the networks' ids.
    pub fn followed(&self) -> BTreeMap<u32, Vec<IpNet>> {
        self.networks.iter().map(|(id, network)| (*id, network.cidrs().collect())).collect()
    }

    /// Bars networks that must not be followed on this node, and follows those that may be
    /// again: one that holds an address without which this node reaches nothing, one that
    /// overlaps another, one with another's name. Of two that exclude each other one that
    /// is `followed` already stays, else the older. `vital` are those addresses, each
    /// with what it is. Only the store's bar a network that is followed: others a neighbour
    /// may have given to this host later, by router advertisements or DHCP.
    pub fn settle(&mut self, vital: &BTreeMap<IpAddr, Vital>, followed: &BTreeMap<u32, Vec<IpNet>>) {
        let read = std::mem::take(&mut self.networks).into_values();
        let barred = std::mem::take(&mut self.barred).into_values().map(|(network, _)| network);
        let same = |network: &Network| {
            followed.get(&network.id).is_some_and(|cidrs| network.cidrs().eq(cidrs.iter().copied()))
        };
        let mut all: Vec<Network> = read.chain(barred).collect();
        all.sort_by_key(|network| (!same(network), network.id));
        let mut names = BTreeMap::<String, u32>::new();
        let mut taken = Subnets::default();
        for network in all {
            let counts = |what: &Vital| *what == Vital::Store || !same(&network);
            let mut held = vital.iter().filter(|(addr, _)| network.subnet_of(**addr).is_some());
            let lost = held.find(|(_, what)| counts(what));
            let other = || network.cidrs().find_map(|cidr| taken.overlapping(cidr));
            let reason = if let Some((addr, what)) = lost {
                format!("its subnet holds {addr}, {what}")
            } else if let Some((cidr, id)) = other() {
                format!("its subnet overlaps {cidr} of network {id}")
            } else if let Some(id) = names.get(&network.name) {
                format!("network {id} has the same name")
            } else {
                names.insert(network.name.clone(), network.id);
                network.cidrs().for_each(|cidr| taken.insert(cidr, network.id));
                self.networks.insert(network.id, network);
                continue;
            };
            self.barred.insert(network.id, (network, reason));
        }
        self.subnets = taken;
    }

    /// Whether an address lies in a subnet of a network that is followed.
    pub fn is_in_subnet(&self, addr: IpAddr) -> bool {
        self.subnets.overlapping(addr.into()).is_some()
    }

    fn delete(&mut self, key: &str) {
        let Some(key) = Key::parse(key) else { return };
        match key {
            Key::Cluster => self.cluster = None,
            Key::Network(id) => {
                self.networks.remove(&id);
                self.barred.remove(&id);
                self.network_revisions.remove(&id);
            }
            Key::Node(name) => drop(self.nodes.remove(&name)),
            Key::Alive(name) => drop(self.alive.remove(&name)),
            Key::Removed(name) => drop(self.removed.remove(&name)),
            Key::Pool(cidr) => drop(self.pools.remove(&cidr)),
            Key::Denied(cidr) => drop(self.denied.remove(&cidr)),
            Key::Route(id, cidr) => match single(cidr) {
                Some(addr) => drop(self.borrowed.remove(&(id, addr))),
                None => drop(self.claims.remove(&(id, cidr))),
            },
            Key::Sequence | Key::Reservation(_) | Key::Address(_) | Key::Ipam(..) => {}
        }
    }

    /// Takes over from `old` what it knew of a key.
    fn keep(&mut self, old: &Self, key: &str) {
        fn copy<K: Ord + Clone, V: Clone>(to: &mut Shared<K, V>, from: &Shared<K, V>, key: K) {
            if let Some(value) = from.get(&key) {
                to.insert(key, value.clone());
            }
        }
        let Some(key) = Key::parse(key) else { return };
        match key {
            Key::Cluster => self.cluster.clone_from(&old.cluster),
            Key::Network(id) => {
                copy(&mut self.networks, &old.networks, id);
                copy(&mut self.barred, &old.barred, id);
            }
            Key::Node(name) => copy(&mut self.nodes, &old.nodes, name),
            Key::Pool(cidr) => copy(&mut self.pools, &old.pools, cidr),
            Key::Denied(cidr) => copy(&mut self.denied, &old.denied, cidr),
            Key::Route(id, cidr) => match single(cidr) {
                Some(addr) => copy(&mut self.borrowed, &old.borrowed, (id, addr)),
                None => copy(&mut self.claims, &old.claims, (id, cidr)),
            },
            // These are not copied: nodes that live or were removed write them again.
            Key::Alive(_) | Key::Removed(_) => {}
            Key::Sequence | Key::Reservation(_) | Key::Address(_) | Key::Ipam(..) => {}
        }
    }
}

/// The address of a prefix that is a single one. Blocks have at least four.
pub fn single(cidr: IpNet) -> Option<IpAddr> {
    (cidr.prefix_len() == max_len(cidr.addr())).then(|| cidr.addr())
}

fn read<T: DeserializeOwned + Value>(key: &Key, value: &[u8]) -> Result<T, String> {
    decode(key, value).map_err(|error| error.to_string())
}

fn not_a_block(network: &Network) -> String {
    format!("is neither a block nor an address of network {}", network.name)
}

/// Subnets that do not overlap, by where they end.
#[derive(Clone, Debug, Default, PartialEq)]
struct Subnets(Shared<(bool, u128), (IpNet, u32)>);

impl Subnets {
    fn insert(&mut self, cidr: IpNet, network: u32) {
        self.0.insert((cidr.addr().is_ipv4(), bits(cidr.broadcast())), (cidr, network));
    }

    /// The subnet that has an address in common with a prefix, and its network.
    fn overlapping(&self, cidr: IpNet) -> Option<(IpNet, u32)> {
        let from = (cidr.addr().is_ipv4(), bits(cidr.network()));
        // The first that ends behind its beginning is the only one that can begin before its end
        // or hold it.
        let (_, found) = self.0.range(from..).next()?;
        overlap(found.0, cidr).then_some(*found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BLUE: &str = r#"{"v":1,"id":1,"name":"blue",
        "subnets":[{"cidr":"10.0.0.0/16","gateway":"10.0.0.1","block_len":26}]}"#;

    fn put(key: &str, value: &str) -> Event {
        Event::Put { key: format!("/margay/v1/{key}"), value: value.into(), revision: 3 }
    }

    #[test]
    fn a_broken_value_keeps_the_last_good_one() {
        let good = put("routes/1/10.0.0.0-26", r#"{"v":1,"node":"h1"}"#);
        let bad = put("routes/1/10.0.0.0-26", "{");
        let mut snapshot = Snapshot::default();
        snapshot.apply(&good);
        let claims = snapshot.claims.clone();
        snapshot.apply(&bad);
        assert_eq!(snapshot.claims, claims);
        assert_eq!(snapshot.unreadable.len(), 1);
        snapshot.replace(&[bad]);
        assert_eq!(snapshot.claims, claims);
        snapshot.replace(&[good]);
        assert!(snapshot.unreadable.is_empty());
        snapshot.replace(&[]);
        assert_eq!(snapshot, Snapshot::default());
    }

    #[test]
    fn values_whose_names_have_control_characters_are_rejected() {
        let mut snapshot = Snapshot::default();
        snapshot.apply(&put("networks/1", &BLUE.replace("blue", r"a\u001b[2Jb")));
        snapshot.apply(&put("nodes/h\u{1b}1", r#"{"v":1,"name":"h\u001b1","addresses":[]}"#));
        snapshot.apply(&put("nodes/h2", r#"{"v":1,"name":"h\u001b2","addresses":[]}"#));
        assert!(snapshot.networks.is_empty() && snapshot.nodes.is_empty());
        assert_eq!(snapshot.unreadable.len(), 3);
    }

    #[test]
    fn listing_and_its_single_events_give_the_same_snapshot() {
        let events = [
            put("nodes/h1", r#"{"v":1,"name":"h1","addresses":["192.0.2.1"]}"#),
            put("alive/h1", r#"{"v":1,"since":1}"#),
            put("networks/1", BLUE),
        ];
        let (mut one, mut all) = (Snapshot::default(), Snapshot::default());
        events.iter().for_each(|event| one.apply(event));
        all.replace(&events);
        assert_eq!(one, all);
        one.apply(&Event::Delete { key: "/margay/v1/networks/1".into() });
        assert!(one.networks.is_empty() && one.network_revisions.is_empty());
    }

    #[test]
    fn network_under_the_key_of_another_is_rejected() {
        let mut snapshot = Snapshot::default();
        snapshot.apply(&put("networks/2", r#"{"v":1,"id":1,"name":"blue","subnets":[]}"#));
        assert!(snapshot.networks.is_empty());
        let why: Vec<&str> = snapshot.unreadable.values().map(String::as_str).collect();
        assert!(why.len() == 1 && why[0].contains("it is network 1"), "{why:?}");
    }
}
