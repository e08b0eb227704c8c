//! Dropped packets, read from the programs' ring buffer.

use std::path::Path;

use anyhow::{Context, Result};
use aya::maps::{Map, MapData, RingBuf};
use margay_common::{log::Logged, table};
use tokio::io::{Interest, unix::AsyncFd};
use zerocopy::FromBytes;

/// The ring buffer of drops. It has one reader at a time.
pub struct Drops(AsyncFd<RingBuf<MapData>>);

impl Drops {
    /// Opens the pinned buffer and discards its content, which dates from before this agent.
    pub fn open(dir: &Path) -> Result<Self> {
        let path = dir.join(table::LOGGED);
        let map = MapData::from_pin(&path).with_context(|| format!("map {}", path.display()))?;
        let mut ring = RingBuf::try_from(Map::RingBuf(map))?;
        while ring.next().is_some() {}
        // SAFETY: the ring owns its descriptor and gives it up only when it is dropped, after
        // the registration.
        Ok(Self(unsafe { AsyncFd::register_with_interest(ring, Interest::READABLE) }?))
    }

    /// Waits until there are drops to take.
    pub async fn wait(&self) -> Result<()> {
        self.0.readable().await?.clear_ready();
        Ok(())
    }

    /// Takes all drops that are there.
    pub fn take(&mut self) -> Vec<Logged> {
        let ring = self.0.get_mut();
        let mut drops = Vec::new();
        while let Some(item) = ring.next() {
            drops.extend(Logged::read_from_bytes(&item));
        }
        drops
    }
}
