//! The pinned maps, as many as the agent reads or writes.

use std::os::fd::AsFd;

use anyhow::{Context, Result, bail};
use aya::maps::{MapData, MapInfo};
use margay_common::{
    every_map,
    maps::{self, Map, types::*},
};

use super::{
    bpf_call::Keys,
    denied::DenyList,
    pins::Pins,
    table::{HashTable, PerCpu, SetTable, Single, Table, TrieTable},
    workloads::WorkloadTable,
};
use crate::tables::{Entry, Key, Tables};

/// What the agent has of a map. Two tables are more than one map to the kernel.
macro_rules! handle {
    (WORKLOADS $types:tt $kind:ident) => { WorkloadTable };
    (GUARD $types:tt $kind:ident) => { DenyList };
    ($name:ident ($key:ty => $value:ty) $kind:ident) => { HashTable<$key, $value> };
    ($name:ident ($key:ty) Set) => { SetTable<$key> };
    ($name:ident ($value:ty) Single) => { Single<$value> };
    ($name:ident ($value:ty) Trie) => { TrieTable<$value> };
    ($name:ident ($value:ty) PerCpu) => { PerCpu<$value> };
}

macro_rules! maps {
    ($(#[doc = $doc:literal] $name:ident: $kind:ident $types:tt [$entries:expr] {
        $(layout $layout:expr,)? by $writer:ident
        $(, as $field:ident)?
        $(, read $read:ident: $of_read:ident($read_key:ty => $read_value:ty), $read_words:literal, $read_doubt:ident, held $read_held:ident, after $read_after:tt)?
        $(, opens $opens:ident: $of_opens:ident($opens_key:ty => $opens_value:ty), $opens_words:literal, $opens_doubt:ident, held $opens_held:ident, after $opens_after:tt)?
    })*) => {
        /// The maps, as many as the agent reads or writes.
        pub struct Maps {
            $($(#[doc = $doc] pub $field: handle!($name $types $kind),)?)*
            $($(#[doc = $doc] pub $read: handle!($name $types $kind),)?)*
            $($(#[doc = $doc] pub $opens: handle!($name $types $kind),)?)*
        }

        impl Maps {
            /// Opens the pinned maps.
            pub fn open(pins: &Pins) -> Result<Self> {
                Ok(Self {
                    $($($field: <handle!($name $types $kind)>::open(&pins.map(&maps::$name))?,)?)*
                    $($($read: <handle!($name $types $kind)>::of(pins, &maps::$name)?,)?)*
                    $($($opens: <handle!($name $types $kind)>::of(pins, &maps::$name)?,)?)*
                })
            }

            /// Reads all tables.
            pub fn read(&self, tables: &mut Tables) -> Result<()> {
                $($(tables.$read = self.$read.entries()?.into();)?)*
                $($(tables.$opens = self.$opens.entries()?.into();)?)*
                Ok(())
            }

            /// Adds or replaces an entry. Fails for one that is of no map, and if the map is full.
            pub fn put(&mut self, entry: &Entry) -> Result<()> {
                match entry {
                    $($(Entry::$of_read(key, value) => self.$read.write(*key, *value),)?)*
                    $($(Entry::$of_opens(key, value) => self.$opens.write(*key, *value),)?)*
                    _ => bail!("{} belongs to no map", entry.key()),
                }
            }

            /// Removes an entry, if it is there. Fails for one that is of no map.
            pub fn remove(&mut self, key: &Key) -> Result<()> {
                match key {
                    $($(Key::$of_read(key) => self.$read.erase(*key),)?)*
                    $($(Key::$of_opens(key) => self.$opens.erase(*key),)?)*
                    _ => bail!("{key} belongs to no map"),
                }
            }
        }
    };
}

every_map!(maps! {});

/// A map's name, entries and capacity.
pub type Usage = (&'static str, usize, u32);

/// The maps that can fill up: their entries by the tables where they have one, else by the
/// kernel, as their capacity.
pub fn usage(pins: &Pins, tables: &Tables) -> Result<Vec<Usage>> {
    let spilled = entries(pins, &maps::WORKLOAD_SPILL)?;
    let used = |map: &Map| match tables.len_of(map) {
        Some(all) if map.name == maps::WORKLOADS.name => Ok(all.saturating_sub(spilled)),
        Some(all) => Ok(all),
        None => entries(pins, map),
    };
    let usage = |map: &Map| Ok((map.name, used(map)?, capacity(pins, map)?));
    maps::ALL.iter().filter(|map| map.fills_up()).map(usage).collect()
}

/// The entries of a pinned hash or trie.
fn entries(pins: &Pins, map: &Map) -> Result<usize> {
    let map = MapData::from_pin(pins.map(map)).with_context(|| format!("map {}", map.name))?;
    Ok(Keys::of(map.fd().as_fd())?.len())
}

/// The capacity of a pinned map.
fn capacity(pins: &Pins, map: &Map) -> Result<u32> {
    Ok(MapInfo::from_pin(pins.map(map))?.max_entries())
}
