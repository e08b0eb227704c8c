//! What should be, kept in step with what changed: the fold of `desired`, of
//! everything or of single sources.

use std::collections::BTreeSet;

use ipnet::IpNet;

use super::State;
use crate::{
    desired::{Dirty, LocalFacts, Source, desired, prefix_key},
    model::snapshot::Snapshot,
    reconcile::{Change, plan},
    shared::Shared,
    tables::{Entry, Key, Tables},
};

/// What the kernel should hold, and what each part of it follows from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fold {
    /// What should be.
    pub tables: Tables,
    /// The entries that go with an endpoint or a node, which nothing else tells.
    own: Shared<Source, Vec<Key>>,
}

impl Fold {
    /// Everything afresh.
    pub fn of(snapshot: &Snapshot, facts: &LocalFacts) -> Self {
        let endpoints = facts.endpoints.keys().cloned().map(Source::Endpoint);
        let sources = endpoints.chain(snapshot.nodes.keys().cloned().map(Source::Node));
        let own = |source: Source| {
            let keys = match &source {
                // Not by its entries: that would be a scan of all claims for each.
                Source::Node(name) => {
                    let addresses = snapshot.nodes.get(name).into_iter().flat_map(|node| &node.addresses);
                    addresses.map(|addr| Key::Prefix(prefix_key(IpNet::from(*addr)))).collect()
                }
                source => source.entries(snapshot, facts).iter().map(Entry::key).collect(),
            };
            (source, keys)
        };
        Self { tables: desired(snapshot, facts), own: sources.map(own).collect() }
    }

    /// Folds some sources again and returns the keys that may differ. One source may have lost
    /// what another has gained, so the entries of all these sources are taken away first.
    pub fn update(
        &mut self,
        sources: &BTreeSet<Source>,
        snapshot: &Snapshot,
        facts: &LocalFacts,
    ) -> BTreeSet<Key> {
        let mut keys = BTreeSet::new();
        for source in sources {
            keys.extend(source.keys(snapshot));
            keys.extend(self.own.remove(source).unwrap_or_default());
        }
        keys.iter().for_each(|key| self.tables.remove(key));
        for source in sources {
            let entries = source.entries(snapshot, facts);
            let new = entries.iter().map(Entry::key);
            let exists = match source {
                Source::Endpoint(id) => facts.endpoints.contains_key(id),
                Source::Node(name) => snapshot.nodes.contains_key(name),
                Source::Block(..) => false,
            };
            if exists {
                let own = new.clone().filter(|key| source.is_remembered(key)).collect();
                self.own.insert(source.clone(), own);
            }
            keys.extend(new);
            entries.into_iter().for_each(|entry| self.tables.put(entry));
        }
        keys
    }
}

impl State {
    /// The changes that lead from what is to what should be, in their order, as far as
    /// `dirty` says that anything should be otherwise than before; with `afresh` as far as
    /// anything at all differs.
    pub fn changes(&mut self, dirty: &Dirty, afresh: bool, actual: &Tables) -> Vec<Change> {
        let blind = self.snapshot.blind();
        let mut changes = match dirty {
            Dirty::Some(sources) if !afresh => self.some_changes(sources, actual),
            dirty => {
                self.fold_anew(dirty);
                plan(&self.fold.tables, actual)
            }
        };
        changes.retain(|change| self.permits(change, actual, &blind));
        let open: BTreeSet<Key> = changes.iter().map(Change::key).collect();
        match dirty {
            // What nobody looked at is still to be tried again.
            Dirty::Some(_) if !afresh => {}
            _ => self.retry.keep_only(|key| open.contains(key)),
        }
        changes
    }

    fn fold_anew(&mut self, dirty: &Dirty) {
        match dirty {
            Dirty::Everything => self.fold = Fold::of(&self.snapshot, &self.facts),
            Dirty::Some(sources) => drop(self.fold.update(sources, &self.snapshot, &self.facts)),
            Dirty::Nothing => {}
        }
    }

    fn some_changes(&mut self, sources: &BTreeSet<Source>, actual: &Tables) -> Vec<Change> {
        let mut keys = self.fold.update(sources, &self.snapshot, &self.facts);
        keys.extend(self.released.iter().cloned());
        let (mut part, mut there) = (Tables::default(), Tables::default());
        for key in &keys {
            self.fold.tables.get(key).into_iter().for_each(|entry| part.put(entry));
            actual.get(key).into_iter().for_each(|entry| there.put(entry));
        }
        let changes = plan(&part, &there);
        let open: BTreeSet<Key> = changes.iter().map(Change::key).collect();
        self.retry.keep_only(|key| !keys.contains(key) || open.contains(key));
        changes
    }
}

#[cfg(test)]
mod tests;
