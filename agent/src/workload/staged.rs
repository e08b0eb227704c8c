//! Endpoints of a runtime that asks for addresses by themselves, moves the
//! interface into the container by itself, and may forget any step or take it
//! twice: each step apart, each idempotent.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::Ordering},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, bail};
use margay_common::net::Mac;
use tracing::{debug, info, warn};

use super::{NAME_MAX, Workloads, list, mac_for, new_id};
use crate::{
    control::State,
    ipam,
    journal::Step,
    kernel::link,
    model::{
        Unknown,
        block::Holder,
        endpoint::{DockerEndpoint, Endpoint, Kept},
        network::{Network, Subnet},
    },
    tables::host_interface,
    words,
};

/// What the side of an interface is called that goes into the container, before it
/// goes.
const INSIDE_PREFIX: &str = "mgp";

/// Addresses that a runtime asked for, until an endpoint has them or they are
/// given up.
#[derive(Debug, Default)]
pub(super) struct Leases(Mutex<BTreeMap<IpAddr, Lease>>);

#[derive(Clone, Debug)]
pub(super) struct Lease {
    pub network: u32,
    /// Who has the address in the store; the endpoint's id to be.
    pub holder: String,
    /// Whether the store does not know of it yet.
    pub stashed: bool,
    /// Whether a stopped container keeps the address. Then `holder` is the endpoint that
    /// the container had.
    pub kept: bool,
    /// Whether a user named the address.
    pub asked: bool,
    pub since: Instant,
}

/// What a runtime asks to be made.
#[derive(Clone, Debug)]
pub struct Create {
    /// The endpoint as the runtime knows it.
    pub docker: DockerEndpoint,
    /// The addresses that it was given before.
    pub addresses: Vec<IpAddr>,
    /// The MAC wanted.
    pub mac: Option<Mac>,
}

impl Leases {
    pub(super) fn lock(&self) -> MutexGuard<'_, BTreeMap<IpAddr, Lease>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The name of an interface's inner side before it is moved.
pub fn inside_name(endpoint: &Endpoint) -> String {
    format!("{INSIDE_PREFIX}{}", &endpoint.id[..12])
}

impl Workloads {
    /// Gives a runtime an address of a subnet, for an endpoint to come: the one that is
    /// `wanted`, which a user named if `asked`, or any that nobody has or keeps.
    pub async fn lease(
        &self,
        network: &Network,
        subnet: &Subnet,
        wanted: Option<IpAddr>,
        asked: bool,
    ) -> Result<IpAddr> {
        self.joined().await?;
        if let Some(addr) = wanted.and_then(|addr| self.lease_kept(network, addr, asked)) {
            return Ok(addr);
        }
        let holder = new_id()?;
        let narrow = Network { subnets: vec![subnet.clone()], ..network.clone() };
        let request = ipam::Request {
            holder: Holder { endpoint: holder.clone(), name: None, node: None, unknown: Unknown::new() },
            wanted: wanted.into_iter().collect(),
        };
        let (addresses, stashed) = self.allocate(&narrow, &request).await?;
        let addr = *addresses.first().context("no address")?;
        let lease = Lease { network: network.id, holder, stashed, kept: false, asked, since: Instant::now() };
        self.leases.lock().insert(addr, lease);
        Ok(addr)
    }

    /// Takes an address back from a runtime, and the endpoint that still has
    /// it; one that it does not have is fine.
    pub async fn end_lease(&self, addr: IpAddr) -> Result<()> {
        let endpoints = self.journal.endpoints();
        let mut of_runtime = endpoints.into_values().filter_map(|e| Some((e.docker?, e.addresses)));
        if let Some((docker, _)) = of_runtime.find(|(_, addresses)| addresses.contains(&addr)) {
            self.delete(&docker.id).await?;
        }
        let lease = self.leases.lock().remove(&addr);
        if let Some(lease) = lease {
            self.give_back(addr, &lease).await?;
        }
        Ok(())
    }

    async fn give_back(&self, addr: IpAddr, lease: &Lease) -> Result<()> {
        let still = |kept: &Kept| kept.holder == lease.holder && kept.addresses.contains(&addr);
        if lease.kept && self.journal.kept().values().any(still) {
            return Ok(());
        }
        self.ipam.forget_one(&lease.holder, addr).await;
        // A store that is known to be away is not waited for: membership takes
        // the address back once it answers.
        let away = match self.control.refusal() {
            Some(reason) => Some(reason.problem),
            None => {
                let released = self.ipam.release_one(lease.network, &lease.holder, addr).await;
                released.err().map(|away| away.to_string())
            }
        };
        if let Some(away) = away {
            self.dirty.store(true, Ordering::Relaxed);
            debug!("address {addr}: {away}");
        }
        Ok(())
    }

    /// Takes back what a runtime asked for and has not used for a while.
    pub async fn end_stale_leases(&self, patience: Duration) {
        let stale = |(addr, lease): (&IpAddr, &Lease)| (lease.since.elapsed() >= patience).then_some(*addr);
        let stale: Vec<IpAddr> = self.leases.lock().iter().filter_map(stale).collect();
        for addr in stale {
            // An endpoint may have it by now.
            let still = |lease: &Lease| lease.since.elapsed() >= patience;
            let lease = {
                let mut leases = self.leases.lock();
                if leases.get(&addr).is_some_and(still) { leases.remove(&addr) } else { None }
            };
            let Some(lease) = lease else { continue };
            info!("took address {addr} back, which Docker requested and did not use");
            if let Err(error) = self.give_back(addr, &lease).await {
                warn!("address {addr}: {error:#}");
            }
        }
    }

    /// Makes an endpoint of addresses that were given before, and begins to make
    /// its interface: most of that is waiting for the kernel, and the runtime
    /// has other things to do until it asks for it. The same again finds the
    /// first.
    pub async fn create(self: &Arc<Self>, request: Create) -> Result<Endpoint> {
        let turn = self.turn(0, &request.docker.id).await.lock_owned().await;
        self.joined().await?;
        if let Some(found) = self.by_docker(&request.docker.id) {
            let same = found.addresses == request.addresses && request.mac.is_none_or(|mac| mac == found.mac);
            return if same { Ok(found) } else { Err(anyhow!("endpoint {} exists already", found.id)) };
        }
        let Some(first) = request.addresses.first() else { bail!("an endpoint needs an address") };
        let network = self.network_with(*first).await?;
        let holders = self.holders(&network, &request.addresses).await?;
        let (kept, asked) = self.leases.origin(&request.addresses);
        // The interface of the endpoint that had a kept address may still be going, and it
        // is named after that one's id.
        let id = if kept { new_id()? } else { holders[0].clone() };
        if kept || holders.len() > 1 {
            let to = Holder { endpoint: id.clone(), name: None, node: None, unknown: Unknown::new() };
            self.hand_over(network.id, &holders, &to).await?;
        }
        let endpoint = Endpoint {
            name: None,
            network: network.id,
            network_name: network.name.clone(),
            mac: request.mac.unwrap_or_else(|| mac_for(&request.addresses)),
            netns: PathBuf::new(),
            sandbox: 0,
            ifname: String::new(),
            host_interface: host_interface(&id),
            device: self.device,
            mtu: self.mtu(&network).await?,
            ready: false,
            docker: Some(DockerEndpoint { asked, ..request.docker }),
            lost: None,
            addresses: request.addresses,
            id,
        };
        self.note(&endpoint, &network).await?;
        let used = endpoint.addresses.iter().filter_map(|addr| self.leases.lock().remove(addr));
        self.tell_store(used.collect::<Vec<_>>().iter().any(|lease| lease.stashed));
        let (workloads, begun) = (Arc::clone(self), endpoint.clone());
        tokio::spawn(async move {
            // Whoever plugs it in has to wait for its turn, and tries again.
            let _turn = turn;
            if let Err(error) = workloads.make_interface(&begun).await {
                warn!("endpoint {}: {error:#}", begun.id);
            }
        });
        Ok(endpoint)
    }

    /// Makes an endpoint's interface, its inner side on the host, and serves it; all
    /// or nothing.
    async fn make_interface(&self, endpoint: &Endpoint) -> Result<()> {
        let opened = self.open_host_side(endpoint, &inside_name(endpoint), None).await;
        if opened.is_err() {
            self.control.release(endpoint.id.clone()).await?;
            link::remove(&self.netlink, &endpoint.host_interface).await?;
        }
        opened
    }

    /// Has an endpoint's interface ready for the runtime to move into the
    /// container, and served. The same again finds it there.
    pub async fn plug(&self, docker: &str, netns: PathBuf) -> Result<(Endpoint, Network)> {
        let turn = self.turn(0, docker).await;
        let _turn = turn.lock().await;
        let found = self.by_docker(docker);
        let endpoint = found.ok_or_else(|| anyhow!("there is no endpoint {docker}; create it first"))?;
        let first = endpoint.addresses.first().context("an endpoint without an address")?;
        let network = self.network_with(*first).await?;
        let mut endpoint = endpoint;
        if link::index(&self.netlink, &endpoint.host_interface).await?.is_none() {
            // The kernel may be another by now.
            endpoint.device = self.device;
            self.journal.commit(Step::default().endpoint(&endpoint)).await?;
            self.make_interface(&endpoint).await?;
        }
        let sandbox = self.sandboxes.number(&netns, &self.journal.endpoints());
        let endpoint = Endpoint { netns, sandbox, ready: true, ..endpoint };
        self.journal.commit(Step::default().endpoint(&endpoint)).await?;
        self.control.update(endpoint.clone()).await;
        let addresses = list(&endpoint.addresses);
        info!(endpoint = endpoint.id, network = network.name, addresses, "plugged in");
        Ok((endpoint, network))
    }

    /// Removes a runtime's endpoint; its addresses are the runtime's until it
    /// gives them up. One that is not there is fine.
    pub async fn delete(&self, docker: &str) -> Result<()> {
        let turn = self.turn(0, docker).await;
        let _turn = turn.lock().await;
        let Some(endpoint) = self.by_docker(docker) else { return Ok(()) };
        // From here on it is served no longer; the rest is waiting for the
        // kernel, and what fails of it is tried again by the loop.
        let released = self.control.begin_release(endpoint.id.clone()).await?;
        let gone = Step::default().without_endpoint(&endpoint.id);
        let kept = self.keep(&endpoint);
        self.journal.commit(kept.iter().fold(gone, Step::kept)).await?;
        if kept.is_none() {
            let (network, holder) = (endpoint.network, endpoint.id.clone());
            let (stashed, kept, asked) = (false, false, false);
            let lease = Lease { network, holder, stashed, kept, asked, since: Instant::now() };
            self.leases.lock().extend(endpoint.addresses.iter().map(|addr| (*addr, lease.clone())));
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
    pub async fn rename(&self, docker: &str, name: &str) -> Result<()> {
        let turn = self.turn(0, docker).await;
        let _turn = turn.lock().await;
        let Some(found) = self.by_docker(docker) else { return Ok(()) };
        if found.name.as_deref() == Some(name) || words::check("container", name, NAME_MAX).is_err() {
            return Ok(());
        }
        let endpoint = Endpoint { name: Some(name.into()), ..found };
        self.journal.commit(Step::default().endpoint(&endpoint)).await?;
        if endpoint.ready {
            self.control.update(endpoint.clone()).await;
        }
        let id = endpoint.id;
        let to = Holder { endpoint: id.clone(), name: endpoint.name, node: None, unknown: Unknown::new() };
        // The turn is over: what is left is the name in the store, for people.
        drop(_turn);
        if self.control.refusal().is_none() {
            self.hand_over(endpoint.network, &[id], &to).await?;
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

    /// The endpoint that the runtime knows by that id.
    pub fn by_docker(&self, id: &str) -> Option<Endpoint> {
        let endpoints = self.journal.endpoints();
        endpoints.into_values().find(|e| e.docker.as_ref().is_some_and(|docker| docker.id == id))
    }

    /// Who has the addresses in the store. What a restart of the agent has
    /// forgotten is taken anew.
    async fn holders(&self, network: &Network, addresses: &[IpAddr]) -> Result<Vec<String>> {
        let mut holders = Vec::new();
        for addr in addresses {
            let Some(subnet) = network.subnet_of(*addr) else {
                bail!("address {addr} is not of network {}", network.name);
            };
            if !self.leases.lock().contains_key(addr) {
                self.lease(network, subnet, Some(*addr), false).await?;
            }
            // Used from now on, so not to be taken back for its age.
            holders.extend(self.leases.lock().get_mut(addr).map(|lease| {
                lease.since = Instant::now();
                lease.holder.clone()
            }));
        }
        holders.dedup();
        if holders.is_empty() {
            Err(anyhow!("the agent took the addresses back just now; try again"))
        } else {
            Ok(holders)
        }
    }

    /// The network whose subnet has an address.
    async fn network_with(&self, addr: IpAddr) -> Result<Network> {
        let with = move |state: &State| {
            state.snapshot.networks.values().find(|network| network.subnet_of(addr).is_some()).cloned()
        };
        self.control.look(with).await?.ok_or_else(|| anyhow!("no network has a subnet with {addr}"))
    }
}
