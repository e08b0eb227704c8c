//! What is still to be changed, in the order in which it may be, and beside what.

use std::collections::{BTreeMap, BTreeSet};

use super::Change;
use crate::tables::{Key, Tables};

/// How long a kind of changes takes, and beside what it is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Lane {
    /// Calls of the kernel's that answer at once.
    Quick,
    /// A card's driver may restart its link for an XDP program, which takes seconds.
    Xdp,
    /// Programs of the host's own are run for it, or files are written: as long as
    /// those take.
    Host,
}

impl Lane {
    /// Those that nobody waits for. Changes of one are made one after the other, and begin
    /// when what is quick and comes before them has been made.
    pub const SLOW: [Self; 2] = [Self::Xdp, Self::Host];

    /// Which one an entry's changes belong to.
    pub fn of(key: &Key) -> Self {
        match key {
            Key::Xdp(_) => Self::Xdp,
            Key::Firewall(()) | Key::Accept(_) | Key::Sysctl(_) => Self::Host,
            // Maps, and calls that the kernel answers at once.
            _ => Self::Quick,
        }
    }
}

/// In what order changes are made: what is put along the tables, programs that take
/// another's place, which may read tables that are only just filled, and what is removed,
/// against the tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Turn {
    Put,
    Replace,
    Remove,
}

impl Turn {
    fn of(change: &Change, actual: &Tables) -> Self {
        match change {
            Change::Put(entry) => match entry.key() {
                Key::Attachment(name) if actual.attachments.contains_key(&name) => Self::Replace,
                _ => Self::Put,
            },
            Change::Remove(_) => Self::Remove,
        }
    }
}

/// Entries that are to be changed. What the change is the tables say when its turn comes.
#[derive(Clone, Debug, Default)]
pub struct Open(BTreeMap<(Lane, Turn), BTreeSet<Key>>);

impl Open {
    /// Adds a change. Twice is once.
    pub fn add(&mut self, change: &Change, actual: &Tables) {
        let key = change.key();
        self.0.entry((Lane::of(&key), Turn::of(change, actual))).or_default().insert(key);
    }

    /// Whether a lane has anything to change.
    pub fn is_empty(&self, lane: Lane) -> bool {
        !self.0.iter().any(|((of, _), keys)| *of == lane && !keys.is_empty())
    }

    /// Whether no lane has.
    pub fn is_done(&self) -> bool {
        self.0.values().all(BTreeSet::is_empty)
    }

    /// Forgets every open change.
    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// The next change of a lane, of those that are still to be made: `change` says what
    /// would lead from what is to what should be.
    pub fn next(
        &mut self,
        lane: Lane,
        actual: &Tables,
        mut change: impl FnMut(&Key) -> Option<Change>,
    ) -> Option<Change> {
        loop {
            let mut of_lane = self.0.iter_mut().filter(|((of, _), keys)| *of == lane && !keys.is_empty());
            let ((_, turn), keys) = of_lane.next()?;
            let key = if *turn == Turn::Remove { keys.pop_last() } else { keys.pop_first() }?;
            let Some(found) = change(&key) else { continue };
            if Turn::of(&found, actual) <= *turn {
                return Some(found);
            }
            // It has come to be another since, whose turn is later.
            self.add(&found, actual);
        }
    }
}

#[cfg(test)]
mod tests {
    use margay_common::{endpoint::Workload, net::Addr};

    use super::*;
    use crate::{reconcile::plan, tables::Entry};

    /// What leads from one state to another, and may change its mind on the way.
    fn changes(desired: &Tables, actual: &Tables, key: &Key) -> Option<Change> {
        let (wanted, found) = (desired.get(key), actual.get(key));
        match wanted {
            Some(wanted) if found.as_ref() != Some(&wanted) => Some(Change::Put(wanted)),
            None if found.is_some() => Some(Change::Remove(key.clone())),
            _ => None,
        }
    }

    #[test]
    fn changes_come_in_the_order_of_the_plan_lane_by_lane() {
        let (mut desired, mut actual) = (Tables::default(), Tables::default());
        for index in [3, 1, 2] {
            desired.put(Entry::Workload(index, Workload::default()));
        }
        desired.put(Entry::Firewall((), Default::default()));
        actual.put(Entry::Endpoint(Addr::default(), Default::default()));
        actual.put(Entry::Interface("mgy1".into(), crate::tables::Interface::Endpoint));
        let planned = plan(&desired, &actual);
        let mut open = Open::default();
        planned.iter().rev().for_each(|change| open.add(change, &actual));
        let mut made = Vec::new();
        while let Some(change) = open.next(Lane::Quick, &actual, |key| changes(&desired, &actual, key)) {
            made.push(change);
        }
        let quick: Vec<Change> =
            planned.iter().filter(|change| Lane::of(&change.key()) == Lane::Quick).cloned().collect();
        assert_eq!(made, quick);
        assert!(open.is_empty(Lane::Quick) && open.is_empty(Lane::Xdp) && !open.is_empty(Lane::Host));
        let slow = open.next(Lane::Host, &actual, |key| changes(&desired, &actual, key));
        assert_eq!(slow.map(|change| change.key()), Some(Key::Firewall(())));
    }

    #[test]
    fn open_change_of_an_entry_that_changed_is_reordered_or_dropped() {
        let mut actual = Tables::default();
        let mut open = Open::default();
        for index in 1..=3 {
            open.add(&Change::Put(Entry::Workload(index, Workload::default())), &actual);
        }
        // Meanwhile the first is there and unwanted, the second is nobody's affair.
        actual.put(Entry::Workload(1, Workload::default()));
        let mut desired = Tables::default();
        desired.put(Entry::Workload(3, Workload::default()));
        let mut next = || open.next(Lane::Quick, &actual, |key| changes(&desired, &actual, key));
        assert_eq!(next().map(|change| change.key()), Some(Key::Workload(3)));
        assert_eq!(next(), Some(Change::Remove(Key::Workload(1))));
        assert_eq!(next(), None);
    }
}
