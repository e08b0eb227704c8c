//! What a change of the store concerns here.

use std::collections::BTreeMap;

use crate::{
    desired::Dirty,
    model::{
        key::{Key, Prefix},
        snapshot::Event,
    },
};

/// What one change concerns.
#[derive(Debug)]
pub(super) struct Concern {
    /// What has to be folded again.
    pub(super) dirty: Dirty,
    /// Whether the networks have to be judged again.
    pub(super) networks: bool,
    /// Whether the host's own routes have to be compared again.
    pub(super) routes: bool,
    /// A node that may have been lost or found.
    pub(super) node: Option<String>,
    /// Whether this agent knows the key. Nothing hangs on one that it does not know.
    pub(super) known: bool,
}

impl Concern {
    pub(super) fn of(event: &Event) -> Self {
        let Some(key) = Key::parse(event.key()) else {
            return Self { dirty: Dirty::Nothing, networks: false, routes: false, node: None, known: false };
        };
        let (networks, routes, node) = match &key {
            Key::Network(_) => (true, true, None),
            Key::Pool(_) => (false, true, None),
            Key::Node(name) => (false, true, Some(name.clone())),
            Key::Alive(name) => (false, false, Some(name.clone())),
            Key::Cluster | Key::Denied(_) | Key::Removed(_) | Key::Route(..) => (false, false, None),
            // Not watched ([`crate::model::snapshot::Snapshot::PREFIXES`]).
            Key::Sequence | Key::Reservation(_) | Key::Address(_) | Key::Ipam(..) => (false, false, None),
        };
        Self { dirty: Dirty::of(&key), networks, routes, node, known: true }
    }
}

/// How many changes came in, by the part of the store that they are of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Events(BTreeMap<Prefix, u64>);

impl Events {
    /// Counts one.
    pub(super) fn count(&mut self, event: &Event) {
        if let Some(prefix) = Prefix::of(event.key()) {
            *self.0.entry(prefix).or_default() += 1;
        }
    }

    /// All of them.
    pub fn total(&self) -> u64 {
        self.0.values().sum()
    }

    /// By the name of the part.
    pub fn by_part(&self) -> impl Iterator<Item = (&'static str, u64)> {
        self.0.iter().map(|(prefix, count)| (prefix.name(), *count))
    }
}
