//! Takes everything of ours off this host.

use std::{collections::BTreeSet, fs, path::Path};

use anyhow::{Context, Result};
use rtnetlink::Handle;

use super::{
    attach, clear, datapath, facts, firewall, link,
    pins::{self, Pins},
    super_packets::SuperPackets,
    sysctl::Originals,
    xdp,
};
use crate::tables::HOST_INTERFACE;

/// What a cleanup did.
pub struct Done {
    /// What was removed.
    pub removed: Vec<String>,
    /// Why BIG TCP stays on, if it does: then the record of it stays, too.
    pub left: Option<anyhow::Error>,
}

/// Detaches and removes everything that is ours, and says what it was. What is
/// already gone is fine, so this can be repeated.
pub async fn everything(netlink: &Handle, root: &Path, state_dir: &Path) -> Result<Done> {
    let mut done = Vec::new();
    let originals = Originals::of(state_dir);
    // Forwarding ends before the rules that restrict it.
    let mut switches: Vec<String> = originals.read()?.into_keys().collect();
    switches.sort_by_key(|path| path.ends_with("/accept_ra"));
    for path in switches {
        originals.restore(&path)?;
        done.push(format!("our value of {path}"));
    }
    // What fails here keeps nothing else, and is told at the end.
    let lowered = SuperPackets::of(state_dir).restore(netlink).await;
    if let Ok(Some(uplink)) = &lowered {
        done.push(format!("BIG TCP on {uplink}"));
    }
    for accept in firewall::accepts().await {
        firewall::remove_accept(&accept).await?;
        done.push(format!("the exception in chain {}", accept.chain));
    }
    if firewall::read().await?.is_some() {
        firewall::remove().await?;
        done.push("nftables table inet margay".into());
    }
    let pins = Pins::at(root);
    for (dst, _) in link::host_routes(netlink).await? {
        link::remove_host_route(netlink, dst).await?;
        done.push(format!("route {dst}"));
    }
    let pinned = pins.linked_interfaces()?;
    let present = link::list(netlink).await?.into_iter().map(|link| link.name);
    for interface in pinned.into_iter().chain(present).collect::<BTreeSet<_>>() {
        if attach::detach(&pins, netlink, &interface).await? {
            done.push(format!("program on {interface}"));
        }
    }
    for interface in pins.xdp_interfaces()? {
        if xdp::detach(&pins, &interface)? {
            done.push(format!("XDP program on {interface}"));
        }
    }
    for found in link::list(netlink).await?.into_iter().filter(|link| facts::is_own(&link.name)) {
        link::remove(netlink, &found.name).await?;
        done.push(format!("interface {}", found.name));
    }
    link::remove(netlink, HOST_INTERFACE).await?;
    pins.all_maps()?.iter().for_each(|pin| clear::map(pin));
    if root.exists() {
        remove_pins(&pins)?;
        done.push(format!("pins in {}", root.display()));
    }
    Ok(Done { removed: done, left: lowered.err() })
}

fn remove_pins(pins: &Pins) -> Result<()> {
    for object in pins::names(&pins.programs())? {
        datapath::remove_programs(&pins.programs().join(object))?;
    }
    for dir in pins::names(pins.root())? {
        let dir = pins.root().join(dir);
        for name in pins::names(&dir)? {
            pins::unlink(&dir.join(name))?;
        }
        fs::remove_dir(&dir).with_context(|| format!("{}", dir.display()))?;
    }
    fs::remove_dir(pins.root()).with_context(|| format!("{}", pins.root().display()))
}
