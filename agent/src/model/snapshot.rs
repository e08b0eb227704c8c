//! Everything that the watched part of the store says.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use ipnet::IpNet;
use serde::de::DeserializeOwned;

use super::{
    block::Claim,
    blocked::Blocked,
    decode, encode,
    key::Key,
    network::{Network, Subnet, max_len},
    node::{Alive, Cluster, Node, Removed},
    pool::Pool,
};

/// The watched part of the store at one revision.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Snapshot {
    /// The cluster.
    pub cluster: Option<Cluster>,
    /// Networks by id.
    pub networks: BTreeMap<u32, Network>,
    /// Revisions of the networks' keys, for transactions that rest on them.
    pub network_revisions: BTreeMap<u32, i64>,
    /// Nodes by name.
    pub nodes: BTreeMap<String, Node>,
    /// Nodes whose lease lives.
    pub alive: BTreeMap<String, Alive>,
    /// Nodes that were removed and have not come back.
    pub removed: BTreeMap<String, Removed>,
    /// Where networks take subnets from.
    pub pools: BTreeMap<IpNet, Pool>,
    /// What the guard blocks.
    pub blocked: BTreeMap<IpNet, Blocked>,
    /// Owners of blocks, by network and prefix.
    pub claims: BTreeMap<(u32, IpNet), Claim>,
    /// Nodes that have single addresses of other nodes' blocks, by network and
    /// address.
    pub borrowed: BTreeMap<(u32, IpAddr), Claim>,
    /// Values that cannot be used, and why, by key. For these the last good
    /// value above stays.
    pub unreadable: BTreeMap<String, String>,
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
        for event in listing {
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
                Key::Network(id) => encode(self.networks.get(&id)?),
                Key::Node(name) => encode(self.nodes.get(&name)?),
                Key::Pool(cidr) => encode(self.pools.get(&cidr)?),
                Key::Blocked(cidr) => encode(self.blocked.get(&cidr)?),
                Key::Route(id, cidr) => encode(match single(cidr) {
                    Some(addr) => self.borrowed.get(&(id, addr))?,
                    None => self.claims.get(&(id, cidr))?,
                }),
                _ => return None,
            };
            Some((key.clone(), value))
        };
        self.unreadable.keys().filter_map(value).collect()
    }

    /// What cannot be read and was never read either: of these nothing may be
    /// concluded.
    pub fn blind(&self) -> BTreeSet<Key> {
        let known = self.last_good();
        let blind = self.unreadable.keys().filter(|key| !known.contains_key(*key));
        blind.filter_map(|key| Key::parse(key)).collect()
    }

    fn put(&mut self, key: &str, value: &[u8], revision: i64) -> Result<(), String> {
        match Key::parse(key).ok_or("the key is not one that this agent knows")? {
            Key::Cluster => self.cluster = Some(read(value)?),
            Key::Network(id) => {
                let network: Network = read(value)?;
                if network.id != id {
                    return Err(format!("the value says it is network {}", network.id));
                }
                self.networks.insert(id, network);
                self.network_revisions.insert(id, revision);
            }
            Key::Node(name) => drop(self.nodes.insert(name, read(value)?)),
            Key::Alive(name) => drop(self.alive.insert(name, read(value)?)),
            Key::Removed(name) => drop(self.removed.insert(name, read(value)?)),
            Key::Pool(cidr) => drop(self.pools.insert(cidr, read(value)?)),
            Key::Blocked(cidr) => drop(self.blocked.insert(cidr, read(value)?)),
            Key::Route(id, cidr) => {
                let claim = read(value)?;
                match single(cidr) {
                    Some(addr) => drop(self.borrowed.insert((id, addr), claim)),
                    None => drop(self.claims.insert((id, cidr), claim)),
                }
            }
            Key::Guard | Key::Reservation(_) | Key::Address(_) | Key::Ipam(..) => {}
        }
        Ok(())
    }

    fn delete(&mut self, key: &str) {
        match Key::parse(key) {
            Some(Key::Cluster) => self.cluster = None,
            Some(Key::Network(id)) => {
                self.networks.remove(&id);
                self.network_revisions.remove(&id);
            }
            Some(Key::Node(name)) => drop(self.nodes.remove(&name)),
            Some(Key::Alive(name)) => drop(self.alive.remove(&name)),
            Some(Key::Removed(name)) => drop(self.removed.remove(&name)),
            Some(Key::Pool(cidr)) => drop(self.pools.remove(&cidr)),
            Some(Key::Blocked(cidr)) => drop(self.blocked.remove(&cidr)),
            Some(Key::Route(id, cidr)) => match single(cidr) {
                Some(addr) => drop(self.borrowed.remove(&(id, addr))),
                None => drop(self.claims.remove(&(id, cidr))),
            },
            _ => {}
        }
    }

    /// Takes over from `old` what it knew of a key.
    fn keep(&mut self, old: &Self, key: &str) {
        fn copy<K: Ord + Clone, V: Clone>(to: &mut BTreeMap<K, V>, from: &BTreeMap<K, V>, key: K) {
            if let Some(value) = from.get(&key) {
                to.insert(key, value.clone());
            }
        }
        match Key::parse(key) {
            Some(Key::Cluster) => self.cluster.clone_from(&old.cluster),
            Some(Key::Network(id)) => copy(&mut self.networks, &old.networks, id),
            Some(Key::Node(name)) => copy(&mut self.nodes, &old.nodes, name),
            Some(Key::Pool(cidr)) => copy(&mut self.pools, &old.pools, cidr),
            Some(Key::Blocked(cidr)) => copy(&mut self.blocked, &old.blocked, cidr),
            Some(Key::Route(id, cidr)) => match single(cidr) {
                Some(addr) => copy(&mut self.borrowed, &old.borrowed, (id, addr)),
                None => copy(&mut self.claims, &old.claims, (id, cidr)),
            },
            _ => {}
        }
    }
}

/// The address of a prefix that is a single one. Blocks have at least four.
pub fn single(cidr: IpNet) -> Option<IpAddr> {
    (cidr.prefix_len() == max_len(cidr.addr())).then(|| cidr.addr())
}

fn read<T: DeserializeOwned>(value: &[u8]) -> Result<T, String> {
    decode(value).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn a_listing_and_its_events_say_the_same() {
        let events = [
            put("nodes/h1", r#"{"v":1,"name":"h1","addresses":["192.0.2.1"]}"#),
            put("alive/h1", r#"{"v":1,"since":1}"#),
            put("networks/1", r#"{"v":1,"id":1,"name":"blue","subnets":[]}"#),
        ];
        let (mut one, mut all) = (Snapshot::default(), Snapshot::default());
        events.iter().for_each(|event| one.apply(event));
        all.replace(&events);
        assert_eq!(one, all);
        one.apply(&Event::Delete { key: "/margay/v1/networks/1".into() });
        assert!(one.networks.is_empty() && one.network_revisions.is_empty());
    }
}
