//! How a node comes by addresses: from its own blocks, and by claiming blocks
//! of the network's subnet by compare-and-swap.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use ipnet::IpNet;
use thiserror::Error;
use tokio::sync::Mutex;

use super::block;
use crate::{
    model::{
        self, Unknown,
        block::{Allocations, Claim, Holder},
        key::{Key, ipam_of, routes_of},
        network::{Network, Subnet},
        snapshot::Event,
    },
    store::{Away, Commit, Condition, Op, Store, Txn},
};

/// Attempts before a race is given up as lost.
const ATTEMPTS: usize = 32;

/// Why there is no address.
#[derive(Debug, Error)]
#[expect(missing_docs, reason = "the message of each says it")]
pub enum Refusal {
    #[error(transparent)]
    Away(#[from] Away),
    #[error("address {0} is in no subnet of network {1}")]
    NotInNetwork(IpAddr, String),
    #[error("address {0} is the gateway of network {1}")]
    Gateway(IpAddr, String),
    #[error("address {0} is the first or last of its subnet, which no endpoint has")]
    Edge(IpAddr),
    #[error("addresses {0} and {1} are of one subnet; an endpoint has one address of each")]
    TwoOfOneSubnet(IpAddr, IpAddr),
    #[error("address {addr} is taken by endpoint {holder}")]
    Taken { addr: IpAddr, holder: String },
    #[error(
        "address {addr} is in block {block}, which node {owner} owns; attach there, or choose another address"
    )]
    OthersBlock { addr: IpAddr, block: IpNet, owner: String },
    #[error("subnet {0} is exhausted: every block is owned and this node's are full")]
    Exhausted(IpNet),
    #[error("network {0} is gone")]
    NetworkGone(String),
    #[error("others changed network {0} at every attempt; try again")]
    Contended(String),
}

/// Operations in one transaction; etcd takes 128.
const OPS_MAX: usize = 100;

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
    store: Arc<dyn Store>,
    node: String,
    /// What we last saw of each network that we allocate from. Transactions
    /// rest on it, so a stale view costs an attempt and nothing else.
    views: Mutex<BTreeMap<u32, View>>,
}

/// One network's blocks.
#[derive(Clone, Debug, Default)]
struct View {
    network_revision: i64,
    owners: BTreeMap<IpNet, String>,
    blocks: BTreeMap<IpNet, (Allocations, i64)>,
}

/// A transaction in the making.
#[derive(Default)]
struct Draft {
    txn: Txn,
    changed: BTreeMap<IpNet, Allocations>,
    addresses: Vec<IpAddr>,
}

impl Ipam {
    /// The addresses of `node`.
    pub fn new(store: Arc<dyn Store>, node: String) -> Self {
        Self { store, node, views: Mutex::default() }
    }

    /// Gives an endpoint one address of each subnet, all or none.
    pub async fn allocate(&self, network: &Network, request: &Request) -> Result<Vec<IpAddr>, Refusal> {
        check(network, &request.wanted)?;
        let mut views = self.views.lock().await;
        for attempt in 0..ATTEMPTS {
            if attempt > 0 || !views.contains_key(&network.id) {
                views.insert(network.id, self.view(network).await?);
            }
            let Some(view) = views.get_mut(&network.id) else { continue };
            let drafted = self.draft(network, view, request);
            // A stale view may say no where a fresh one would not.
            if drafted.is_err() && attempt == 0 {
                continue;
            }
            let draft = drafted?;
            let committed = match self.store.commit(draft.txn).await {
                Ok(committed) => committed,
                Err(away) => {
                    // It may have happened all the same.
                    views.remove(&network.id);
                    return Err(away.into());
                }
            };
            if let Commit::Done(revision) = committed {
                for (block, allocations) in draft.changed {
                    view.owners.insert(block, self.node.clone());
                    view.blocks.insert(block, (allocations, revision));
                }
                return Ok(draft.addresses);
            }
        }
        Err(Refusal::Contended(network.name.clone()))
    }

    /// Takes an endpoint's addresses back. What it does not hold is fine.
    pub async fn release(&self, network: u32, endpoint: &str) -> Result<(), Away> {
        self.retain(network, |holder| holder.endpoint != endpoint).await
    }

    /// Takes back every address of this node's blocks whose endpoint `lives`
    /// denies.
    pub async fn sweep(&self, network: u32, lives: impl Fn(&str) -> bool) -> Result<(), Away> {
        self.retain(network, |holder| lives(&holder.endpoint)).await
    }

    async fn retain(&self, network: u32, keep: impl Fn(&Holder) -> bool) -> Result<(), Away> {
        let mut views = self.views.lock().await;
        for _ in 0..ATTEMPTS {
            let view = match views.entry(network) {
                std::collections::btree_map::Entry::Occupied(found) => found.into_mut(),
                std::collections::btree_map::Entry::Vacant(none) => none.insert(self.read(network).await?),
            };
            let (mut txn, mut changed) = (Txn::default(), BTreeMap::new());
            for (block, (allocations, revision)) in &view.blocks {
                if allocations.node != self.node || allocations.addresses.values().all(&keep) {
                    continue;
                }
                if txn.ops.len() == OPS_MAX {
                    break;
                }
                let mut rest = allocations.clone();
                rest.addresses.retain(|_, holder| keep(holder));
                let key = Key::Ipam(network, *block);
                txn.conditions.push(Condition::Revision(key.clone(), *revision));
                txn.ops.push(Op::Put(key, model::encode(&rest)));
                changed.insert(*block, rest);
            }
            if txn.ops.is_empty() {
                return Ok(());
            }
            match self.store.commit(txn).await? {
                Commit::Done(revision) => {
                    view.blocks.extend(changed.into_iter().map(|(block, rest)| (block, (rest, revision))));
                }
                Commit::Conflict => drop(views.remove(&network)),
            }
        }
        Err(Away("others change this node's blocks at every attempt".into()))
    }

    /// A fresh view of a network that has to exist.
    async fn view(&self, network: &Network) -> Result<View, Refusal> {
        let view = self.read(network.id).await?;
        if view.network_revision == 0 {
            return Err(Refusal::NetworkGone(network.name.clone()));
        }
        Ok(view)
    }

    async fn read(&self, network: u32) -> Result<View, Away> {
        let own = Key::Network(network).to_string();
        let listing = self.store.list(&[own, routes_of(network), ipam_of(network)]).await?;
        let mut view = View::default();
        for entry in listing.entries {
            let Event::Put { key, value, revision } = entry else { continue };
            match Key::parse(&key) {
                Some(Key::Network(id)) if id == network => view.network_revision = revision,
                Some(Key::Route(_, block)) => {
                    // A claim that does not parse still is one.
                    let owner = model::decode::<Claim>(&value).map(|claim| claim.node);
                    view.owners.insert(block, owner.unwrap_or_default());
                }
                Some(Key::Ipam(_, block)) => {
                    match model::decode(&value) {
                        Ok(allocations) => drop(view.blocks.insert(block, (allocations, revision))),
                        // Nobody knows who has what in it: it is nobody's to use.
                        Err(_) => drop(view.owners.insert(block, String::new())),
                    }
                }
                _ => {}
            }
        }
        Ok(view)
    }

    fn draft(&self, network: &Network, view: &View, request: &Request) -> Result<Draft, Refusal> {
        let mut draft = Draft::default();
        let exists = Condition::Revision(Key::Network(network.id), view.network_revision);
        draft.txn.conditions.push(exists);
        for subnet in &network.subnets {
            let wanted = request.wanted.iter().copied().find(|addr| subnet.cidr.contains(addr));
            let (block, addr) = match wanted {
                Some(addr) => (self.block_for(subnet, view, addr)?, addr),
                None => self.any(subnet, view)?,
            };
            draft.take(network.id, view, &self.node, block, addr, &request.holder);
        }
        Ok(draft)
    }

    /// The block of an address that an endpoint wants.
    fn block_for(&self, subnet: &Subnet, view: &View, addr: IpAddr) -> Result<IpNet, Refusal> {
        let block = subnet.block_of(addr);
        if let Some((allocations, _)) = view.blocks.get(&block)
            && let Some(holder) = allocations.addresses.get(&addr)
        {
            let holder = holder.name.clone().unwrap_or_else(|| holder.endpoint.clone());
            return Err(Refusal::Taken { addr, holder: format!("{holder} on node {}", allocations.node) });
        }
        match view.owners.get(&block) {
            Some(owner) if *owner != self.node => {
                Err(Refusal::OthersBlock { addr, block, owner: owner.clone() })
            }
            _ => Ok(block),
        }
    }

    /// Any address: from our own blocks first, then from one that is free.
    fn any(&self, subnet: &Subnet, view: &View) -> Result<(IpNet, IpAddr), Refusal> {
        let own =
            view.owners.iter().filter(|(block, owner)| **owner == self.node && subnet.cidr.contains(*block));
        let none = Allocations::default();
        for (block, _) in own {
            let allocations = view.blocks.get(block).map_or(&none, |(allocations, _)| allocations);
            if let Some(addr) = block::next(allocations, subnet, *block) {
                return Ok((*block, addr));
            }
        }
        let mut free = subnet.blocks().filter(|block| !view.owners.contains_key(block));
        let found = free.find_map(|block| Some((block, block::next(&none, subnet, block)?)));
        found.ok_or(Refusal::Exhausted(subnet.cidr))
    }
}

impl Draft {
    fn take(&mut self, network: u32, view: &View, node: &str, block: IpNet, addr: IpAddr, holder: &Holder) {
        let (route, ipam) = (Key::Route(network, block), Key::Ipam(network, block));
        if !view.owners.contains_key(&block) {
            let claim = Claim { node: node.into(), unknown: Unknown::new() };
            self.txn.conditions.push(Condition::Absent(route.clone()));
            self.txn.ops.push(Op::Put(route, model::encode(&claim)));
        }
        let mut allocations = match view.blocks.get(&block) {
            Some((allocations, revision)) => {
                self.txn.conditions.push(Condition::Revision(ipam.clone(), *revision));
                allocations.clone()
            }
            None => {
                self.txn.conditions.push(Condition::Absent(ipam.clone()));
                Allocations { node: node.into(), ..Allocations::default() }
            }
        };
        block::give(&mut allocations, addr, holder.clone());
        self.txn.ops.push(Op::Put(ipam, model::encode(&allocations)));
        self.changed.insert(block, allocations);
        self.addresses.push(addr);
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
        if let Some(other) = wanted[..i].iter().find(|other| subnet.cidr.contains(*other)) {
            return Err(Refusal::TwoOfOneSubnet(*other, *addr));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
