//! Keeping the store's allocations in step with this node's endpoints: taking
//! addresses back, putting them back, giving empty blocks back.

use std::{collections::BTreeMap, net::IpAddr};

use ipnet::IpNet;

use super::{
    allocate::{ATTEMPTS, Ipam, State},
    block,
    view::{Draft, OPS_MAX, Scope, View},
};
use crate::{
    model::{
        block::{Allocations, Holder},
        network::Network,
        snapshot::single,
    },
    store::{Away, Commit},
};

/// What an endpoint of this node has, by its journal.
#[derive(Clone, Debug)]
pub struct Held {
    /// The endpoint.
    pub holder: Holder,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// Whether somebody else had one of them the last time.
    pub lost: bool,
}

impl Held {
    /// Whether it is still to be held: one that was released meanwhile is not.
    fn counts(&self, state: &State) -> bool {
        self.lost || state.mine.contains_key(&self.holder.endpoint)
    }
}

/// Blocks that one transaction may change, with a claim for each.
const BLOCKS_MAX: usize = OPS_MAX / 2 - 1;

impl Ipam {
    /// Takes an endpoint's addresses back. What it does not hold is fine.
    pub async fn release(&self, network: u32, endpoint: &str) -> Result<(), Away> {
        let mut state = self.state.lock().await;
        state.mine.remove(endpoint);
        self.retain(&mut state, network, |_, holder| holder.endpoint != endpoint).await
    }

    /// Takes one address of an endpoint back. What it does not hold is fine.
    pub async fn release_one(&self, network: u32, endpoint: &str, addr: IpAddr) -> Result<(), Away> {
        let mut state = self.state.lock().await;
        state.drop_one(endpoint, addr);
        self.retain(&mut state, network, |own, holder| *own != addr || holder.endpoint != endpoint).await
    }

    /// The same on this node alone, while the store is not asked.
    pub async fn forget_one(&self, endpoint: &str, addr: IpAddr) {
        self.state.lock().await.drop_one(endpoint, addr);
    }

    /// Makes the addresses of several holders those of one, on this node alone.
    pub async fn adopt(&self, from: &[String], to: &str) {
        self.state.lock().await.adopt(from, to);
    }

    /// Makes the addresses of several holders of this node those of one, also
    /// under another name. Without the store only this node knows of it, and
    /// [`Self::restore`] tells the store.
    pub async fn hand_over(&self, network: u32, from: &[String], to: &Holder) -> Result<(), Away> {
        let mut state = self.state.lock().await;
        state.adopt(from, &to.endpoint);
        for _ in 0..ATTEMPTS {
            let view = match state.views.remove(&network) {
                Some(view) => view,
                None => View::read(&*self.store, network, &self.node, Scope::Own).await?,
            };
            let mut draft = Draft::new(network, &view);
            for (block, (allocations, _)) in &view.blocks {
                let mut changed = allocations.clone();
                for holder in changed.addresses.values_mut().filter(|h| from.contains(&h.endpoint)) {
                    *holder = Holder { node: holder.node.take(), ..to.clone() };
                }
                if changed != *allocations {
                    draft.put(*block, changed);
                }
            }
            let (txn, outcome) = draft.finish();
            if txn.ops.is_empty() {
                state.views.insert(network, view);
                return Ok(());
            }
            if let Commit::Done(revision) = self.store.commit(txn).await? {
                let mut view = view;
                outcome.apply(&mut view, revision);
                state.views.insert(network, view);
                return Ok(());
            }
        }
        Err(Away::contended("others change this node's blocks at every attempt"))
    }

    /// Takes back every address that the store says this node has and that no
    /// endpoint of it has: what a crash or a lost answer left behind.
    pub async fn sweep(&self, network: u32) -> Result<(), Away> {
        let mut state = self.state.lock().await;
        let mine: Vec<String> = state.mine.keys().cloned().collect();
        state.views.remove(&network);
        self.retain(&mut state, network, |_, holder| mine.binary_search(&holder.endpoint).is_ok()).await
    }

    /// Makes the store say what this node's endpoints have. Gives the endpoints
    /// whose address somebody else has, and who.
    pub async fn restore(
        &self,
        network: &Network,
        endpoints: &[Held],
    ) -> Result<BTreeMap<String, String>, Away> {
        let mut state = self.state.lock().await;
        let endpoints: Vec<Held> = endpoints.iter().filter(|held| held.counts(&state)).cloned().collect();
        let blocks = blocks(network, &endpoints);
        for _ in 0..ATTEMPTS {
            let view = View::read(&*self.store, network.id, &self.node, Scope::With(&blocks)).await?;
            let mut draft = Draft::new(network.id, &view);
            let mut lost = BTreeMap::new();
            for Held { holder, addresses, .. } in &endpoints {
                for addr in addresses {
                    if let Err(other) = self.restore_one(network, *addr, holder, &state, &mut draft) {
                        lost.insert(holder.endpoint.clone(), format!("{other} has address {addr} now"));
                    }
                }
            }
            self.refill(network, &mut draft);
            let (txn, outcome) = draft.finish();
            if txn.ops.is_empty() {
                self.keep(&mut state, network.id, view, &endpoints, &lost);
                return Ok(lost);
            }
            // All of a node's blocks at once is too much for one transaction;
            // each block stands for itself.
            if txn.ops.len() > OPS_MAX {
                self.restore_in_parts(network, &endpoints, &state).await?;
                continue;
            }
            if let Commit::Done(revision) = self.store.commit(txn).await? {
                let mut view = view;
                outcome.apply(&mut view, revision);
                self.keep(&mut state, network.id, view, &endpoints, &lost);
                return Ok(lost);
            }
        }
        Err(Away::contended("others change this node's blocks at every attempt"))
    }

    /// The same for the first blocks that differ; the caller repeats it until none differs.
    async fn restore_in_parts(
        &self,
        network: &Network,
        endpoints: &[Held],
        state: &State,
    ) -> Result<(), Away> {
        let scope = blocks(network, endpoints);
        let view = View::read(&*self.store, network.id, &self.node, Scope::With(&scope)).await?;
        let mut draft = Draft::new(network.id, &view);
        for Held { holder, addresses, .. } in endpoints {
            for addr in addresses {
                if draft.len() < BLOCKS_MAX {
                    // Who else has it is told by the last round.
                    drop(self.restore_one(network, *addr, holder, state, &mut draft));
                }
            }
        }
        self.store.commit(draft.finish().0).await.map(drop)
    }

    fn restore_one(
        &self,
        network: &Network,
        addr: IpAddr,
        holder: &Holder,
        state: &State,
        draft: &mut Draft<'_>,
    ) -> Result<(), String> {
        let Some(subnet) = network.subnet_of(addr) else {
            return Err(format!("outside of network {}, and nobody", network.name));
        };
        let block = subnet.block_of(addr);
        let mut allocations = draft.allocations(block);
        let owner = draft.owner(&block).map(str::to_owned);
        let borrowed = owner.as_ref().is_some_and(|owner| *owner != self.node);
        match allocations.addresses.get(&addr) {
            Some(found) if found.endpoint == holder.endpoint => {
                if borrowed && draft.owner(&IpNet::from(addr)) != Some(&self.node) {
                    draft.claim(IpNet::from(addr), &self.node);
                }
                if owner.is_none() {
                    draft.claim(block, &self.node);
                }
                return Ok(());
            }
            Some(found) => {
                let name = found.name.as_ref().unwrap_or(&found.endpoint);
                let node = found.node.as_ref().unwrap_or(&allocations.node);
                // Nobody of this node: handed over while the store was away.
                if *node == self.node && !state.mine.contains_key(&found.endpoint) {
                    let holder = Holder { node: found.node.clone(), ..holder.clone() };
                    allocations.addresses.insert(addr, holder);
                    draft.put(block, allocations);
                    return Ok(());
                }
                return Err(format!("endpoint {name} of node {node}"));
            }
            None => {}
        }
        let mut holder = holder.clone();
        if borrowed {
            draft.claim(IpNet::from(addr), &self.node);
            holder.node = Some(self.node.clone());
        }
        if owner.is_none() {
            draft.claim(block, &self.node);
            allocations = Allocations { node: self.node.clone(), ..Allocations::default() };
        }
        block::give(&mut allocations, addr, holder);
        draft.put(block, allocations);
        Ok(())
    }

    /// Fills the stash again.
    fn refill(&self, network: &Network, draft: &mut Draft<'_>) {
        for block in draft.blocks_of(&self.node) {
            let Some(subnet) = network.subnet_of(block.addr()) else { continue };
            let mut allocations = draft.allocations(block);
            let before = allocations.reserved.len();
            block::reserve(&mut allocations, subnet, block);
            if allocations.reserved.len() != before && draft.len() < BLOCKS_MAX {
                if allocations.node.is_empty() {
                    allocations.node.clone_from(&self.node);
                }
                draft.put(block, allocations);
            }
        }
    }

    fn keep(
        &self,
        state: &mut State,
        network: u32,
        view: View,
        endpoints: &[Held],
        lost: &BTreeMap<String, String>,
    ) {
        state.views.insert(network, view);
        state.note_stash(network, &self.node);
        for Held { holder, addresses, .. } in endpoints {
            if lost.contains_key(&holder.endpoint) {
                state.mine.remove(&holder.endpoint);
            } else {
                state.mine.insert(holder.endpoint.clone(), addresses.clone());
            }
        }
    }

    /// Gives back this node's blocks in which nobody has had an address for
    /// `idle` seconds. Whether there were any.
    pub async fn give_back(&self, network: u32, idle: u64) -> Result<bool, Away> {
        let mut state = self.state.lock().await;
        let now = self.clock().now;
        let view = match state.views.remove(&network) {
            Some(view) => view,
            None => View::read(&*self.store, network, &self.node, Scope::Own).await?,
        };
        let unused = |block: &IpNet| {
            let Some((allocations, _)) = view.blocks.get(block) else { return false };
            let last = allocations.freed.values().max().copied().unwrap_or_default();
            let used = state.mine.values().flatten().any(|addr| block.contains(addr));
            allocations.addresses.is_empty() && !used && last.saturating_add(idle) < now
        };
        let unused: Vec<IpNet> = view.blocks_of(&self.node).filter(unused).take(BLOCKS_MAX).collect();
        let mut draft = Draft::new(network, &view);
        unused.iter().for_each(|block| draft.give_back(*block));
        let mut view = view.clone();
        if !unused.is_empty() {
            let (txn, outcome) = draft.finish();
            // Somebody else has changed them: the next time will do.
            let Commit::Done(revision) = self.store.commit(txn).await? else { return Ok(false) };
            outcome.apply(&mut view, revision);
        }
        state.views.insert(network, view);
        state.note_stash(network, &self.node);
        Ok(!unused.is_empty())
    }

    async fn retain(
        &self,
        state: &mut State,
        network: u32,
        keep: impl Fn(&IpAddr, &Holder) -> bool,
    ) -> Result<(), Away> {
        for _ in 0..ATTEMPTS {
            let view = match state.views.remove(&network) {
                Some(view) => view,
                None => View::read(&*self.store, network, &self.node, Scope::Own).await?,
            };
            let mut draft = Draft::new(network, &view);
            for (block, (allocations, _)) in &view.blocks {
                if draft.len() < BLOCKS_MAX {
                    self.retain_in(*block, allocations, &keep, &mut draft);
                }
            }
            self.drop_strays(&view, &mut draft);
            let (txn, outcome) = draft.finish();
            if txn.ops.is_empty() {
                state.views.insert(network, view);
                state.note_stash(network, &self.node);
                return Ok(());
            }
            if let Commit::Done(revision) = self.store.commit(txn).await? {
                let mut view = view;
                outcome.apply(&mut view, revision);
                state.views.insert(network, view);
            }
        }
        Err(Away::contended("others change this node's blocks at every attempt"))
    }

    /// Takes back what this node has in a block and `keep` denies.
    fn retain_in(
        &self,
        block: IpNet,
        allocations: &Allocations,
        keep: &impl Fn(&IpAddr, &Holder) -> bool,
        draft: &mut Draft<'_>,
    ) {
        let mine = |holder: &Holder| *holder.node.as_ref().unwrap_or(&allocations.node) == self.node;
        let mut rest = allocations.clone();
        let gone =
            block::free(&mut rest, |addr, holder| !mine(holder) || keep(addr, holder), self.clock().now);
        if gone.is_empty() {
            return;
        }
        for addr in gone {
            if draft.owner(&IpNet::from(addr)) == Some(&self.node) {
                draft.unclaim(addr);
            }
        }
        draft.put(block, rest);
    }

    /// Gives up borrowed addresses that the block knows nothing of.
    fn drop_strays(&self, view: &View, draft: &mut Draft<'_>) {
        for (cidr, owner) in &view.owners {
            let Some(addr) = single(*cidr).filter(|_| *owner == self.node) else { continue };
            let block = view.blocks.iter().find(|(block, _)| block.contains(&addr));
            let held = block.is_some_and(|(_, (allocations, _))| allocations.addresses.contains_key(&addr));
            if !held && draft.len() < BLOCKS_MAX {
                draft.unclaim(addr);
            }
        }
    }
}

/// The blocks that addresses lie in.
fn blocks(network: &Network, endpoints: &[Held]) -> Vec<IpNet> {
    let addresses = endpoints.iter().flat_map(|held| &held.addresses);
    addresses.filter_map(|addr| Some(network.subnet_of(*addr)?.block_of(*addr))).collect()
}
