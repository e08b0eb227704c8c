//! Where the cluster's desired state lives.

pub mod etcd;
#[cfg(test)]
pub mod memory;
mod watch;

use std::fmt;

use futures::future::BoxFuture;
use thiserror::Error;
use tokio::sync::mpsc;

use crate::model::{key::Key, snapshot::Event};

/// The store cannot do it now; asking again later may help.
#[derive(Debug, Error)]
#[error("the store is away: {0}")]
pub struct Away(pub String);

/// A consistent reading of parts of the store.
#[derive(Clone, Debug, Default)]
pub struct Listing {
    /// The store's revision at that moment.
    pub revision: i64,
    /// What was there, each as a put.
    pub entries: Vec<Event>,
}

impl Listing {
    /// When a key was last changed, if it is there.
    pub fn revision_of(&self, key: &Key) -> Option<i64> {
        let text = key.to_string();
        self.entries.iter().find_map(|entry| match entry {
            Event::Put { key, revision, .. } if *key == text => Some(*revision),
            _ => None,
        })
    }
}

/// What a transaction rests on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    /// The key does not exist.
    Absent(Key),
    /// The key was last changed at this revision.
    Revision(Key, i64),
    /// No key that begins with the prefix was written after the revision.
    UnchangedSince(String, i64),
}

/// What a transaction does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Write a key.
    Put(Key, Vec<u8>),
    /// Remove a key.
    Delete(Key),
    /// Remove every key that begins with the prefix.
    DeletePrefix(String),
}

/// All or nothing, if every condition holds.
#[derive(Clone, Debug, Default)]
pub struct Txn {
    /// What has to hold.
    pub conditions: Vec<Condition>,
    /// What happens then.
    pub ops: Vec<Op>,
}

/// How a transaction ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Commit {
    /// Done, at this revision.
    Done(i64),
    /// A condition did not hold; nothing was done.
    Conflict,
}

/// What the watched part of the store tells.
#[derive(Debug)]
pub enum Feed {
    /// Everything, as it is now.
    Listing(Listing),
    /// What changed.
    Events {
        /// Everything of networks, nodes and routes up to this revision has
        /// been told; 0 where that says nothing.
        revision: i64,
        /// The changes, in their order.
        events: Vec<Event>,
    },
    /// The store does not answer; the feed goes on trying.
    Away(String),
    /// It answers again, and nothing was missed.
    Back,
}

/// A store.
pub trait Store: fmt::Debug + Send + Sync {
    /// Reads all keys that begin with one of the prefixes, at one revision.
    fn list<'a>(&'a self, prefixes: &'a [String]) -> BoxFuture<'a, Result<Listing, Away>>;

    /// Carries out a transaction.
    fn commit(&self, txn: Txn) -> BoxFuture<'_, Result<Commit, Away>>;

    /// Tells of the watched part of the store, a listing first, until the
    /// receiver is dropped.
    fn watch(&self) -> mpsc::Receiver<Feed>;

    /// Keeps a key there for as long as this process lives.
    fn announce(&self, key: Key, value: Vec<u8>);
}
