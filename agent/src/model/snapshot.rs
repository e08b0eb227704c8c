//! Everything that the watched part of the store says.

use std::collections::BTreeMap;

use ipnet::IpNet;
use serde::de::DeserializeOwned;

use super::{
    block::Claim,
    decode,
    key::Key,
    network::Network,
    node::{Alive, Node},
};

/// The watched part of the store at one revision.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Snapshot {
    /// Networks by id.
    pub networks: BTreeMap<u32, Network>,
    /// Revisions of the networks' keys, for transactions that rest on them.
    pub network_revisions: BTreeMap<u32, i64>,
    /// Nodes by name.
    pub nodes: BTreeMap<String, Node>,
    /// Nodes whose lease lives.
    pub alive: BTreeMap<String, Alive>,
    /// Owners of blocks, by network and prefix.
    pub claims: BTreeMap<(u32, IpNet), Claim>,
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

    /// Puts a whole listing in the place of what was known. What does not
    /// parse keeps its last good value.
    pub fn replace(&mut self, listing: &[Event]) {
        let old = std::mem::take(self);
        for event in listing {
            if let Event::Put { key, .. } = event {
                self.keep(&old, key);
            }
            self.apply(event);
        }
    }

    /// The network of that name.
    pub fn network(&self, name: &str) -> Option<&Network> {
        self.networks.values().find(|network| network.name == name)
    }

    fn put(&mut self, key: &str, value: &[u8], revision: i64) -> Result<(), String> {
        match Key::parse(key).ok_or("the key is not one that this agent knows")? {
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
            Key::Route(id, cidr) => drop(self.claims.insert((id, cidr), read(value)?)),
            Key::Cluster | Key::Guard | Key::Address(_) | Key::Ipam(..) => {}
        }
        Ok(())
    }

    fn delete(&mut self, key: &str) {
        match Key::parse(key) {
            Some(Key::Network(id)) => {
                self.networks.remove(&id);
                self.network_revisions.remove(&id);
            }
            Some(Key::Node(name)) => drop(self.nodes.remove(&name)),
            Some(Key::Alive(name)) => drop(self.alive.remove(&name)),
            Some(Key::Route(id, cidr)) => drop(self.claims.remove(&(id, cidr))),
            _ => {}
        }
    }

    fn keep(&mut self, old: &Self, key: &str) {
        match Key::parse(key) {
            Some(Key::Network(id)) => {
                if let Some(network) = old.networks.get(&id) {
                    self.networks.insert(id, network.clone());
                }
            }
            Some(Key::Node(name)) => {
                if let Some(node) = old.nodes.get(&name) {
                    self.nodes.insert(name, node.clone());
                }
            }
            Some(Key::Route(id, cidr)) => {
                if let Some(claim) = old.claims.get(&(id, cidr)) {
                    self.claims.insert((id, cidr), claim.clone());
                }
            }
            _ => {}
        }
    }
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
