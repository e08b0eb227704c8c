//! What should be, kept in step with what changed: the fold of `desired`, of
//! everything or of single sources.

use std::collections::{BTreeMap, BTreeSet};

use super::State;
use crate::{
    desired::{Dirty, LocalFacts, Source, desired},
    model::snapshot::Snapshot,
    reconcile::{Change, plan},
    tables::{Entry, Key, Tables},
};

/// What the kernel should hold, and which endpoint each part of it is for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fold {
    /// What should be.
    pub tables: Tables,
    /// The entries of each endpoint, so that they go with it.
    endpoints: BTreeMap<String, Vec<Key>>,
}

impl Fold {
    /// Everything afresh.
    pub fn of(snapshot: &Snapshot, facts: &LocalFacts) -> Self {
        let keys = |id: &String| {
            let entries = Source::Endpoint(id.clone()).entries(snapshot, facts);
            (id.clone(), entries.iter().map(Entry::key).collect())
        };
        Self { tables: desired(snapshot, facts), endpoints: facts.endpoints.keys().map(keys).collect() }
    }

    /// Folds one source anew, and gives the keys that may differ.
    pub fn update(&mut self, source: &Source, snapshot: &Snapshot, facts: &LocalFacts) -> Vec<Key> {
        let mut keys: Vec<Key> = source.keys().into_iter().collect();
        if let Source::Endpoint(id) = source {
            keys.extend(self.endpoints.remove(id).unwrap_or_default());
        }
        keys.iter().for_each(|key| self.tables.remove(key));
        let entries = source.entries(snapshot, facts);
        let new = entries.iter().map(Entry::key);
        if let Source::Endpoint(id) = source
            && facts.endpoints.contains_key(id)
        {
            self.endpoints.insert(id.clone(), new.clone().collect());
        }
        keys.extend(new);
        entries.into_iter().for_each(|entry| self.tables.put(entry));
        keys
    }
}

impl State {
    /// The changes that lead from what is to what should be, in their order,
    /// as far as `dirty` says that anything may differ.
    pub fn changes(&mut self, dirty: &Dirty, actual: &Tables) -> Vec<Change> {
        let blind = self.snapshot.blind();
        let mut changes = match dirty {
            Dirty::Some(sources) => self.some_changes(sources, actual),
            _ => {
                self.fold = Fold::of(&self.snapshot, &self.facts);
                plan(&self.fold.tables, actual)
            }
        };
        changes.retain(|change| self.permits(change, actual, &blind));
        let open: BTreeSet<Key> = changes.iter().map(Change::key).collect();
        match dirty {
            // What nobody looked at is still to be tried again.
            Dirty::Some(_) => {}
            _ => self.retry.keep_only(|key| open.contains(key)),
        }
        changes
    }

    fn some_changes(&mut self, sources: &BTreeSet<Source>, actual: &Tables) -> Vec<Change> {
        let mut keys = BTreeSet::new();
        for source in sources {
            keys.extend(self.fold.update(source, &self.snapshot, &self.facts));
        }
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
