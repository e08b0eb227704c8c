//! What an event concerns: the parts of the fold that it can change.

use std::collections::BTreeSet;

use ipnet::IpNet;

use super::{endpoints, facts::LocalFacts, prefixes, routes};
use crate::{
    model::{
        key as store,
        snapshot::{Snapshot, single},
    },
    tables::{Entry, Key},
};

/// One thing that entries are derived from, and nothing else's are.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// A claim of a block of a network.
    Block(u32, IpNet),
    /// An endpoint of this node, by id.
    Endpoint(String),
    /// A node, by name.
    Node(String),
}

/// What has changed since the last fold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Dirty {
    /// Nothing.
    #[default]
    Nothing,
    /// These.
    Some(BTreeSet<Source>),
    /// What many entries are derived from.
    Everything,
}

impl Dirty {
    /// Adds another change.
    pub fn add(&mut self, other: Self) {
        *self = match (std::mem::take(self), other) {
            (Self::Everything, _) | (_, Self::Everything) => Self::Everything,
            (Self::Nothing, other) => other,
            (this, Self::Nothing) => this,
            (Self::Some(mut these), Self::Some(those)) => {
                these.extend(those);
                Self::Some(these)
            }
        };
    }
}

impl Dirty {
    /// What a change of a key of the store concerns. A borrowed address changes what the
    /// whole subnet's entries say.
    pub fn of(key: &store::Key) -> Self {
        match key {
            store::Key::Route(id, cidr) if single(*cidr).is_none() => Source::Block(*id, *cidr).into(),
            store::Key::Node(name) => Source::Node(name.clone()).into(),
            store::Key::Cluster
            | store::Key::Route(..)
            | store::Key::Network(_)
            | store::Key::Pool(_)
            | store::Key::Denied(_)
            | store::Key::Removed(_) => Self::Everything,
            // Nothing of the kernel's follows from these.
            store::Key::Alive(_)
            | store::Key::Sequence
            | store::Key::Reservation(_)
            | store::Key::Address(_)
            | store::Key::Ipam(..) => Self::Nothing,
        }
    }
}

impl From<Source> for Dirty {
    fn from(source: Source) -> Self {
        Self::Some([source].into())
    }
}

impl Source {
    /// The entries that follow from it.
    pub fn entries(&self, snapshot: &Snapshot, facts: &LocalFacts) -> Vec<Entry> {
        match self {
            Self::Block(id, cidr) => {
                let claim = snapshot.claims.get(&(*id, *cidr));
                claim
                    .and_then(|claim| routes::entry(*id, *cidr, claim, snapshot, facts))
                    .into_iter()
                    .collect()
            }
            Self::Node(name) => {
                let own = snapshot
                    .nodes
                    .get(name)
                    .into_iter()
                    .flat_map(|node| prefixes::node(node, snapshot, facts));
                let claims = snapshot.claims_of(name);
                own.chain(
                    claims.filter_map(|(id, cidr, claim)| routes::entry(id, cidr, claim, snapshot, facts)),
                )
                .collect()
            }
            Self::Endpoint(id) => {
                let endpoint = facts.endpoints.get(id);
                let network = endpoint.and_then(|endpoint| snapshot.networks.get(&endpoint.network));
                match (endpoint, network) {
                    (Some(endpoint), Some(network)) => endpoints::entries(endpoint, network, snapshot, facts),
                    _ => Vec::new(),
                }
            }
        }
    }

    /// The keys of entries that may have followed from it before, as far as the
    /// snapshot says so; the others have to be remembered.
    pub fn keys(&self, snapshot: &Snapshot) -> Vec<Key> {
        let route = |network, cidr| Key::Route(routes::key(network, cidr));
        match self {
            Self::Block(network, cidr) => vec![route(*network, *cidr)],
            Self::Node(name) => {
                snapshot.claims_of(name).map(|(network, cidr, _)| route(network, cidr)).collect()
            }
            Self::Endpoint(_) => Vec::new(),
        }
    }

    /// Whether the key of an entry that follows from it has to be remembered.
    pub fn is_remembered(&self, key: &Key) -> bool {
        match self {
            Self::Block(..) => false,
            Self::Node(_) => matches!(key, Key::Prefix(_)),
            Self::Endpoint(_) => true,
        }
    }
}
