//! Where the cluster's desired state lives.

pub mod embedded;
pub mod etcd;
pub mod transfer;
mod watch;

use std::{fmt, net::IpAddr, time::Duration};

use backon::{BackoffBuilder, ExponentialBuilder};
use futures::future::BoxFuture;
use thiserror::Error;
use tokio::{sync::mpsc, task::AbortHandle};

use crate::model::{key::Key, snapshot::Event};

/// What is watched by all: prefixes behind the root.
pub const LISTED: [&str; 8] =
    ["alive/", "cluster", "networks/", "nodes/", "pools/", "refused/", "removed/", "routes/"];

/// Waits between attempts: doubling from 100 ms to 5 s, with jitter.
fn waits() -> impl Iterator<Item = Duration> + Send {
    ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(100))
        .with_max_delay(Duration::from_secs(5))
        .with_jitter()
        .without_max_times()
        .build()
}

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
    /// The value of a key, if it is there.
    pub fn value_of(&self, key: &Key) -> Option<&[u8]> {
        let text = key.to_string();
        self.entries.iter().find_map(|entry| match entry {
            Event::Put { key, value, .. } if *key == text => Some(&**value),
            _ => None,
        })
    }

    /// That a key is still as it was read.
    pub fn unchanged(&self, key: &Key) -> Condition {
        match self.revision_of(key) {
            Some(revision) => Condition::Revision(key.clone(), revision),
            None => Condition::Absent(key.clone()),
        }
    }

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

/// Keeps a key in the store as long as it lives.
#[derive(Debug)]
pub struct Announcement(AbortHandle);

impl Drop for Announcement {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A store.
pub trait Store: fmt::Debug + Send + Sync {
    /// Reads all keys that begin with one of the prefixes, at one revision.
    fn list<'a>(&'a self, prefixes: &'a [String]) -> BoxFuture<'a, Result<Listing, Away>>;

    /// Carries out a transaction.
    fn commit(&self, txn: Txn) -> BoxFuture<'_, Result<Commit, Away>>;

    /// The addresses at which it is reached; none for one that is here.
    fn addresses(&self) -> BoxFuture<'_, Vec<IpAddr>>;

    /// Tells of the watched part of the store, a listing first, until the
    /// receiver is dropped.
    fn watch(&self) -> mpsc::Receiver<Feed>;

    /// Keeps a key there until the announcement is dropped or this process
    /// ends, and for the time of a lease after that.
    fn announce(&self, key: Key, value: Vec<u8>) -> Announcement;
}
