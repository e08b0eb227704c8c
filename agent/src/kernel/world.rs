//! How the host forwards, read; and word of it when that changes.

use std::{collections::BTreeSet, time::Duration};

use anyhow::Result;
use bytes::BytesMut;
use futures::FutureExt;
use netlink_sys::{
    AsyncSocket, AsyncSocketExt, SocketAddr, TokioSocket,
    protocols::{NETLINK_NETFILTER, NETLINK_ROUTE},
};
use rtnetlink::Handle;
use tokio::{sync::mpsc, time::sleep};
use tracing::warn;

use super::{facts, firewall, link, sysctl, sysctl::Originals};
use crate::{
    desired::{V6Forwarding, World},
    tables::{SysctlKey, Tables},
};

/// The switch for all interfaces at once, the only one before 6.17.
const ALL: &str = "net/ipv6/conf/all/forwarding";
/// How long changes gather before anybody looks.
const GATHER: Duration = Duration::from_millis(200);
/// Changes of nftables (linux/netfilter/nfnetlink.h).
const NFNLGRP_NFTABLES: u32 = 7;
/// Changes of routes and of interfaces' switches, of IPv4 and IPv6
/// (linux/rtnetlink.h).
const ROUTE_GROUPS: [u32; 4] = [7, 11, 24, 25];

/// How the host forwards now.
pub async fn read(netlink: &Handle, uplink: &str, originals: &Originals) -> Result<World> {
    let mut world =
        World { masquerade: true, v6: v6_forwarding(netlink, originals).await?, ..World::default() };
    let links = link::list(netlink).await?;
    for (v4, names) in [true, false].into_iter().zip(&mut world.interfaces) {
        for index in link::default_interfaces_of(netlink, v4).await? {
            names.extend(links.iter().filter(|link| link.index == index).map(|link| link.name.clone()));
        }
        if names.is_empty() {
            names.insert(uplink.to_owned());
        }
    }
    let chains = futures::join!(firewall::dropping_chain(true), firewall::dropping_chain(false));
    world.drops.extend(chains.0.map(|chain| (true, chain)));
    world.drops.extend(chains.1.map(|chain| (false, chain)));
    Ok(world)
}

async fn v6_forwarding(netlink: &Handle, originals: &Originals) -> Result<V6Forwarding> {
    if sysctl::get("net/ipv6/conf/all/force_forwarding").is_some() {
        return Ok(V6Forwarding::Each);
    }
    let originals = originals.read()?;
    let before = |path: &str| originals.get(path).cloned().or_else(|| sysctl::get(path));
    let was_on = before(ALL).is_some_and(|value| value != "0");
    let mut advertised = BTreeSet::new();
    for link in link::list(netlink).await? {
        let takes =
            before(&format!("net/ipv6/conf/{}/accept_ra", link.name)).is_some_and(|value| value == "1");
        if takes && !facts::is_own(&link.name) && !was_on {
            advertised.insert(link.name);
        }
    }
    Ok(V6Forwarding::All { was_on, advertised })
}

/// What others of this host may change behind our back: its routes to our
/// subnets, the firewall, exceptions, switches.
pub async fn tables(netlink: &Handle, originals: &Originals) -> Result<Tables> {
    let mut tables = Tables {
        host_routes: link::host_routes(netlink).await?.into_iter().collect(),
        firewall: firewall::read().await?.map(|found| ((), found)).into_iter().collect(),
        accepts: firewall::accepts().await.into_iter().map(|accept| (accept, ())).collect(),
        ..Tables::default()
    };
    for path in originals.read()?.into_keys() {
        if let Some(value) = sysctl::get(&path) {
            let stage = u8::from(!path.ends_with("/accept_ra"));
            tables.sysctls.insert(SysctlKey { stage, path }, value);
        }
    }
    Ok(tables)
}

/// Tells that the host's routes, switches or nftables have changed.
pub fn watch() -> mpsc::Receiver<()> {
    let (hint, hints) = mpsc::channel(1);
    for (protocol, groups) in [(NETLINK_ROUTE, &ROUTE_GROUPS[..]), (NETLINK_NETFILTER, &[NFNLGRP_NFTABLES])] {
        match listen(protocol, groups) {
            Ok(socket) => drop(tokio::spawn(follow(socket, hint.clone()))),
            Err(error) => {
                warn!("cannot watch the host's settings, so the agent reads them every minute only: {error}")
            }
        }
    }
    hints
}

fn listen(protocol: isize, groups: &[u32]) -> std::io::Result<TokioSocket> {
    let mut socket = TokioSocket::new(protocol)?;
    socket.socket_mut().bind(&SocketAddr::new(0, 0))?;
    groups.iter().try_for_each(|group| socket.socket_mut().add_membership(*group))?;
    Ok(socket)
}

/// What is said does not matter, only that something is.
async fn follow(socket: TokioSocket, send: mpsc::Sender<()>) {
    let mut buffer = BytesMut::with_capacity(1 << 16);
    loop {
        // An error says that more came than fits: a change as well.
        drop(socket.recv(&mut buffer).await);
        sleep(GATHER).await;
        while let Some(Ok(_)) = socket.recv(&mut buffer).now_or_never() {
            buffer.clear();
        }
        buffer.clear();
        if let Err(mpsc::error::TrySendError::Closed(())) = send.try_send(()) {
            return;
        }
    }
}
