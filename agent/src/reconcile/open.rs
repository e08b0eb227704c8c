//! The changes that the agent still has to make. Each belongs to a lane, which says who makes
//! it: the control loop or a worker. Within a lane the changes are in the order in which the
//! agent makes them.

use std::collections::{BTreeMap, BTreeSet};

use super::Change;
use crate::tables::{Key, Tables};

/// A kind of changes that take similarly long. The control loop makes those of the first lane
/// itself. Each other lane has a worker of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Lane {
    /// Writes to maps, single netlink calls and attachments to tc hooks. The loop makes them
    /// itself, in slices of 5 ms at most, and handles other events between two slices.
    Quick,
    /// XDP attachments: a driver may restart its link for one, which takes seconds.
    Xdp,
    /// nftables, iptables and sysctls: the agent runs programs of the host and writes files.
    Host,
}

impl Lane {
    /// The lanes of workers. A worker makes one change at a time. The loop gives it the next one
    /// when no quick change is open.
    pub const SLOW: [Self; 2] = [Self::Xdp, Self::Host];

    /// The lane of all changes of an entry.
    pub fn of(key: &Key) -> Self {
        match key {
            Key::Xdp(_) => Self::Xdp,
            Key::Firewall(()) | Key::Accept(_) | Key::Sysctl(_) => Self::Host,
            _ => Self::Quick,
        }
    }
}

/// The stages of a lane's changes. First the agent adds and changes entries, in the order of the
/// tables. Then it replaces programs at hooks, since the new ones may read entries that were just
/// added. Last it removes entries, in the reverse order of the tables.
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

/// The keys of entries that the agent still has to change. When an entry's turn comes, the agent
/// compares the desired with the actual tables to find its change.
#[derive(Clone, Debug, Default)]
pub struct Open(BTreeMap<(Lane, Turn), BTreeSet<Key>>);

impl Open {
    /// Adds a change. A second change of the same entry and stage adds nothing.
    pub fn add(&mut self, change: &Change, actual: &Tables) {
        let key = change.key();
        self.0.entry((Lane::of(&key), Turn::of(change, actual))).or_default().insert(key);
    }

    /// Whether a lane has no open change.
    pub fn is_empty(&self, lane: Lane) -> bool {
        !self.0.iter().any(|((of, _), keys)| *of == lane && !keys.is_empty())
    }

    /// Whether no lane has an open change.
    pub fn is_done(&self) -> bool {
        self.0.values().all(BTreeSet::is_empty)
    }

    /// Removes all open changes.
    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// Takes the next change of a lane. `change` gives the change that an entry needs now, or
    /// none.
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
            // Since it was added the change has become one of a later stage.
            self.add(&found, actual);
        }
    }
}

#[cfg(test)]
mod tests {
    use margay_common::{endpoint::Workload, net::Addr};

    use super::*;
    use crate::{reconcile::plan, tables::Entry};

    /// The change of one entry that leads from the actual to the desired state.
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
        // Meanwhile the first exists and is not desired, and the second is neither.
        actual.put(Entry::Workload(1, Workload::default()));
        let mut desired = Tables::default();
        desired.put(Entry::Workload(3, Workload::default()));
        let mut next = || open.next(Lane::Quick, &actual, |key| changes(&desired, &actual, key));
        assert_eq!(next().map(|change| change.key()), Some(Key::Workload(3)));
        assert_eq!(next(), Some(Change::Remove(Key::Workload(1))));
        assert_eq!(next(), None);
    }
}
