//! The table of senders: slots of an array, and a hash for those whose slot is taken.

use std::{collections::BTreeMap, path::PathBuf};

use anyhow::Result;
use margay_common::{
    endpoint::{Workload, WorkloadSlot},
    maps::{self, Map},
};

use super::{
    pins::Pins,
    table::{HashTable, Slots, Table, all},
};

/// Containers by the index of their interface's host side. Each is in one place: in
/// its slot, or beyond if that was taken when it came.
pub struct WorkloadTable {
    pin: PathBuf,
    slots: Slots<WorkloadSlot>,
    spill: HashTable<u32, Workload>,
}

impl WorkloadTable {
    /// All entries.
    pub fn read(&self) -> Result<BTreeMap<u32, Workload>> {
        let mut every = self.spilled()?;
        let slots = all::<WorkloadSlot>(&self.pin)?;
        let taken = slots.into_iter().filter(|slot| slot.ifindex != 0);
        every.extend(taken.map(|slot| (slot.ifindex, slot.workload)));
        Ok(every)
    }

    /// Those whose slot was taken when they came.
    pub fn spilled(&self) -> Result<BTreeMap<u32, Workload>> {
        self.spill.read()
    }

    /// Adds or replaces an entry. Fails if its slot is taken and there is no more
    /// room beyond.
    pub fn put(&mut self, ifindex: u32, workload: Workload) -> Result<()> {
        let at = WorkloadSlot::of(ifindex);
        let owner = self.slots.get(at)?.ifindex;
        let is_free = owner == 0 && self.spill.get(ifindex)?.is_none();
        if !is_free && owner != ifindex {
            return self.spill.put(ifindex, workload);
        }
        if is_free {
            // A program that is attached already reads it once it is whole.
            self.slots.put(at, WorkloadSlot::new(0, workload))?;
        }
        self.slots.put(at, WorkloadSlot::new(ifindex, workload))
    }

    /// Removes an entry, if it is there. A slot keeps its body: a program that the
    /// kernel is about to detach may be reading it.
    pub fn remove(&mut self, ifindex: u32) -> Result<()> {
        let at = WorkloadSlot::of(ifindex);
        let slot = self.slots.get(at)?;
        if slot.ifindex == ifindex {
            self.slots.put(at, WorkloadSlot::new(0, slot.workload))?;
        }
        self.spill.remove(ifindex)
    }
}

impl Table for WorkloadTable {
    type Key = u32;
    type Value = Workload;

    fn of(pins: &Pins, map: &Map) -> Result<Self> {
        let (pin, spill) = (pins.map(map), HashTable::open(&pins.map(&maps::WORKLOAD_SPILL))?);
        Ok(Self { slots: Slots::open(&pin)?, pin, spill })
    }

    fn entries(&self) -> Result<BTreeMap<u32, Workload>> {
        self.read()
    }

    fn write(&mut self, ifindex: u32, workload: Workload) -> Result<()> {
        self.put(ifindex, workload)
    }

    fn erase(&mut self, ifindex: u32) -> Result<()> {
        self.remove(ifindex)
    }
}
