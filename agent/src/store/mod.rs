//! Where the cluster's desired state lives.

pub mod embedded;
pub mod etcd;
pub mod transfer;

use std::{fmt, net::IpAddr, time::Duration};

use futures::future::BoxFuture;
use thiserror::Error;
use tokio::{
    sync::{mpsc, watch},
    task::AbortHandle,
    time::timeout,
};

use crate::{
    again::Again,
    model::{
        key::{Key, Prefix},
        snapshot::Event,
    },
    problem::Problem,
};

/// How often it is looked whether a store can be written.
const LOOK: Duration = Duration::from_secs(3);

/// The attempts at one thing with a store.
fn again() -> Again {
    Again::new(Duration::from_millis(100), Duration::from_secs(5))
}

/// How long one reading or transaction may take, whatever becomes of members of the
/// store meanwhile: enough for them to elect a leader. Who rests on several of them
/// has more time than they have together.
pub const OPERATION: Duration = Duration::from_secs(4);

/// In what way the store fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It cannot be asked.
    Away,
    /// It can be read, but nothing can be written.
    ReadOnly,
    /// It answers, and will not do this.
    Refuses,
}

/// The store does not do it now; asking again later may help.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{kind}: {problem}; {mend}")]
pub struct Away {
    /// In what way.
    pub kind: Kind,
    /// What is wrong, in a sentence.
    pub problem: String,
    /// What can be done.
    pub mend: String,
}

impl Away {
    /// The store cannot be asked.
    pub fn new(problem: impl Into<String>, mend: impl Into<String>) -> Self {
        Self { kind: Kind::Away, problem: problem.into(), mend: mend.into() }
    }

    /// The same as a [`Problem`].
    pub fn to_problem(&self) -> Problem {
        Problem::new(format!("{}: {}", self.kind, self.problem), &*self.mend)
    }

    /// Others were faster at every attempt.
    pub fn contended(problem: impl Into<String>) -> Self {
        Self { kind: Kind::Refuses, problem: problem.into(), mend: "wait, the agent tries again".into() }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Away => "the store is away",
            Self::ReadOnly => "the store takes no writes",
            Self::Refuses => "the store refuses this",
        })
    }
}

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

impl Txn {
    /// Whether it cannot be carried out a second time: it changes a key that it rests on.
    pub fn excludes_itself(&self) -> bool {
        let puts = |key: &Key| self.ops.iter().any(|op| matches!(op, Op::Put(changed, _) if changed == key));
        let deletes = |key: &Key| self.ops.iter().any(|op| matches!(op, Op::Delete(gone) if gone == key));
        self.conditions.iter().any(|condition| match condition {
            Condition::Absent(key) => puts(key),
            Condition::Revision(key, _) => puts(key) || deletes(key),
            Condition::UnchangedSince(..) => false,
        })
    }
}

/// How a transaction ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Commit {
    /// Done, at this revision.
    Done(i64),
    /// A condition did not hold; nothing was done.
    Conflict,
}

/// What those parts of the store tell that are watched.
#[derive(Debug)]
pub enum Feed<L = Listing> {
    /// Everything, as it is now.
    Listing(L),
    /// What changed.
    Events {
        /// The revision of the newest of them.
        revision: i64,
        /// The parts of the store of which everything up to that revision has been told.
        whole: Vec<Prefix>,
        /// The changes, in their order.
        events: Vec<Event>,
    },
    /// The store does not answer; the feed goes on trying.
    Away(Away),
    /// It answers again, and nothing was missed.
    Back,
    /// It can be read, and not be written for this reason; or it can be written again.
    Writable(Result<(), Away>),
}

impl<L> Feed<L> {
    /// The same with another form of a listing.
    pub fn map<M>(self, form: impl FnOnce(L) -> M) -> Feed<M> {
        match self {
            Self::Listing(listing) => Feed::Listing(form(listing)),
            Self::Events { revision, whole, events } => Feed::Events { revision, whole, events },
            Self::Away(away) => Feed::Away(away),
            Self::Back => Feed::Back,
            Self::Writable(result) => Feed::Writable(result),
        }
    }
}

/// Keeps a key in the store as long as it lives.
#[derive(Debug)]
pub struct Announcement(AbortHandle);

impl Drop for Announcement {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Why a store cannot be written, as far as it is known.
type Unwritable = watch::Sender<Option<Away>>;

/// Notes that a store can be written or cannot; a reason that is known stays.
fn note(unwritable: &Unwritable, found: Option<&Away>) {
    unwritable.send_if_modified(|known| {
        let changes = known.is_some() != found.is_some();
        if changes {
            *known = found.cloned();
        }
        changes
    });
}

/// Tells of whether a store can be written, for as long as somebody listens. `look`
/// notes what it finds.
async fn tell_writable<L: Future<Output = ()>>(
    unwritable: &Unwritable,
    look: impl Fn() -> L,
    send: mpsc::Sender<Feed>,
) {
    let mut known = unwritable.subscribe();
    let mut told = false;
    loop {
        look().await;
        let found = known.borrow_and_update().clone();
        if found.is_some() != told {
            told = found.is_some();
            if send.send(Feed::Writable(found.map_or(Ok(()), Err))).await.is_err() {
                return;
            }
        }
        tokio::select! {
            // Whether it changed or not, it is looked at again.
            _ = timeout(LOOK, known.changed()) => {}
            () = send.closed() => return,
        }
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

    /// Tells of some parts of the store, a listing first, until the receiver is
    /// dropped. What one transaction changed in parts that are neighbours in the order
    /// of their keys ([`Prefix::ALL`]) is told at once.
    fn watch(&self, prefixes: &[Prefix]) -> mpsc::Receiver<Feed>;

    /// Keeps a key there until the announcement is dropped or this process
    /// ends, and for the time of a lease after that.
    fn announce(&self, key: Key, value: Vec<u8>) -> Announcement;
}
