//! The kernel's table of neighbours, read and prompted.

use std::{collections::BTreeMap, net::IpAddr};

use anyhow::Result;
use futures::TryStreamExt;
use margay_common::net::Mac;
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use nix::time::{ClockId, clock_gettime};
use rtnetlink::Handle;

/// A neighbour whose MAC is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Its MAC.
    pub mac: Mac,
    /// Nobody has used it for a while, so the kernel does not look after it.
    pub stale: bool,
}

/// The neighbours of an interface whose MAC is known.
pub async fn read(netlink: &Handle, index: u32) -> Result<BTreeMap<IpAddr, Seen>> {
    let all: Vec<NeighbourMessage> = netlink.neighbours().get().execute().try_collect().await?;
    Ok(all.iter().filter(|message| message.header.ifindex == index).filter_map(seen).collect())
}

fn seen(message: &NeighbourMessage) -> Option<(IpAddr, Seen)> {
    use NeighbourState::{Delay, Permanent, Probe, Reachable, Stale};
    let state = message.header.state;
    if !matches!(state, Reachable | Stale | Delay | Probe | Permanent) {
        return None;
    }
    let addr = message.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::Destination(NeighbourAddress::Inet(v4)) => Some(IpAddr::V4(*v4)),
        NeighbourAttribute::Destination(NeighbourAddress::Inet6(v6)) => Some(IpAddr::V6(*v6)),
        _ => None,
    })?;
    let mac = message.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::LinkLayerAddress(bytes) => bytes.as_slice().try_into().ok().map(Mac),
        _ => None,
    })?;
    Some((addr, Seen { mac, stale: state == Stale }))
}

/// Has the kernel find out a neighbour's MAC, as if a packet went there.
pub async fn ask(netlink: &Handle, index: u32, addr: IpAddr) {
    let request =
        netlink.neighbours().add(index, addr).state(NeighbourState::None).flags(NeighbourFlags::Use);
    // It is asked again in a second.
    drop(request.replace().execute().await);
}

/// The clock that the programs compare with, nanoseconds.
pub fn now() -> u64 {
    clock_gettime(ClockId::CLOCK_MONOTONIC)
        .map_or(0, |now| now.tv_sec() as u64 * 1_000_000_000 + now.tv_nsec() as u64)
}
