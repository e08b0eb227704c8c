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
use zerocopy::{FromBytes, IntoBytes};

use super::bpf_call;

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

/// A hash map.
pub struct HashTable<K: Plain, V: Plain>(HashMap<MapData, Raw<K>, Raw<V>>, OwnedFd);

impl<K: Plain + Ord, V: Plain> HashTable<K, V> {
    /// Opens a pinned map.
    pub fn open(dir: &Path, name: &str) -> Result<Self> {
        let map = open::<V>(dir, name, size_of::<K>())?;
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

/// A trie of prefixes.
pub struct TrieTable<K: Plain, V: Plain>(LpmTrie<MapData, Raw<K>, Raw<V>>);

impl<K: Plain + Ord, V: Plain> TrieTable<K, V> {
    /// Opens a pinned map.
    pub(super) fn open(dir: &Path, name: &str) -> Result<Self> {
        let map = open::<V>(dir, name, size_of::<u32>() + size_of::<K>())?;
        Ok(Self(LpmTrie::try_from(Map::from_map_data(map)?)?))
    }

    /// All entries, with the length of their prefix.
    pub fn read(&self) -> Result<BTreeMap<(u32, K), V>> {
        let entry =
            |(key, value): (lpm_trie::Key<Raw<K>>, Raw<V>)| ((key.prefix_len(), key.data().0), value.0);
        self.0.iter().map(|found| found.map(entry).map_err(Into::into)).collect()
    }

    /// Adds or replaces an entry.
    pub fn put(&mut self, len: u32, key: K, value: V) -> Result<()> {
        self.0.insert(&lpm_trie::Key::new(len, Raw(key)), Raw(value), 0).map_err(full)
    }

    /// Removes an entry, if it is there.
    pub fn remove(&mut self, len: u32, key: K) -> Result<()> {
        absent_is_fine(self.0.remove(&lpm_trie::Key::new(len, Raw(key))))
    }
}

/// An array of entries that are all there from the start, all zero.
pub struct Slots<V: Plain>(Array<MapData, Raw<V>>);

impl<V: Plain> Slots<V> {
    /// Opens a pinned map.
    pub(super) fn open(dir: &Path, name: &str) -> Result<Self> {
        let map = open::<V>(dir, name, size_of::<u32>())?;
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
    pub(super) fn open(dir: &Path, name: &str) -> Result<Self> {
        Slots::open(dir, name).map(Self)
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

/// An array with one value for each CPU.
pub struct PerCpu<V: Plain>(PerCpuArray<MapData, Raw<V>>);

impl<V: Plain> PerCpu<V> {
    /// Opens a pinned map.
    pub fn open(dir: &Path, name: &str) -> Result<Self> {
        let map = open::<V>(dir, name, size_of::<u32>())?;
        Ok(Self(PerCpuArray::try_from(Map::from_map_data(map)?)?))
    }

    /// The values of all CPUs at an index.
    pub fn read(&self, index: u32) -> Result<Vec<V>> {
        Ok(self.0.get(&index, 0)?.iter().map(|value| value.0).collect())
    }
}

/// All entries of a pinned array, in one call.
pub(super) fn all<V: Plain>(dir: &Path, name: &str) -> Result<Vec<V>> {
    let map = open::<V>(dir, name, size_of::<u32>())?;
    let values = bpf_call::values(map.fd().as_fd()).with_context(|| format!("map {name}"))?;
    let value =
        |bytes: &[u8]| V::read_from_bytes(bytes).map_err(|_| anyhow!("map {name}: a value of another size"));
    values.chunks_exact(size_of::<V>()).map(value).collect()
}

/// Opens a pinned map and compares its layout with ours: the kernel would
/// read and write with whatever sizes it has.
fn open<V>(dir: &Path, name: &str, key_len: usize) -> Result<MapData> {
    let path = dir.join(name);
    let map = MapData::from_pin(&path).with_context(|| format!("map {}", path.display()))?;
    let info = map.info()?;
    let (key, value) = (info.key_size() as usize, info.value_size() as usize);
    if key != key_len || value != size_of::<V>() {
        bail!(
            "map {} has keys of {key} and values of {value} bytes, not {key_len} and {}: \
             it is not ours, or broken; `margay cleanup` removes it",
            path.display(),
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
