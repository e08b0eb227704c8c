//! Dropped packets, read from the programs' ring buffer.

use anyhow::{Context, Result};
use aya::maps::{Map, MapData, RingBuf};
use margay_common::{log::Logged, maps};
use tokio::io::{Interest, unix::AsyncFd};
use zerocopy::FromBytes;

use super::pins::Pins;

/// Drops that the buffer holds, each with its header of eight bytes.
const RING_MAX: usize = maps::LOGGED.capacity as usize / (8 + size_of::<Logged>());

/// The ring buffer of drops. It has one reader at a time.
pub struct Drops(AsyncFd<RingBuf<MapData>>);

impl Drops {
    /// Opens the pinned buffer and discards its content, which dates from before this agent.
    pub fn open(pins: &Pins) -> Result<Self> {
        let path = pins.map(&maps::LOGGED);
        let map = MapData::from_pin(&path).with_context(|| format!("map {}", path.display()))?;
        let mut ring = RingBuf::try_from(Map::RingBuf(map))?;
        for _ in 0..RING_MAX {
            if ring.next().is_none() {
                break;
            }
        }
        // SAFETY: the ring owns its descriptor and gives it up only when it is dropped, after
        // the registration.
        Ok(Self(unsafe { AsyncFd::register_with_interest(ring, Interest::READABLE) }?))
    }

    /// Waits until there are drops to take.
    pub async fn wait(&self) -> Result<()> {
        self.0.readable().await?.clear_ready();
        Ok(())
    }

    /// Takes the drops that are there, as many as the buffer holds: who fills it meanwhile
    /// does not keep the agent.
    pub fn take(&mut self) -> Vec<Logged> {
        let ring = self.0.get_mut();
        let mut drops = Vec::new();
        while drops.len() < RING_MAX
            && let Some(item) = ring.next()
        {
            drops.extend(Logged::read_from_bytes(&item));
        }
        drops
    }
}
