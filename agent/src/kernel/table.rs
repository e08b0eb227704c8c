//! A BPF map as a table of typed entries.

use std::{
    collections::BTreeMap,
    os::fd::{AsFd, OwnedFd},
    path::Path,
};

use anyhow::{Context, Result, anyhow, bail};
use aya::{
    Pod,
    maps::{Array, HashMap, LpmTrie, Map, MapData, MapError, PerCpuArray, lpm_trie},
};
use margay_common::{maps::Map as Declared, net::Addr, route::PrefixKey};
use zerocopy::{FromBytes, IntoBytes};

use super::{bpf_call, pins::Pins};

/// A value whose bytes the kernel may read and write as they are.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(super) struct Raw<T>(pub(super) T);

// SAFETY: `IntoBytes` says that `T` has no padding, so all of its bytes are
// initialised when the kernel reads them; `FromBytes` says that any bytes are
// a `T` when the kernel has written them; and `Raw` has the layout of `T`.
unsafe impl<T: IntoBytes + FromBytes + Copy + 'static> Pod for Raw<T> {}

/// What a key or value of a map has to be.
pub trait Plain: IntoBytes + FromBytes + Copy + 'static {}
impl<T: IntoBytes + FromBytes + Copy + 'static> Plain for T {}

/// What the agent keeps as the store and the host want it, in one map or more.
pub trait Table: Sized {
    /// What names an entry.
    type Key;
    /// What an entry says.
    type Value;

    /// The table of a pinned map.
    fn of(pins: &Pins, map: &Declared) -> Result<Self>;

    /// All entries.
    fn entries(&self) -> Result<BTreeMap<Self::Key, Self::Value>>;

    /// Adds or replaces an entry. Fails if the map is full.
    fn write(&mut self, key: Self::Key, value: Self::Value) -> Result<()>;

    /// Removes an entry, if it is there.
    fn erase(&mut self, key: Self::Key) -> Result<()>;
}

/// A hash map.
pub struct HashTable<K: Plain, V: Plain>(HashMap<MapData, Raw<K>, Raw<V>>, OwnedFd);

impl<K: Plain + Ord, V: Plain> HashTable<K, V> {
    /// Opens a pinned map.
    pub fn open(pin: &Path) -> Result<Self> {
        let map = open::<V>(pin, size_of::<K>())?;
        let fd = map.fd().as_fd().try_clone_to_owned()?;
        Ok(Self(HashMap::try_from(Map::from_map_data(map)?)?, fd))
    }

    /// All entries, many with each call of the kernel's.
    pub fn read(&self) -> Result<BTreeMap<K, V>> {
        let (keys, values) = bpf_call::entries(self.1.as_fd())?;
        let entry = |(key, value): (&[u8], &[u8])| {
            Some((K::read_from_bytes(key).ok()?, V::read_from_bytes(value).ok()?))
        };
        let entries = keys.chunks_exact(size_of::<K>()).zip(values.chunks_exact(size_of::<V>()));
        let all: Option<BTreeMap<K, V>> = entries.map(entry).collect();
        all.ok_or_else(|| anyhow!("an entry of another size"))
    }

    /// One entry.
    pub fn get(&self, key: K) -> Result<Option<V>> {
        match self.0.get(&Raw(key), 0) {
            Ok(value) => Ok(Some(value.0)),
            Err(MapError::KeyNotFound) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Adds or replaces an entry.
    pub fn put(&mut self, key: K, value: V) -> Result<()> {
        self.0.insert(Raw(key), Raw(value), 0).map_err(full)
    }

    /// Removes an entry, if it is there.
    pub fn remove(&mut self, key: K) -> Result<()> {
        absent_is_fine(self.0.remove(&Raw(key)))
    }
}

impl<K: Plain + Ord, V: Plain> Table for HashTable<K, V> {
    type Key = K;
    type Value = V;

    fn of(pins: &Pins, map: &Declared) -> Result<Self> {
        Self::open(&pins.map(map))
    }

    fn entries(&self) -> Result<BTreeMap<K, V>> {
        self.read()
    }

    fn write(&mut self, key: K, value: V) -> Result<()> {
        self.put(key, value)
    }

    fn erase(&mut self, key: K) -> Result<()> {
        self.remove(key)
    }
}

/// A hash of keys alone; its values mean nothing.
pub struct SetTable<K: Plain>(HashTable<K, u32>);

impl<K: Plain + Ord> Table for SetTable<K> {
    type Key = K;
    type Value = ();

    fn of(pins: &Pins, map: &Declared) -> Result<Self> {
        HashTable::of(pins, map).map(Self)
    }

    fn entries(&self) -> Result<BTreeMap<K, ()>> {
        Ok(self.0.read()?.into_keys().map(|key| (key, ())).collect())
    }

    fn write(&mut self, key: K, (): ()) -> Result<()> {
        self.0.put(key, 1)
    }

    fn erase(&mut self, key: K) -> Result<()> {
        self.0.remove(key)
    }
}

/// A trie of prefixes of addresses.
pub struct TrieTable<V: Plain>(LpmTrie<MapData, Raw<Addr>, Raw<V>>);

impl<V: Plain> TrieTable<V> {
    /// Opens a pinned map.
    pub(super) fn open(pin: &Path) -> Result<Self> {
        let map = open::<V>(pin, size_of::<u32>() + size_of::<Addr>())?;
        Ok(Self(LpmTrie::try_from(Map::from_map_data(map)?)?))
    }

    /// All entries.
    pub fn read(&self) -> Result<BTreeMap<PrefixKey, V>> {
        let entry = |(key, value): (lpm_trie::Key<Raw<Addr>>, Raw<V>)| {
            (PrefixKey { len: key.prefix_len(), addr: key.data().0 }, value.0)
        };
        self.0.iter().map(|found| found.map(entry).map_err(Into::into)).collect()
    }

    /// Adds or replaces an entry.
    pub fn put(&mut self, key: PrefixKey, value: V) -> Result<()> {
        self.0.insert(&lpm_trie::Key::new(key.len, Raw(key.addr)), Raw(value), 0).map_err(full)
    }

    /// Removes an entry, if it is there.
    pub fn remove(&mut self, key: PrefixKey) -> Result<()> {
        absent_is_fine(self.0.remove(&lpm_trie::Key::new(key.len, Raw(key.addr))))
    }
}

impl<V: Plain> Table for TrieTable<V> {
    type Key = PrefixKey;
    type Value = V;

    fn of(pins: &Pins, map: &Declared) -> Result<Self> {
        Self::open(&pins.map(map))
    }

    fn entries(&self) -> Result<BTreeMap<PrefixKey, V>> {
        self.read()
    }

    fn write(&mut self, key: PrefixKey, value: V) -> Result<()> {
        self.put(key, value)
    }

    fn erase(&mut self, key: PrefixKey) -> Result<()> {
        self.remove(key)
    }
}

/// An array of entries that are all there from the start, all zero.
pub struct Slots<V: Plain>(Array<MapData, Raw<V>>);

impl<V: Plain> Slots<V> {
    /// Opens a pinned map.
    pub(super) fn open(pin: &Path) -> Result<Self> {
        let map = open::<V>(pin, size_of::<u32>())?;
        Ok(Self(Array::try_from(Map::from_map_data(map)?)?))
    }

    /// One entry. Fails behind the last.
    pub fn get(&self, at: u32) -> Result<V> {
        Ok(self.0.get(&at, 0)?.0)
    }

    /// Replaces an entry. Fails behind the last.
    pub fn put(&mut self, at: u32, value: V) -> Result<()> {
        Ok(self.0.set(at, Raw(value), 0)?)
    }
}

/// An array of one entry.
pub struct Single<V: Plain>(Slots<V>);

impl<V: Plain> Single<V> {
    /// Opens a pinned map.
    pub(super) fn open(pin: &Path) -> Result<Self> {
        Slots::open(pin).map(Self)
    }

    /// The entry; all zero before the first write.
    pub fn read(&self) -> Result<V> {
        self.0.get(0)
    }

    /// Replaces the entry.
    pub fn put(&mut self, value: V) -> Result<()> {
        self.0.put(0, value)
    }
}

/// An entry that was never written is none.
impl<V: Plain + Default + PartialEq> Table for Single<V> {
    type Key = ();
    type Value = V;

    fn of(pins: &Pins, map: &Declared) -> Result<Self> {
        Self::open(&pins.map(map))
    }

    fn entries(&self) -> Result<BTreeMap<(), V>> {
        let found = self.read()?;
        Ok((found != V::default()).then_some(((), found)).into_iter().collect())
    }

    fn write(&mut self, (): (), value: V) -> Result<()> {
        self.put(value)
    }

    fn erase(&mut self, (): ()) -> Result<()> {
        self.put(V::default())
    }
}

/// An array with one value for each CPU.
pub struct PerCpu<V: Plain>(PerCpuArray<MapData, Raw<V>>);

impl<V: Plain> PerCpu<V> {
    /// Opens a pinned map.
    pub fn open(pin: &Path) -> Result<Self> {
        let map = open::<V>(pin, size_of::<u32>())?;
        Ok(Self(PerCpuArray::try_from(Map::from_map_data(map)?)?))
    }

    /// The values of all CPUs at an index.
    pub fn read(&self, index: u32) -> Result<Vec<V>> {
        Ok(self.0.get(&index, 0)?.iter().map(|value| value.0).collect())
    }
}

/// All entries of a pinned array, in one call.
pub(super) fn all<V: Plain>(pin: &Path) -> Result<Vec<V>> {
    let map = open::<V>(pin, size_of::<u32>())?;
    let values = bpf_call::values(map.fd().as_fd()).with_context(|| format!("map {}", pin.display()))?;
    let value = |bytes: &[u8]| {
        V::read_from_bytes(bytes).map_err(|_| anyhow!("map {}: a value of another size", pin.display()))
    };
    values.chunks_exact(size_of::<V>()).map(value).collect()
}

/// Opens a pinned map and compares its layout with ours: the kernel would
/// read and write with whatever sizes it has.
fn open<V>(pin: &Path, key_len: usize) -> Result<MapData> {
    let map = MapData::from_pin(pin).with_context(|| format!("map {}", pin.display()))?;
    let info = map.info()?;
    let (key, value) = (info.key_size() as usize, info.value_size() as usize);
    if key != key_len || value != size_of::<V>() {
        bail!(
            "map {} has keys of {key} and values of {value} bytes, not {key_len} and {}: \
             it is not ours, or broken; `margay cleanup` removes it",
            pin.display(),
            size_of::<V>()
        );
    }
    Ok(map)
}

/// E2BIG is the kernel's word for a full map.
fn full(error: MapError) -> anyhow::Error {
    let is_full = matches!(&error, MapError::SyscallError(e)
        if matches!(e.io_error.raw_os_error(), Some(libc::E2BIG | libc::ENOSPC)));
    let error = anyhow::Error::from(error);
    if is_full { error.context("the map is full") } else { error }
}

fn absent_is_fine(result: Result<(), MapError>) -> Result<()> {
    match result {
        Err(MapError::KeyNotFound) => Ok(()),
        Err(MapError::SyscallError(e)) if e.io_error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
        other => other.map_err(Into::into),
    }
}
