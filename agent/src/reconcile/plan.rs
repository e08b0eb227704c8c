//! The changes that lead from one state of the kernel to another.

use crate::tables::{Entry, Key, Tables};

/// One write to the kernel. Both kinds are idempotent: putting what is there
/// and removing what is not succeed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Add or replace an entry.
    Put(Entry),
    /// Remove an entry.
    Remove(Key),
}

impl Change {
    /// The entry concerned.
    pub fn key(&self) -> Key {
        match self {
            Self::Put(entry) => entry.key(),
            Self::Remove(key) => key.clone(),
        }
    }
}

/// The changes that turn `actual` into `desired`, in an order in which every
/// entry finds what it refers to: additions along the tables, then removals
/// against them. A program that takes another's place comes last: it may read
/// tables that are only just filled.
pub fn plan(desired: &Tables, actual: &Tables) -> Vec<Change> {
    let (put, remove) = desired.difference(actual);
    let replaces =
        |entry: &Entry| matches!(entry, Entry::Attachment(name, _) if actual.attachments.contains_key(name));
    let (last, put): (Vec<Entry>, Vec<Entry>) = put.into_iter().partition(replaces);
    let put = put.into_iter().chain(last).map(Change::Put);
    put.chain(remove.into_iter().rev().map(Change::Remove)).collect()
}

#[cfg(test)]
mod tests;
