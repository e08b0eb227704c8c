//! Endpoints of a runtime that reserves addresses by themselves ([`super::reserve`]), moves the
//! interface into the container by itself, and may forget any step or take it twice: each step
//! apart, each idempotent.

use std::{
    net::IpAddr,
    path::PathBuf,
    sync::{Arc, atomic::Ordering},
    time::Instant,
};

use anyhow::{Context, Result, anyhow, bail};
use margay_common::net::Mac;
use tracing::{debug, info, warn};

use super::{
    Endpoints, NAME_MAX, Work,
    identity::{list, new_id},
    life::{Draft, Place},
    reserve::Reservation,
};
use crate::{
    journal::Step,
    kernel::link,
    model::{
        Unknown,
        block::Holder,
        endpoint::{Endpoint, Handle, Owner},
        network::Network,
    },
    words,
};

/// What the side of an interface is called that goes into the container, before it
/// goes.
const INSIDE_PREFIX: &str = "mgp";

/// What a runtime asks to be made.
#[derive(Clone, Debug)]
pub struct Create {
    /// The endpoint as the runtime knows it.
    pub handle: Handle,
    /// The addresses that it was given before.
    pub addresses: Vec<IpAddr>,
    /// The MAC wanted.
    pub mac: Option<Mac>,
}

/// The name of an interface's inner side before it is moved.
pub fn inside_name(endpoint: &Endpoint) -> String {
    format!("{INSIDE_PREFIX}{}", &endpoint.id[..12])
}

impl Endpoints {
    /// Makes an endpoint of addresses that were given before, and begins to make
    /// its interface: most of that is waiting for the kernel, and the runtime
    /// has other things to do until it asks for it. The same again finds the
    /// first.
    pub async fn create(self: &Arc<Self>, request: Create) -> Result<Endpoint> {
        let turn = self.turn(Work::OfRuntime(request.handle.id.clone())).await.lock_owned().await;
        self.joined().await?;
        if let Some(found) = self.of_runtime(&request.handle.id) {
            let same = found.addresses == request.addresses && request.mac.is_none_or(|mac| mac == found.mac);
            return if same { Ok(found) } else { Err(anyhow!("endpoint {} exists already", found.id)) };
        }
        let Some(first) = request.addresses.first() else { bail!("an endpoint needs an address") };
        let network = self.network_with(*first).await?;
        let holders = self.holders(&network, &request.addresses).await?;
        let (kept, asked) = self.reservations.origin(&request.addresses);
        // The interface of the endpoint that had a kept address may still be going, and it
        // is named after that one's id.
        let id = if kept { new_id()? } else { holders[0].clone() };
        if kept || holders.len() > 1 {
            let to = Holder { endpoint: id.clone(), name: None, node: None, unknown: Unknown::new() };
            self.hand_over(network.id, &holders, &to).await?;
        }
        let draft = Draft {
            id,
            name: None,
            network: &network,
            addresses: request.addresses,
            mac: request.mac,
            owner: Owner::Runtime(Handle { asked, ..request.handle }),
            place: Place::default(),
        };
        let endpoint = self.draft(draft).await?;
        self.create_entry(&endpoint, &network).await?;
        let used = endpoint.addresses.iter().filter_map(|addr| self.reservations.lock().remove(addr));
        self.tell_store(used.collect::<Vec<_>>().iter().any(|reservation| reservation.stashed));
        let (endpoints, begun) = (Arc::clone(self), endpoint.clone());
        tokio::spawn(async move {
            // A join waits for this turn, and makes the interface if this attempt failed.
            let _turn = turn;
            if let Err(error) = endpoints.make_interface_or_none(&begun).await {
                warn!("endpoint {}: {error:#}", begun.id);
            }
        });
        Ok(endpoint)
    }

    /// Makes an endpoint's interface, its inner side on the host, and serves it; all
    /// or nothing.
    async fn make_interface_or_none(&self, endpoint: &Endpoint) -> Result<()> {
        let opened = self.make_interface(endpoint, &inside_name(endpoint), None).await;
        if opened.is_err() {
            self.control.release(endpoint.id.clone()).await?;
            link::remove(&self.netlink, &endpoint.host_interface).await?;
        }
        opened
    }

    /// Has an endpoint's interface ready for the runtime to move into the
    /// container, and served. The same again finds it there.
    pub async fn plug(&self, id: &str, netns: PathBuf) -> Result<(Endpoint, Network)> {
        let turn = self.turn(Work::OfRuntime(id.to_owned())).await;
        let _turn = turn.lock().await;
        let found = self.of_runtime(id);
        let endpoint = found.ok_or_else(|| anyhow!("there is no endpoint {id}; create it first"))?;
        let first = endpoint.addresses.first().context("an endpoint without an address")?;
        let network = self.network_with(*first).await?;
        let mut endpoint = endpoint;
        if link::index(&self.netlink, &endpoint.host_interface).await?.is_none() {
            // The kernel may be another by now.
            endpoint.device = self.device;
            self.journal.commit(Step::default().endpoint(&endpoint)).await?;
            self.make_interface_or_none(&endpoint).await?;
        }
        let sandbox = self.sandboxes.number(&netns, &self.journal.endpoints());
        let endpoint = self.join_entry(Endpoint { netns, sandbox, ..endpoint }).await?;
        if !self.control.update(endpoint.clone()).await? {
            bail!("endpoint {id} was released meanwhile: start the container again");
        }
        let addresses = list(&endpoint.addresses);
        info!(endpoint = endpoint.id, network = network.name, addresses, "plugged in");
        Ok((endpoint, network))
    }

    /// Removes a runtime's endpoint; its addresses are the runtime's until it
    /// gives them up. One that is not there is fine.
    pub async fn delete(&self, id: &str) -> Result<()> {
        let turn = self.turn(Work::OfRuntime(id.to_owned())).await;
        let _turn = turn.lock().await;
        let Some(endpoint) = self.of_runtime(id) else { return Ok(()) };
        // From here on it is served no longer; the rest is waiting for the
        // kernel, and what fails of it is tried again by the loop.
        let released = self.control.begin_release(endpoint.id.clone()).await?;
        let kept = self.keeping(&endpoint);
        self.end_entry(&endpoint, kept.as_ref()).await?;
        self.ended.note(&endpoint, Instant::now());
        if kept.is_none() {
            let (network, holder) = (endpoint.network, endpoint.id.clone());
            let (stashed, kept, asked) = (false, false, false);
            let reservation = Reservation { network, holder, stashed, kept, asked, since: Instant::now() };
            self.reservations
                .lock()
                .extend(endpoint.addresses.iter().map(|addr| (*addr, reservation.clone())));
        }
        let (netlink, host) = (self.netlink.clone(), endpoint.host_interface);
        tokio::spawn(async move {
            drop(released.await);
            if let Err(error) = link::remove(&netlink, &host).await {
                warn!("{error:#}");
            }
        });
        info!(endpoint = endpoint.id, name = endpoint.name, network = endpoint.network_name, "removed");
        Ok(())
    }

    /// Calls an endpoint what the runtime calls its container.
    pub async fn rename(&self, id: &str, name: &str) -> Result<()> {
        let turn = self.turn(Work::OfRuntime(id.to_owned())).await;
        let _turn = turn.lock().await;
        let Some(found) = self.of_runtime(id) else { return Ok(()) };
        if found.name.as_deref() == Some(name) || words::check("container", name, NAME_MAX).is_err() {
            return Ok(());
        }
        let endpoint = Endpoint { name: Some(name.into()), ..found };
        self.journal.commit(Step::default().endpoint(&endpoint)).await?;
        if endpoint.has_joined() {
            // One that is gone needs no name.
            self.control.update(endpoint.clone()).await?;
        }
        let holder = endpoint.id;
        let to =
            Holder { endpoint: holder.clone(), name: endpoint.name, node: None, unknown: Unknown::new() };
        // The turn is over: what is left is the name in the store, for people.
        drop(_turn);
        if self.control.refusal().is_none() {
            self.hand_over(endpoint.network, &[holder], &to).await?;
        }
        Ok(())
    }

    /// Makes addresses of several holders one's; the store hears of it when it
    /// answers.
    async fn hand_over(&self, network: u32, from: &[String], to: &Holder) -> Result<()> {
        let away = match self.control.refusal() {
            Some(reason) => {
                self.ipam.adopt(from, &to.endpoint).await;
                Some(reason.problem)
            }
            None => self.ipam.hand_over(network, from, to).await.err().map(|away| away.to_string()),
        };
        if let Some(away) = away {
            self.dirty.store(true, Ordering::Relaxed);
            debug!("addresses of endpoint {}: {away}", to.endpoint);
        }
        Ok(())
    }
}
