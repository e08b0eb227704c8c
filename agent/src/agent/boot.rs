//! What the agent finds out about its host before it can work, and its waiting for that: a
//! host that boots may be without its uplink for a while.

use std::time::Duration;

use anyhow::Result;
use tokio::{sync::watch, time::timeout};
use tracing::{info, warn};

use super::doors::Doors;
use crate::{
    config::Config,
    desired::{LocalFacts, World, Xdp},
    journal::Journal,
    kernel::{
        Netlink,
        facts::{self, Look},
        link,
        super_packets::{self, SuperPackets, USUAL},
        sysctl::Originals,
        world, xdp,
    },
};

/// How often to look at the host although nothing has told of a change.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

/// Looks at the host until it has what the agent needs: an uplink that is up and has an address.
/// Meanwhile the agent answers every request with what it waits for.
///
/// # Errors
///
/// The host cannot be looked at at all.
pub(super) async fn facts(
    config: &Config,
    netlink: &Netlink,
    journal: &Journal,
    doors: &Doors,
) -> Result<LocalFacts> {
    let mut changes = link::watch()?;
    let mut missing = match try_facts(config, netlink, journal).await {
        Ok(facts) => return Ok(facts),
        Err(error) => format!("{error:#}"),
    };
    let (say, said) = watch::channel(String::new());
    let _lobby = doors.lobby(said)?;
    loop {
        let waits = format!("waiting: {missing}");
        if *say.borrow() != waits {
            warn!("{waits}");
            // Nobody may be there to hear it.
            let _ = sd_notify::notify(&[sd_notify::NotifyState::Status(&waits)]);
            say.send_replace(waits);
        }
        // A change or none: both are reasons to look.
        drop(timeout(LOOK_AGAIN, changes.recv()).await);
        missing = match try_facts(config, netlink, journal).await {
            Ok(facts) => {
                info!("the uplink and its addresses are ready");
                let _ = sd_notify::notify(&[sd_notify::NotifyState::Status("")]);
                return Ok(facts);
            }
            Err(error) => format!("{error:#}"),
        };
    }
}

async fn try_facts(config: &Config, netlink: &Netlink, journal: &Journal) -> Result<LocalFacts> {
    let (name, why) = match &config.uplink {
        Some(name) => (name.clone(), None),
        None => {
            let (name, why) = facts::find_uplink(netlink).await?;
            (name, Some(why))
        }
    };
    let endpoints = journal.endpoints();
    let expected = endpoints.values().map(|endpoint| &endpoint.host_interface);
    let look = facts::look(netlink, &name, expected).await?;
    let addresses = facts::node_addresses(&look, &name, &config.addresses, &[], |_| false);
    let Look { interfaces, occupied, own, uplink, no_ipv6, .. } = look;
    let (uplink, addresses) = (uplink?, addresses?);
    if let Some(why) = why {
        info!(uplink = name, "found the uplink, {why}");
    }
    let mut facts = LocalFacts {
        node: config.node.clone(),
        addresses,
        given: config.addresses.clone(),
        uplink,
        occupied,
        own,
        no_ipv6,
        world: match config.masquerade {
            true => world::read(netlink, &name, &Originals::of(&config.state_dir)).await?,
            false => World::default(),
        },
        interfaces: interfaces.into(),
        endpoints: endpoints.into(),
        ..LocalFacts::default()
    };
    facts.xdp = choose_xdp(config, netlink, &facts).await?;
    facts.super_packets = size_super_packets(config, netlink, &facts).await;
    Ok(facts)
}

/// Whether and how the uplink gets its XDP program.
async fn choose_xdp(config: &Config, netlink: &Netlink, facts: &LocalFacts) -> Result<Xdp> {
    let links = link::list(netlink).await?;
    let uplink = links.iter().find(|link| link.name == facts.uplink.name);
    let Some(uplink) = uplink else { return Ok(Xdp::default()) };
    Ok(xdp::choose(config.xdp, uplink, &links))
}

/// Has the uplink and the containers that are there send super-packets as large
/// as is asked for now, and says how large where that is not usual. The uplink
/// is raised before the containers and lowered after them.
async fn size_super_packets(config: &Config, netlink: &Netlink, facts: &LocalFacts) -> Option<u32> {
    let uplink = SuperPackets::of(&config.state_dir);
    let was_raised = uplink.is_raised();
    let mut size = USUAL;
    if config.big_tcp {
        match uplink.raise(netlink, &facts.uplink.name).await {
            Ok(raised) => size = raised,
            Err(error) => warn!("BIG TCP stays off: {error:#}"),
        }
    }
    if config.big_tcp || was_raised {
        super_packets::fit(netlink, facts.endpoints.values(), size).await;
    }
    if size == USUAL
        && let Err(error) = uplink.restore(netlink).await
    {
        warn!("cannot reset BIG TCP on the uplink: {error:#}");
    }
    (size != USUAL).then_some(size)
}
