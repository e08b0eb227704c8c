//! The table of workloads: slots of an array, and a hash for whom finds his taken.

use std::{collections::BTreeMap, path::Path};

use anyhow::Result;
use margay_common::{
    endpoint::{Workload, WorkloadSlot},
    table,
};

use super::table::{HashTable, Slots};

/// Containers by the index of their interface's host side. Each is in one place: in
/// its slot, or beyond if that was taken when it came.
pub struct Workloads {
    slots: Slots<WorkloadSlot>,
    spill: HashTable<u32, Workload>,
}

impl Workloads {
    /// Opens the pinned maps.
    pub fn open(dir: &Path) -> Result<Self> {
        let slots = Slots::open(dir, table::WORKLOADS)?;
        Ok(Self { slots, spill: HashTable::open(dir, table::WORKLOAD_SPILL)? })
    }

    /// All entries.
    pub fn read(&self) -> Result<BTreeMap<u32, Workload>> {
        let mut all = self.spill.read()?;
        for slot in self.slots.read()? {
            if slot.ifindex != 0 {
                all.insert(slot.ifindex, slot.workload);
            }
        }
        Ok(all)
    }

    /// Adds or replaces an entry. Fails if its slot is taken and there is no more
    /// room beyond.
    pub fn put(&mut self, ifindex: u32, workload: Workload) -> Result<()> {
        let at = WorkloadSlot::of(ifindex);
        let owner = self.slots.get(at)?.ifindex;
        let is_free = owner == 0 && self.spill.get(ifindex)?.is_none();
        if is_free || owner == ifindex {
            self.slots.put(at, WorkloadSlot { ifindex, workload })
        } else {
            self.spill.put(ifindex, workload)
        }
    }

    /// Removes an entry, if it is there.
    pub fn remove(&mut self, ifindex: u32) -> Result<()> {
        let at = WorkloadSlot::of(ifindex);
        if self.slots.get(at)?.ifindex == ifindex {
            self.slots.put(at, WorkloadSlot::default())?;
        }
        self.spill.remove(ifindex)
    }
}
