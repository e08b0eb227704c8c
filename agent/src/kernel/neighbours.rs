//! Next hops for XDP, which cannot ask for a neighbour's MAC: the kernel's own
//! table of neighbours is looked at every second, and what stands there is
//! vouched for a little longer. If nobody looks any more, the program leaves
//! every packet to the kernel.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
    time::Duration,
};

use anyhow::Result;
use futures::TryStreamExt;
use margay_common::{
    net::{Addr, Mac},
    route::Neighbour,
};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use nix::time::{ClockId, clock_gettime};
use rtnetlink::Handle;
use tokio::{sync::Mutex, time::sleep};
use tracing::warn;

use super::datapath::Datapath;
use crate::{control::Control, desired::Xdp};

/// How often the kernel is asked.
const EVERY: Duration = Duration::from_secs(1);
/// How long its answer counts.
const VOUCHED: Duration = Duration::from_secs(3);

/// What the programs may be told of a neighbour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Seen {
    mac: Mac,
    /// Nobody has used it for a while, so the kernel does not look after it.
    stale: bool,
}

/// What of the control loop's knowledge is needed here.
struct Wanted {
    uplink: u32,
    own: Mac,
    next_hops: BTreeSet<IpAddr>,
}

/// Vouches for next hops for as long as the agent runs, where the uplink has an
/// XDP program and a network is routable.
pub async fn vouch(control: Control, netlink: Handle, datapath: Arc<Mutex<Datapath>>) {
    let mut told = String::new();
    loop {
        let result = async {
            if let Some(wanted) = wanted(&control).await? {
                vouch_once(&wanted, &netlink, &datapath).await?;
            }
            anyhow::Ok(())
        };
        if let Err(error) = result.await {
            let text = format!("{error:#}");
            if told != text {
                warn!("XDP has no next hops: {text}");
                told = text;
            }
        }
        sleep(EVERY).await;
    }
}

async fn wanted(control: &Control) -> Result<Option<Wanted>> {
    control
        .look(|state| {
            let routable = state.snapshot.networks.values().any(|network| network.routable);
            if matches!(state.facts.xdp, Xdp::Off(_)) || !routable {
                return None;
            }
            let others = state.snapshot.nodes.values().filter(|node| node.name != state.facts.node);
            let addresses =
                others.flat_map(|node| node.addresses.iter().copied().chain(node.link_local.map(IpAddr::V6)));
            let link_local = |addr: &IpAddr| matches!(addr, IpAddr::V6(v6) if v6.is_unicast_link_local());
            let next_hops = addresses.filter(|addr| state.facts.is_on_link(*addr) || link_local(addr));
            Some(Wanted {
                uplink: state.facts.uplink.ifindex,
                own: state.facts.uplink.mac,
                next_hops: next_hops.collect(),
            })
        })
        .await
}

async fn vouch_once(wanted: &Wanted, netlink: &Handle, datapath: &Mutex<Datapath>) -> Result<()> {
    let seen = read(netlink, wanted.uplink).await?;
    for addr in &wanted.next_hops {
        if seen.get(addr).is_none_or(|seen| seen.stale) {
            ask(netlink, wanted.uplink, *addr).await;
        }
    }
    let until = now() + VOUCHED.as_nanos() as u64;
    let neighbours = &mut datapath.lock().await.maps.neighbours;
    for addr in neighbours.read()?.into_keys() {
        if !wanted.next_hops.contains(&IpAddr::from(addr)) {
            neighbours.remove(addr)?;
        }
    }
    for addr in &wanted.next_hops {
        match seen.get(addr) {
            Some(Seen { mac, .. }) => {
                let neighbour = Neighbour { until, mac: *mac, own: wanted.own, reserved: [0; 4] };
                neighbours.put(Addr::from(*addr), neighbour)?;
            }
            None => neighbours.remove(Addr::from(*addr))?,
        }
    }
    Ok(())
}

/// The neighbours of an interface whose MAC is known.
async fn read(netlink: &Handle, index: u32) -> Result<BTreeMap<IpAddr, Seen>> {
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
async fn ask(netlink: &Handle, index: u32, addr: IpAddr) {
    let request =
        netlink.neighbours().add(index, addr).state(NeighbourState::None).flags(NeighbourFlags::Use);
    // It is asked again in a second.
    drop(request.replace().execute().await);
}

/// The clock that the programs compare with, nanoseconds.
fn now() -> u64 {
    clock_gettime(ClockId::CLOCK_MONOTONIC)
        .map_or(0, |now| now.tv_sec() as u64 * 1_000_000_000 + now.tv_nsec() as u64)
}
