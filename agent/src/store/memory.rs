//! A store in memory, for tests of what stands on one.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard},
};

use futures::{FutureExt, future::BoxFuture};
use tokio::sync::mpsc;

use super::{Away, Commit, Condition, Feed, Listing, Op, Store, Txn};
use crate::model::{key::Key, snapshot::Event};

/// A store that is gone with the test.
#[derive(Debug, Default)]
pub struct Memory {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    revision: i64,
    values: BTreeMap<String, (Vec<u8>, i64)>,
}

impl Memory {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no test panics in here")
    }
}

impl State {
    fn holds(&self, condition: &Condition) -> bool {
        let revision = |key: &Key| self.values.get(&key.to_string()).map(|(_, revision)| *revision);
        match condition {
            Condition::Absent(key) => revision(key).is_none(),
            Condition::Revision(key, wanted) => revision(key) == Some(*wanted),
            Condition::UnchangedSince(prefix, since) => {
                let mut within = self.values.iter().filter(|(key, _)| key.starts_with(prefix));
                within.all(|(_, (_, revision))| revision <= since)
            }
        }
    }

    fn carry_out(&mut self, op: Op) {
        match op {
            Op::Put(key, value) => drop(self.values.insert(key.to_string(), (value, self.revision))),
            Op::Delete(key) => drop(self.values.remove(&key.to_string())),
            Op::DeletePrefix(prefix) => self.values.retain(|key, _| !key.starts_with(&prefix)),
        }
    }
}

impl Store for Memory {
    fn list<'a>(&'a self, prefixes: &'a [String]) -> BoxFuture<'a, Result<Listing, Away>> {
        let state = self.state();
        let wanted = |key: &String| prefixes.iter().any(|prefix| key.starts_with(prefix));
        let found = state.values.iter().filter(|(key, _)| wanted(key));
        let put = |(key, (value, revision)): (&String, &(Vec<u8>, i64))| Event::Put {
            key: key.clone(),
            value: value.clone(),
            revision: *revision,
        };
        let listing = Listing { revision: state.revision, entries: found.map(put).collect() };
        async { Ok(listing) }.boxed()
    }

    fn commit(&self, txn: Txn) -> BoxFuture<'_, Result<Commit, Away>> {
        let mut state = self.state();
        let commit = if txn.conditions.iter().all(|condition| state.holds(condition)) {
            state.revision += 1;
            txn.ops.into_iter().for_each(|op| state.carry_out(op));
            Commit::Done(state.revision)
        } else {
            Commit::Conflict
        };
        async move { Ok(commit) }.boxed()
    }

    fn watch(&self) -> mpsc::Receiver<Feed> {
        mpsc::channel(1).1
    }

    fn announce(&self, _: Key, _: Vec<u8>) {}
}
