//! Which address a new endpoint gets.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    net::IpAddr,
};

use ipnet::IpNet;

use super::{
    allocate::{Refusal, Request, State},
    block::{self, Clock, Rank},
    view::{Draft, View},
};
use crate::model::{
    block::{Allocations, Holder},
    network::{Network, Subnet},
    snapshot::single,
};

/// What came of choosing.
pub(super) enum Choice {
    /// These.
    Addresses(Vec<IpAddr>),
    /// Other nodes' blocks have to be looked into first.
    NeedsWholeView,
}

/// Chooses addresses from what is known.
pub(super) struct Chooser<'a> {
    pub node: &'a str,
    pub clock: Clock,
    pub view: &'a View,
    pub state: &'a State,
    /// How many attempts have lost a race before.
    pub attempt: usize,
}

/// Where an address was found.
struct Found {
    block: IpNet,
    addr: IpAddr,
}

impl Chooser<'_> {
    /// One address of each subnet, and what that changes.
    pub fn choose(
        &self,
        network: &Network,
        request: &Request,
        draft: &mut Draft<'_>,
    ) -> Result<Choice, Refusal> {
        let mut addresses = Vec::new();
        for subnet in &network.subnets {
            let wanted = request.wanted.iter().copied().find(|addr| subnet.cidr.contains(addr));
            let found = match wanted {
                Some(addr) => self.wanted(subnet, addr)?,
                None => self.any(subnet)?,
            };
            let Some(found) = found else { return Ok(Choice::NeedsWholeView) };
            self.take(subnet, &found, &request.holder, draft);
            addresses.push(found.addr);
        }
        Ok(Choice::Addresses(addresses))
    }

    fn take(&self, subnet: &Subnet, found: &Found, holder: &Holder, draft: &mut Draft<'_>) {
        let Found { block, addr } = *found;
        let mut allocations = draft.allocations(block);
        let mut holder = holder.clone();
        match draft.owner(&block).map(str::to_owned) {
            None => {
                draft.claim(block, self.node);
                allocations = Allocations { node: self.node.into(), ..Allocations::default() };
                block::reserve(&mut allocations, subnet, block);
            }
            Some(owner) if owner != self.node => {
                draft.claim(IpNet::from(addr), self.node);
                holder.node = Some(self.node.into());
            }
            Some(_) => {}
        }
        block::give(&mut allocations, addr, holder);
        draft.put(block, allocations);
    }

    /// The block of an address that an endpoint wants.
    fn wanted(&self, subnet: &Subnet, addr: IpAddr) -> Result<Option<Found>, Refusal> {
        let block = subnet.block_of(addr);
        let owner = self.view.owners.get(&block);
        let others = owner.is_some_and(|owner| owner != self.node);
        if others && !self.view.whole {
            return Ok(None);
        }
        let allocations = self.view.allocations(block);
        if let Some(holder) = allocations.addresses.get(&addr) {
            let node = holder.node.as_ref().unwrap_or(&allocations.node);
            let name = holder.name.as_ref().unwrap_or(&holder.endpoint);
            return Err(Refusal::Taken { addr, holder: format!("{name} on node {node}") });
        }
        if self.state.is_mine(addr) {
            return Err(Refusal::Taken { addr, holder: format!("another on node {}", self.node) });
        }
        if others && (allocations.reserved.contains(&addr) || !self.view.blocks.contains_key(&block)) {
            return Err(Refusal::InStash { addr, owner: owner.cloned().unwrap_or_default() });
        }
        Ok(Some(Found { block, addr }))
    }

    /// Any address, the best there is: a rested one of our own blocks, one of a
    /// new block, one of the stash, a borrowed one, and at last one that
    /// was freed just now.
    fn any(&self, subnet: &Subnet) -> Result<Option<Found>, Refusal> {
        let own = self.best(subnet, true);
        let free = || self.free_block(subnet);
        if let Some((Rank::Rested, found)) = own {
            return Ok(Some(found));
        }
        if let Some(found) = free() {
            return Ok(Some(found));
        }
        if let Some((Rank::Reserved, found)) = own {
            return Ok(Some(found));
        }
        if !self.view.whole {
            return Ok(None);
        }
        let mut rest: Vec<_> = self.best(subnet, false).into_iter().chain(own).collect();
        rest.sort_by_key(|(rank, _)| *rank);
        match rest.into_iter().next() {
            Some((_, found)) => Ok(Some(found)),
            None => Err(Refusal::Exhausted(subnet.range.unwrap_or(subnet.cidr))),
        }
    }

    /// The best address of our own blocks, or of those of others.
    fn best(&self, subnet: &Subnet, own: bool) -> Option<(Rank, Found)> {
        let mut best: Option<(Rank, Found)> = None;
        for (block, owner) in &self.view.owners {
            // A block that cannot be read has nobody as its owner.
            let readable = own || self.view.blocks.contains_key(block);
            let fits = (owner == self.node) == own && !owner.is_empty() && single(*block).is_none();
            if !fits || !readable || !subnet.cidr.contains(block) {
                continue;
            }
            let mut allocations = self.view.allocations(*block);
            // Addresses of own endpoints are taken also if the store does not know them yet.
            for addr in self.state.mine.values().flatten().filter(|addr| block.contains(*addr)) {
                allocations.addresses.entry(*addr).or_insert_with(nobody);
            }
            let found = block::best(&allocations, subnet, *block, own, self.clock);
            let Some((rank, addr)) = found else { continue };
            if best.as_ref().is_none_or(|(known, _)| rank < *known) {
                best = Some((rank, Found { block: *block, addr }));
            }
            if rank == Rank::Rested {
                break;
            }
        }
        best
    }

    /// An address of a block that nobody has. After a lost race each node begins at another
    /// block.
    fn free_block(&self, subnet: &Subnet) -> Option<Found> {
        let (first, count) = subnet.offered_blocks();
        let mut hasher = DefaultHasher::new();
        (self.node, self.attempt).hash(&mut hasher);
        let start = if self.attempt < 2 { 0 } else { u128::from(hasher.finish()) % count };
        let none = Allocations::default();
        // Every owner stands in the way of one block, so this ends.
        let blocks = (0..count).map(|i| subnet.block(first + (start + i) % count));
        let mut free = blocks.filter(|block| !self.view.owners.contains_key(block));
        free.find_map(|block| {
            let (_, addr) = block::best(&none, subnet, block, true, self.clock)?;
            Some(Found { block, addr })
        })
    }
}

/// Holds an address that the store knows nothing of yet.
fn nobody() -> Holder {
    Holder { endpoint: String::new(), name: None, node: None, unknown: Default::default() }
}
