//! Denied prefixes, and whether there are any: without, no packet is looked up.

use std::collections::BTreeMap;

use anyhow::Result;
use margay_common::{
    maps::{self, Map},
    net::Addr,
    route::PrefixKey,
};

use super::{
    pins::Pins,
    table::{Single, Table, TrieTable},
};

/// Denied prefixes.
pub struct DenyList {
    prefixes: TrieTable<u32>,
    any: Single<u32>,
}

impl DenyList {
    /// All of them.
    pub fn read(&self) -> Result<BTreeMap<PrefixKey, ()>> {
        Ok(self.prefixes.read()?.into_keys().map(|key| (key, ())).collect())
    }

    /// Denies a prefix.
    pub fn put(&mut self, len: u32, addr: Addr) -> Result<()> {
        // In this order: a prefix that is there is looked for.
        self.any.put(1)?;
        self.prefixes.put(PrefixKey { len, addr }, 1)
    }

    /// Allows a prefix again.
    pub fn remove(&mut self, len: u32, addr: Addr) -> Result<()> {
        self.prefixes.remove(PrefixKey { len, addr })?;
        self.any.put(u32::from(!self.prefixes.read()?.is_empty()))
    }
}

// The one says whether to look at the other: no agent may take over one of them alone.
const _: () = assert!(matches!(
    (maps::GUARD.layout, maps::GUARDED.layout),
    (Some(prefixes), Some(any)) if prefixes == any
));

impl Table for DenyList {
    type Key = PrefixKey;
    type Value = ();

    fn of(pins: &Pins, map: &Map) -> Result<Self> {
        let any = Single::open(&pins.map(&maps::GUARDED))?;
        Ok(Self { prefixes: TrieTable::open(&pins.map(map))?, any })
    }

    fn entries(&self) -> Result<BTreeMap<PrefixKey, ()>> {
        self.read()
    }

    fn write(&mut self, key: PrefixKey, (): ()) -> Result<()> {
        self.put(key.len, key.addr)
    }

    fn erase(&mut self, key: PrefixKey) -> Result<()> {
        self.remove(key.len, key.addr)
    }
}
