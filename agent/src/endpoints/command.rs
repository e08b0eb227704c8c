//! Attaching and detaching by a command: all steps of an endpoint's life at once.

use std::{net::IpAddr, path::PathBuf};

use anyhow::{Result, bail};
use margay_common::net::Mac;
use tokio::{sync::OwnedMutexGuard, time::sleep};
use tracing::{info, warn};

use super::{
    Endpoints, LOOK, LOOKS, NAME_MAX, Work,
    find::Which,
    identity::{list, new_id},
    inside,
    life::{Draft, Place},
};
use crate::{
    ipam,
    kernel::{link, netns::Netns, ready},
    model::{
        Unknown,
        block::Holder,
        endpoint::{Endpoint, Owner, check_ifname},
        network::Network,
    },
    problem::Rejection,
    words,
};

/// What a front end asks for.
#[derive(Clone, Debug)]
pub struct Attach {
    /// The network's name.
    pub network: String,
    /// The container's network namespace.
    pub netns: PathBuf,
    /// The interface inside.
    pub ifname: String,
    /// A name for people.
    pub name: Option<String>,
    /// Addresses wanted.
    pub addresses: Vec<IpAddr>,
    /// The MAC wanted.
    pub mac: Option<Mac>,
}

impl Endpoints {
    /// Attaches a container to a network, or finds it attached.
    pub async fn attach(&self, request: Attach) -> Result<Endpoint> {
        check_ifname(&request.ifname)?;
        if let Some(name) = &request.name {
            words::check("endpoint name", name, NAME_MAX)?;
        }
        let netns = Netns::open(&request.netns).await?;
        let turn = self.turn(Work::Interface(netns.inode, request.ifname.clone())).await;
        let _turn = turn.lock().await;
        self.joined().await?;
        if let Some(found) = self.existing(netns.inode, &request.ifname)? {
            if found.has_joined()
                && found.lost.is_none()
                && link::index(&self.netlink, &found.host_interface).await?.is_some()
            {
                return same(found, &request);
            }
            // Begun and not finished, or of a namespace that is gone and whose
            // inode number this one has now.
            self.end(&found).await?;
        }
        let network = self.network(&request.network).await?;
        self.check_once(&network, &netns)?;
        let _named = match &request.name {
            Some(name) => Some(self.claim_name(&network, name).await?),
            None => None,
        };
        let id = new_id()?;
        let holder =
            Holder { endpoint: id.clone(), name: request.name.clone(), node: None, unknown: Unknown::new() };
        let wanted = ipam::Request { holder, wanted: request.addresses.clone() };
        let (addresses, stashed) = self.allocate(&network, &wanted).await?;
        let draft = Draft {
            id,
            name: request.name,
            network: &network,
            addresses,
            mac: request.mac,
            owner: Owner::Command,
            place: Place { netns: netns.path.clone(), sandbox: netns.inode, ifname: request.ifname },
        };
        let endpoint = self.draft(draft).await?;
        let brought_up = self.bring_up(&endpoint, &network, &netns).await;
        self.tell_store(stashed);
        match brought_up {
            Ok(endpoint) => {
                let addresses = list(&endpoint.addresses);
                info!(
                    endpoint = endpoint.id,
                    name = endpoint.name,
                    network = network.name,
                    addresses,
                    "attached"
                );
                Ok(endpoint)
            }
            Err(error) => {
                if let Err(undo) = self.end(&endpoint).await {
                    warn!(endpoint = endpoint.id, "roll-back incomplete: {undo:#}");
                }
                Err(error)
            }
        }
    }

    /// Detaches a container; `None` if it was not attached.
    pub async fn detach(&self, which: &Which) -> Result<Option<Endpoint>> {
        let Some(endpoint) = self.find(which).await? else { return Ok(None) };
        let turn = self.turn_of(&endpoint).await;
        let _turn = turn.lock().await;
        // Who had the turn may have ended it.
        let Some(endpoint) = self.journal.endpoint(&endpoint.id) else { return Ok(None) };
        self.end(&endpoint).await?;
        info!(endpoint = endpoint.id, name = endpoint.name, network = endpoint.network_name, "detached");
        Ok(Some(endpoint))
    }

    /// Creates an endpoint and has it join its container.
    async fn bring_up(&self, endpoint: &Endpoint, network: &Network, netns: &Netns) -> Result<Endpoint> {
        self.create_entry(endpoint, network).await?;
        self.make_interface(endpoint, &endpoint.ifname, Some(netns)).await?;
        inside::configure(netns, endpoint, network).await?;
        ready::queue(&self.netlink, &endpoint.host_interface).await?;
        self.join_entry(endpoint.clone()).await
    }

    fn existing(&self, sandbox: u32, ifname: &str) -> Result<Option<Endpoint>> {
        let endpoints = self.journal.endpoints();
        Ok(endpoints.into_values().find(|e| e.sandbox == sandbox && e.ifname == ifname))
    }

    /// A container joins a network once: it has one route to it.
    fn check_once(&self, network: &Network, netns: &Netns) -> Result<()> {
        let endpoints = self.journal.endpoints();
        match endpoints.values().find(|e| e.sandbox == netns.inode && e.network == network.id) {
            Some(other) if other.netns == netns.path => bail!(Rejection::conflict(
                format!(
                    "{} is on network {} already, by interface {} (endpoint {})",
                    netns.path.display(),
                    network.name,
                    other.ifname,
                    other.id
                ),
                "detach that endpoint first"
            )),
            // The inode number of a namespace that is gone, in use again.
            _ => Ok(()),
        }
    }

    /// Has a name be the caller's alone until the attach is done: one under the same name waits
    /// for that, since an endpoint that is just attached looks like one that is gone.
    async fn claim_name(&self, network: &Network, name: &str) -> Result<OwnedMutexGuard<()>> {
        let turn = self.turn(Work::Name(network.id, name.to_owned())).await.lock_owned().await;
        self.check_name(network, name).await?;
        Ok(turn)
    }

    /// A name is one endpoint's, unless that one is gone and its end was not
    /// noticed yet.
    async fn check_name(&self, network: &Network, name: &str) -> Result<()> {
        let endpoints = self.journal.endpoints();
        let named = |e: &&Endpoint| e.network == network.id && e.name.as_deref() == Some(name);
        let Some(other) = endpoints.values().find(named) else { return Ok(()) };
        // The kernel takes a moment to end a namespace that nobody has any more.
        let left = Netns::open(&other.netns).await.map_or(true, |netns| netns.inode != other.sandbox);
        let looks = if left { LOOKS } else { 1 };
        for _ in 0..looks {
            if link::index(&self.netlink, &other.host_interface).await?.is_none() {
                return self.end(other).await;
            }
            sleep(LOOK).await;
        }
        let what = format!("endpoint {} of network {} is named {name} already", other.id, network.name);
        bail!(Rejection::conflict(what, "choose another name"))
    }
}

/// The same request again finds what the first made; another is refused.
fn same(found: Endpoint, request: &Attach) -> Result<Endpoint> {
    let network = found.network_name == request.network;
    let addresses = request.addresses.iter().all(|addr| found.addresses.contains(addr));
    let mac = request.mac.is_none_or(|mac| mac == found.mac);
    let name = request.name.is_none() || request.name == found.name;
    if network && addresses && mac && name {
        return Ok(found);
    }
    let what = format!(
        "interface {} in {} is endpoint {} of network {} already, attached with other options",
        request.ifname,
        request.netns.display(),
        found.id,
        found.network_name
    );
    bail!(Rejection::conflict(what, "detach it first, or choose another interface with --ifname"))
}
