//! The life of an endpoint, the same for every front end:
//!
//! ```text
//! reserve -> create -> join -> end
//! ```
//!
//! Its addresses are reserved in the store under its id to be. It is created with its entry in
//! the journal and its interface, and joins when its container has that. When it ends, address,
//! entry and interface go. Every step that the journal knows is one transaction, and a step that
//! is repeated changes nothing.

use std::{net::IpAddr, path::PathBuf, sync::atomic::Ordering};

use anyhow::{Result, anyhow};
use margay_common::net::Mac;
use tokio::time::timeout;
use tracing::debug;

use super::{Endpoints, STORE, identity::mac_for};
use crate::{
    ipam,
    journal::{Member, Step},
    kernel::{
        device::{self, Pair},
        link,
        netns::Netns,
        sysctl,
    },
    model::{
        endpoint::{Endpoint, Kept, Owner, Stage},
        network::Network,
    },
    tables::host_interface,
};

/// An endpoint to be, whose addresses are reserved.
pub(super) struct Draft<'a> {
    /// Who has the addresses in the store.
    pub id: String,
    pub name: Option<String>,
    pub network: &'a Network,
    pub addresses: Vec<IpAddr>,
    /// The MAC wanted.
    pub mac: Option<Mac>,
    pub owner: Owner,
    pub place: Place,
}

/// Where an endpoint's container is; empty until that is known.
#[derive(Default)]
pub(super) struct Place {
    pub netns: PathBuf,
    /// The container's number, as [`Endpoint::sandbox`].
    pub sandbox: u32,
    pub ifname: String,
}

impl Endpoints {
    /// Reserves addresses from the store, or from the stash while it cannot be asked,
    /// and which of both.
    pub(super) async fn allocate(
        &self,
        network: &Network,
        request: &ipam::Request,
    ) -> Result<(Vec<IpAddr>, bool)> {
        let why = match self.control.refusal() {
            Some(why) => why.problem,
            None => loop {
                let allocated = timeout(STORE, self.ipam.allocate(network, request));
                let Ok(allocated) = allocated.await else {
                    // The store may have carried it out nevertheless.
                    self.dirty.store(true, Ordering::Relaxed);
                    break format!("the store did not answer within {} s", STORE.as_secs());
                };
                match allocated {
                    Err(ipam::Refusal::Away(away)) => break away.to_problem().problem,
                    Err(refusal) if self.make_room(network, &refusal).await? => {}
                    result => return Ok((result?, false)),
                }
            },
        };
        Ok((self.ipam.allocate_from_stash(network, request, &why).await?, true))
    }

    /// What a draft becomes.
    pub(super) async fn draft(&self, draft: Draft<'_>) -> Result<Endpoint> {
        let Draft { id, name, network, addresses, mac, owner, place } = draft;
        Ok(Endpoint {
            name,
            network: network.id,
            network_name: network.name.clone(),
            mac: mac.unwrap_or_else(|| mac_for(&addresses)),
            addresses,
            netns: place.netns,
            sandbox: place.sandbox,
            ifname: place.ifname,
            host_interface: host_interface(&id),
            device: self.device,
            mtu: self.mtu(network).await?,
            stage: Stage::Created,
            owner,
            lost: None,
            id,
        })
    }

    /// Creates an endpoint in the journal, with its network, without which it is nothing.
    pub(super) async fn create_entry(&self, endpoint: &Endpoint, network: &Network) -> Result<()> {
        let stash = self.ipam.stash(network.id).await;
        let member = Member { network: network.clone(), stash };
        self.journal.commit(Step::default().network(&member).endpoint(endpoint)).await
    }

    /// Makes the interface and has the kernel serve its host side.
    pub(super) async fn make_interface(
        &self,
        endpoint: &Endpoint,
        inside: &str,
        netns: Option<&Netns>,
    ) -> Result<()> {
        let host = &endpoint.host_interface;
        self.control.expect(host.clone()).await?;
        let super_packets = self.control.look(|state| state.facts.super_packets).await?;
        let Endpoint { device, mac, mtu, .. } = *endpoint;
        let pair = Pair { device, host, inside, netns, mac, mtu, super_packets };
        device::add(&self.netlink, &pair).await?;
        // The host side is closed whenever it has no program, whatever the
        // host's forwarding says.
        sysctl::set("ipv6", host, "disable_ipv6", "1")?;
        sysctl::set("ipv4", host, "rp_filter", "1")?;
        let index = link::index(&self.netlink, host).await?;
        let index = index.ok_or_else(|| anyhow!("interface {host} disappeared"))?;
        link::set_up(&self.netlink, index).await?;
        self.control.serve(endpoint.clone()).await
    }

    /// Writes down that the container has its interface.
    pub(super) async fn join_entry(&self, endpoint: Endpoint) -> Result<Endpoint> {
        let joined = |found: &mut Endpoint| {
            // What others have found out since stays.
            (found.stage, found.sandbox) = (Stage::Joined, endpoint.sandbox);
            found.netns.clone_from(&endpoint.netns);
            found.ifname.clone_from(&endpoint.ifname);
        };
        let found = self.journal.alter(&endpoint.id, joined, Step::default())?;
        found.ok_or_else(|| anyhow!("endpoint {} was removed while it joined", endpoint.id))
    }

    /// Ends an endpoint with all that it has, and waits until that is gone.
    pub(super) async fn end(&self, endpoint: &Endpoint) -> Result<()> {
        self.control.release(endpoint.id.clone()).await?;
        link::remove(&self.netlink, &endpoint.host_interface).await?;
        let kept = self.keeping(endpoint);
        if kept.is_none()
            && let Err(away) = self.ipam.release(endpoint.network, &endpoint.id).await
        {
            // Membership takes them back once the store answers.
            self.dirty.store(true, Ordering::Relaxed);
            debug!("addresses of endpoint {}: {away}", endpoint.id);
        }
        self.end_entry(endpoint, kept.as_ref()).await
    }

    /// Ends an endpoint in the journal, together with what its container keeps from now on.
    pub(super) async fn end_entry(&self, endpoint: &Endpoint, kept: Option<&Kept>) -> Result<()> {
        let gone = Step::default().without_endpoint(&endpoint.id);
        self.journal.commit(kept.into_iter().fold(gone, Step::kept)).await
    }
}
