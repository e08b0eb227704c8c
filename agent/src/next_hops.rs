//! Next hops for XDP, which cannot ask for a neighbour's MAC: the kernel's own
//! table of neighbours is looked at every second, and what stands there is
//! fresh a little longer. If nobody looks any more, the program leaves
//! every packet to the kernel.

use std::{collections::BTreeSet, net::IpAddr, time::Duration};

use anyhow::Result;
use margay_common::{
    net::{Addr, Mac},
    route::Neighbour,
};
use tokio::time::sleep;
use tracing::warn;

use crate::{
    control::Control,
    desired::Xdp,
    kernel::{
        Netlink,
        neighbours::{self, Seen},
        offloads,
        table::HashTable,
    },
};

/// How often the kernel is asked.
const EVERY: Duration = Duration::from_secs(1);
/// How long its answer counts.
const FRESH: Duration = Duration::from_secs(3);

/// What of the control loop's knowledge is needed here.
struct Wanted {
    interface: String,
    uplink: u32,
    generic: bool,
    own: Mac,
    next_hops: BTreeSet<IpAddr>,
}

/// Keeps next hops fresh for as long as the agent runs, where the uplink has an XDP program and a
/// network is routable.
pub async fn keep_fresh(control: Control, netlink: Netlink, mut table: HashTable<Addr, Neighbour>) {
    let mut told = String::new();
    loop {
        let result = async {
            if let Some(mut wanted) = wanted(&control).await? {
                // What the kernel has merged before generic XDP sees it would leave the
                // uplink uncut, whatever that can cut.
                if wanted.generic && offloads::merges(&wanted.interface).await? {
                    wanted.next_hops.clear();
                }
                refresh_once(&wanted, &netlink, &mut table).await?;
            }
            anyhow::Ok(())
        };
        if let Err(error) = result.await {
            let text = format!("{error:#}");
            if told != text {
                warn!("cannot copy next hops, so XDP forwards nothing: {text}");
                told = text;
            }
        }
        sleep(EVERY).await;
    }
}

async fn wanted(control: &Control) -> Result<Option<Wanted>> {
    control
        .look(|state| {
            if matches!(state.facts.xdp, Xdp::Off(_)) {
                return None;
            }
            let routable: BTreeSet<u32> =
                state.snapshot.networks.values().filter(|n| n.routable).map(|n| n.id).collect();
            let routes = state.fold.tables.routes.iter();
            let remote =
                routes.filter(|(key, route)| route.is_reachable() && routable.contains(&key.network()));
            let next_hops: BTreeSet<IpAddr> = remote.map(|(_, route)| IpAddr::from(route.next_hop)).collect();
            let uplink = &state.facts.uplink;
            let interface = uplink.name.clone();
            // What is there counts, which may not be what is wanted.
            let there = state.actual.as_ref().and_then(|actual| actual.xdp.get(&interface));
            let generic = there.is_none_or(|there| !there.native) || state.facts.xdp == Xdp::Generic;
            Some(Wanted { interface, uplink: uplink.ifindex, generic, own: uplink.mac, next_hops })
        })
        .await
}

async fn refresh_once(
    wanted: &Wanted,
    netlink: &Netlink,
    table: &mut HashTable<Addr, Neighbour>,
) -> Result<()> {
    let seen = neighbours::read(netlink, wanted.uplink).await?;
    let until = neighbours::now() + FRESH.as_nanos() as u64;
    for addr in table.read()?.into_keys() {
        if !wanted.next_hops.contains(&IpAddr::from(addr)) {
            table.remove(addr)?;
        }
    }
    for addr in &wanted.next_hops {
        match seen.get(addr) {
            Some(Seen { mac, .. }) => {
                let neighbour = Neighbour { until, mac: mac.word(), own: wanted.own.word() };
                table.put(Addr::from(*addr), neighbour)?;
            }
            None => table.remove(Addr::from(*addr))?,
        }
    }
    // What is known is kept fresh before anything else is asked for.
    for addr in &wanted.next_hops {
        if seen.get(addr).is_none_or(|seen| seen.stale) {
            neighbours::ask(netlink, wanted.uplink, *addr).await;
        }
    }
    Ok(())
}
