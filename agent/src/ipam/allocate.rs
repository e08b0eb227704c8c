//! How a node comes by addresses: from its own blocks, by claiming blocks of
//! the network's subnet by compare-and-swap, by borrowing single addresses,
//! and, while the store is away, out of its stash.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use ipnet::IpNet;
use thiserror::Error;
use tokio::sync::Mutex;

use super::{
    block::Clock,
    choose::{Choice, Chooser},
    view::{Draft, Scope, View},
};
use crate::{
    model::{block::Holder, endpoint::Endpoint, network::Network},
    store::{Away, Commit, Store},
};

/// Attempts before a race is given up as lost.
pub(super) const ATTEMPTS: usize = 32;

/// Why there is no address.
#[derive(Debug, Error)]
#[expect(missing_docs, reason = "the message of each says it")]
pub enum Refusal {
    #[error(transparent)]
    Away(#[from] Away),
    #[error("address {0} is in no subnet of network {1}; choose an address of a subnet")]
    NotInNetwork(IpAddr, String),
    #[error("address {0} is the gateway of network {1}; choose another")]
    Gateway(IpAddr, String),
    #[error("address {0} is reserved for {1} (--aux-address); choose another")]
    Aux(IpAddr, String),
    #[error("address {0} is the first or last of its subnet; choose another")]
    Edge(IpAddr),
    #[error("addresses {0} and {1} are of one subnet; choose one address of each subnet")]
    TwoOfOneSubnet(IpAddr, IpAddr),
    #[error("address {addr} is taken by endpoint {holder}; choose another")]
    Taken { addr: IpAddr, holder: String },
    #[error("address {addr} is in the stash of node {owner}, for store outages; choose another")]
    InStash { addr: IpAddr, owner: String },
    #[error("{0} is exhausted: endpoints have every address, except those in the stashes of other nodes")]
    Exhausted(IpNet),
    #[error("network {0} was removed")]
    NetworkGone(String),
    #[error("others changed network {0} at every attempt; try again")]
    Contended(String),
    #[error("the stash of this node has no address of network {network} left: {why}")]
    NoStash { network: String, why: String },
    #[error("address {addr} is not in the stash of this node: {why}")]
    NotStashed { addr: IpAddr, why: String },
}

/// What an endpoint needs.
#[derive(Clone, Debug)]
pub struct Request {
    /// The endpoint's id and name.
    pub holder: Holder,
    /// Addresses that it wants; the others are chosen.
    pub wanted: Vec<IpAddr>,
}

/// The addresses of one node.
#[derive(Debug)]
pub struct Ipam {
    pub(super) store: Arc<dyn Store>,
    pub(super) node: String,
    /// How long a freed address rests, in seconds.
    rest: u64,
    pub(super) state: Mutex<State>,
}

/// What is known of addresses.
#[derive(Debug, Default)]
pub(super) struct State {
    /// What we last saw of each network that we allocate from.
    pub views: BTreeMap<u32, View>,
    /// Addresses of this node's stash, by network.
    pub stash: BTreeMap<u32, BTreeSet<IpAddr>>,
    /// The addresses of this node's endpoints, those included that are just
    /// being attached, and those that the store does not know yet.
    pub mine: BTreeMap<String, Vec<IpAddr>>,
}

impl State {
    /// Whether an endpoint of this node has an address.
    pub fn is_mine(&self, addr: IpAddr) -> bool {
        self.mine.values().any(|addresses| addresses.contains(&addr))
    }

    /// An endpoint has an address no longer.
    pub fn drop_one(&mut self, endpoint: &str, addr: IpAddr) {
        let Some(addresses) = self.mine.get_mut(endpoint) else { return };
        addresses.retain(|own| *own != addr);
        if addresses.is_empty() {
            self.mine.remove(endpoint);
        }
    }

    /// One endpoint has what several had.
    pub fn adopt(&mut self, from: &[String], to: &str) {
        let taken = from.iter().filter_map(|holder| self.mine.remove(holder));
        let addresses = taken.flatten().collect();
        self.mine.insert(to.to_owned(), addresses);
    }

    /// Takes over this node's stash.
    pub fn note_stash(&mut self, network: u32, node: &str) {
        let Some(view) = self.views.get(&network) else { return };
        let own = view.blocks_of(node).filter_map(|block| view.blocks.get(&block));
        let stash = own.flat_map(|(allocations, _)| allocations.reserved.iter().copied()).collect();
        self.stash.insert(network, stash);
    }
}

impl Ipam {
    /// The addresses of `node`, which has these endpoints and this stash, by
    /// network, from its journal. A freed address rests `rest` seconds.
    pub fn new(
        store: Arc<dyn Store>,
        node: String,
        rest: u64,
        endpoints: &BTreeMap<String, Endpoint>,
        stash: BTreeMap<u32, BTreeSet<IpAddr>>,
    ) -> Self {
        let served = endpoints.values().filter(|endpoint| endpoint.lost.is_none());
        let mine = served.map(|endpoint| (endpoint.id.clone(), endpoint.addresses.clone())).collect();
        Self { store, node, rest, state: Mutex::new(State { stash, mine, ..State::default() }) }
    }

    /// The same with what stopped containers keep, each under the endpoint that had it.
    pub fn with_kept(self, kept: impl IntoIterator<Item = (String, Vec<IpAddr>)>) -> Self {
        let Self { store, node, rest, state } = self;
        let mut state = state.into_inner();
        state.mine.extend(kept);
        Self { store, node, rest, state: Mutex::new(state) }
    }

    /// Gives an endpoint one address of each subnet, all or none.
    pub async fn allocate(&self, network: &Network, request: &Request) -> Result<Vec<IpAddr>, Refusal> {
        check(network, &request.wanted)?;
        let mut state = self.state.lock().await;
        let mut scope = Scope::Own;
        for attempt in 0..ATTEMPTS {
            if attempt > 0 || !state.views.contains_key(&network.id) {
                let view = View::read(&*self.store, network.id, &self.node, scope).await?;
                if view.network_revision == 0 {
                    return Err(Refusal::NetworkGone(network.name.clone()));
                }
                state.views.insert(network.id, view);
            }
            let Some(view) = state.views.get(&network.id) else { continue };
            let chooser = Chooser { node: &self.node, clock: self.clock(), view, state: &state, attempt };
            let mut draft = Draft::new(network.id, view);
            let addresses = match chooser.choose(network, request, &mut draft) {
                Ok(Choice::Addresses(addresses)) => addresses,
                Ok(Choice::NeedsWholeView) => {
                    scope = Scope::Whole;
                    continue;
                }
                // A stale view may say no where a fresh one would not.
                Err(_) if attempt == 0 => continue,
                Err(refusal) => return Err(refusal),
            };
            let (txn, outcome) = draft.finish();
            let committed = match self.store.commit(txn).await {
                Ok(committed) => committed,
                Err(away) => {
                    // The transaction may have happened; a sweep takes the addresses back.
                    state.views.remove(&network.id);
                    return Err(away.into());
                }
            };
            if let Commit::Done(revision) = committed {
                if let Some(view) = state.views.get_mut(&network.id) {
                    outcome.apply(view, revision);
                }
                state.mine.insert(request.holder.endpoint.clone(), addresses.clone());
                state.note_stash(network.id, &self.node);
                return Ok(addresses);
            }
        }
        Err(Refusal::Contended(network.name.clone()))
    }

    /// Gives an endpoint addresses out of the stash, since the store cannot be
    /// asked, as `why` says.
    pub async fn allocate_from_stash(
        &self,
        network: &Network,
        request: &Request,
        why: &str,
    ) -> Result<Vec<IpAddr>, Refusal> {
        check(network, &request.wanted)?;
        let mut state = self.state.lock().await;
        let none = BTreeSet::new();
        let stash = state.stash.get(&network.id).unwrap_or(&none);
        let mut addresses = Vec::new();
        for subnet in &network.subnets {
            let mut there = stash.iter().filter(|addr| subnet.is_offered(**addr) && !state.is_mine(**addr));
            let wanted = request.wanted.iter().find(|addr| subnet.cidr.contains(*addr));
            let found = match wanted {
                Some(addr) => there
                    .find(|found| *found == addr)
                    .ok_or_else(|| Refusal::NotStashed { addr: *addr, why: why.into() }),
                None => there
                    .next()
                    .ok_or_else(|| Refusal::NoStash { network: network.name.clone(), why: why.into() }),
            };
            addresses.push(*found?);
        }
        state.mine.insert(request.holder.endpoint.clone(), addresses.clone());
        Ok(addresses)
    }

    /// The addresses of this node's stash in a network.
    pub async fn stash(&self, network: u32) -> BTreeSet<IpAddr> {
        self.state.lock().await.stash.get(&network).cloned().unwrap_or_default()
    }

    /// Forgets what was seen of the store, which may be another by now.
    pub async fn forget(&self) {
        self.state.lock().await.views.clear();
    }

    pub(super) fn clock(&self) -> Clock {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        Clock { now, rest: self.rest }
    }
}

fn check(network: &Network, wanted: &[IpAddr]) -> Result<(), Refusal> {
    for (i, addr) in wanted.iter().enumerate() {
        let Some(subnet) = network.subnet_of(*addr) else {
            return Err(Refusal::NotInNetwork(*addr, network.name.clone()));
        };
        if *addr == subnet.gateway {
            return Err(Refusal::Gateway(*addr, network.name.clone()));
        }
        if subnet.is_edge(*addr) {
            return Err(Refusal::Edge(*addr));
        }
        if let Some((name, _)) = subnet.aux.iter().find(|(_, aux)| *aux == addr) {
            return Err(Refusal::Aux(*addr, name.clone()));
        }
        if let Some(other) = wanted[..i].iter().find(|other| subnet.cidr.contains(*other)) {
            return Err(Refusal::TwoOfOneSubnet(*other, *addr));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
