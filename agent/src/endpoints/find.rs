//! Which endpoint or network is meant.

use std::{net::IpAddr, path::PathBuf};

use anyhow::{Result, anyhow, bail};

use super::Endpoints;
use crate::{
    control::State,
    desired::host::container_mtu,
    kernel::netns::Netns,
    model::{
        endpoint::Endpoint,
        network::Network,
        pick::{Face, pick},
    },
    problem::Rejection,
};

/// Which endpoint a front end means.
#[derive(Clone, Debug)]
pub enum Which {
    /// The one with this id or, failing that, this name.
    Id(String),
    /// The one behind an interface of a namespace.
    Interface(PathBuf, String),
}

impl Endpoints {
    /// The endpoint that is meant.
    pub async fn find(&self, which: &Which) -> Result<Option<Endpoint>> {
        let endpoints = self.journal.endpoints();
        match which {
            Which::Id(id) => {
                let found = pick("endpoint", endpoints.values(), id, |e| Face {
                    id: &e.id,
                    name: e.name.as_deref(),
                    of: &e.network_name,
                });
                Ok(found?.cloned())
            }
            Which::Interface(path, ifname) => {
                // A namespace that is gone is known by its path alone.
                let inode = Netns::open(path).await.ok().map(|netns| netns.inode);
                let here = |e: &Endpoint| match inode {
                    Some(inode) => e.sandbox == inode,
                    None => e.netns == *path,
                };
                Ok(endpoints.into_values().find(|e| here(e) && e.ifname == *ifname))
            }
        }
    }

    /// The endpoint that a runtime knows by that id.
    pub fn of_runtime(&self, id: &str) -> Option<Endpoint> {
        self.journal.endpoints().into_values().find(|endpoint| endpoint.is_of_runtime(id))
    }

    /// The network of that name: as known here, or as the store has it if it
    /// is newer than what we have seen.
    pub(super) async fn network(&self, name: &str) -> Result<Network> {
        if let Some(network) = self.known_network(name).await? {
            return Ok(network);
        }
        let Some(revision) = self.networks.find(name).await? else {
            let what = format!("there is no network {name}");
            bail!(Rejection::missing(what, "margay network create makes one"))
        };
        self.control.revision(revision).await?;
        let gone = || Rejection::missing(format!("network {name} was removed just now"), "create it again");
        Ok(self.known_network(name).await?.ok_or_else(gone)?)
    }

    pub(super) async fn mtu(&self, network: &Network) -> Result<u32> {
        let network = network.clone();
        self.control.look(move |state| container_mtu(&network, &state.facts)).await
    }

    async fn known_network(&self, name: &str) -> Result<Option<Network>> {
        let name = name.to_owned();
        let look = move |state: &State| {
            let barred = || state.snapshot.barred.values().find(|(network, _)| network.name == name);
            match (state.snapshot.network(&name), barred()) {
                (None, Some((_, reason))) => bail!(Rejection::conflict(
                    format!("network {name} is not served on this node: {reason}"),
                    "see `margay status`"
                )),
                (found, _) => Ok(found.cloned()),
            }
        };
        self.control.look(look).await?
    }

    /// The network whose subnet has an address.
    pub(super) async fn network_with(&self, addr: IpAddr) -> Result<Network> {
        let with = move |state: &State| {
            state.snapshot.networks.values().find(|network| network.subnet_of(addr).is_some()).cloned()
        };
        self.control.look(with).await?.ok_or_else(|| anyhow!("no network has a subnet with {addr}"))
    }
}
