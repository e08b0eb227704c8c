//! Emptying tables that may be large, whatever the layout of their entries.

use std::{os::fd::AsFd, path::Path, thread, time::Duration};

use anyhow::{Context, Result};
use aya::maps::{MapData, MapInfo, MapType};
use aya_obj::generated::BPF_F_NO_PREALLOC;

use super::bpf_call::Keys;

/// Entries that are removed between two pauses. The kernel gathers what is removed
/// for 250 ms (`rcu_tasks_trace_lazy_ms`) and frees it in one piece: some 9,000
/// entries then, 4 ms of a slow CPU.
const BETWEEN_PAUSES: usize = 1 << 10;
/// The pause.
const PAUSE: Duration = Duration::from_millis(25);
/// The time after which the last entries are free: what is not yet by the map's end
/// goes in one piece with it.
const FREED: Duration = Duration::from_millis(600);

/// Empties a pinned map if its entries are freed one by one, whatever map of whatever layout
/// it is; what cannot be removed goes with its map.
pub fn map(pin: &Path) {
    let by_entry = MapInfo::from_pin(pin).and_then(|info| {
        let kind = info.map_type()?;
        let is_reserved = info.map_flags() & BPF_F_NO_PREALLOC == 0;
        Ok(kind == MapType::LpmTrie || kind == MapType::Hash && !is_reserved)
    });
    if by_entry.unwrap_or_default() {
        drop(table(pin));
    }
}

/// Removes all entries of a pinned hash or trie, one by one and with pauses, for which
/// the thread sleeps: a full map that goes at once holds a CPU until the last of its
/// entries is free, and so does what is removed at once.
pub fn table(pin: &Path) -> Result<()> {
    let map = MapData::from_pin(pin).with_context(|| format!("{}", pin.display()))?;
    let keys = Keys::of(map.fd().as_fd())?;
    let large = keys.len() > BETWEEN_PAUSES;
    for at in 0..keys.len() {
        keys.remove(at)?;
        if large && (at + 1) % BETWEEN_PAUSES == 0 {
            thread::sleep(PAUSE);
        }
    }
    if large {
        thread::sleep(FREED);
    }
    Ok(())
}
