//! Which address of a block is next, and which are in the stash. Pure.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::model::{
    block::{Allocations, Holder},
    network::{Subnet, bits, max_len, offset},
};

/// The most addresses of a block that are kept for when the store is away.
const RESERVE_MAX: u128 = 16;

/// How well an address does for a new endpoint; the least is the best.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rank {
    /// Nobody had it for a while.
    Rested,
    /// In the stash for store outages.
    Reserved,
    /// Freed just now.
    Cooling,
}

/// When it is, and how long a freed address rests, in seconds since 1970 and
/// seconds.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    /// Now.
    pub now: u64,
    /// How long a freed address is not given again while there is another.
    pub rest: u64,
}

/// Addresses in a block.
fn size(block: IpNet) -> u128 {
    1 << (max_len(block.addr()) - block.prefix_len())
}

/// The free address of a block that does best: what was never given comes
/// before what was freed, and what was freed last comes last. What is reserved
/// is the owner's alone.
pub fn best(
    allocations: &Allocations,
    subnet: &Subnet,
    block: IpNet,
    owner: bool,
    clock: Clock,
) -> Option<(Rank, IpAddr)> {
    let first = block.network();
    let size = size(block);
    let start = allocations.last.map_or(0, |last| position(last, first) + 1);
    let candidates = (0..size).map(|i| offset(first, (start + i) % size));
    let free = candidates.filter(|addr| {
        subnet.is_offered(*addr)
            && !allocations.addresses.contains_key(addr)
            && (owner || !allocations.reserved.contains(addr))
    });
    let rank = |addr: &IpAddr| {
        let freed = allocations.freed.get(addr).copied().unwrap_or_default();
        let rank = if freed > 0 && clock.now < freed.saturating_add(clock.rest) {
            Rank::Cooling
        } else if allocations.reserved.contains(addr) {
            Rank::Reserved
        } else {
            Rank::Rested
        };
        (rank, freed)
    };
    // The first of equals, so the search goes on behind the last one given.
    free.min_by_key(rank).map(|addr| (rank(&addr).0, addr))
}

/// Notes that an endpoint has an address.
pub fn give(allocations: &mut Allocations, addr: IpAddr, holder: Holder) {
    allocations.last = Some(addr);
    allocations.reserved.remove(&addr);
    allocations.freed.remove(&addr);
    allocations.addresses.insert(addr, holder);
}

/// Takes back every address whose holder `keep` denies, and gives them.
pub fn free(allocations: &mut Allocations, keep: impl Fn(&IpAddr, &Holder) -> bool, now: u64) -> Vec<IpAddr> {
    let gone = allocations.addresses.iter().filter(|(addr, holder)| !keep(addr, holder));
    let gone: Vec<IpAddr> = gone.map(|(addr, _)| *addr).collect();
    for addr in &gone {
        allocations.addresses.remove(addr);
        allocations.freed.insert(*addr, now);
    }
    gone
}

/// Keeps a quarter of the block back, 16 at most, from its end.
pub fn reserve(allocations: &mut Allocations, subnet: &Subnet, block: IpNet) {
    let wanted = (size(block) / 4).min(RESERVE_MAX) as usize;
    let first = block.network();
    for i in (0..size(block)).rev() {
        if allocations.reserved.len() >= wanted {
            return;
        }
        let addr = offset(first, i);
        if subnet.is_offered(addr) && !allocations.addresses.contains_key(&addr) {
            allocations.reserved.insert(addr);
        }
    }
}

fn position(addr: IpAddr, first: IpAddr) -> u128 {
    bits(addr).wrapping_sub(bits(first))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Unknown;

    fn subnet() -> Subnet {
        Subnet {
            cidr: "10.0.0.0/24".parse().expect("a literal"),
            gateway: "10.0.0.1".parse().expect("a literal"),
            block_len: 29,
            range: None,
            aux: Default::default(),
        }
    }

    fn holder(endpoint: &str) -> Holder {
        Holder { endpoint: endpoint.into(), name: None, node: None, unknown: Unknown::new() }
    }

    const AT: Clock = Clock { now: 1000, rest: 30 };

    fn fill(allocations: &mut Allocations, block: IpNet, owner: bool) -> Vec<String> {
        let mut given = Vec::new();
        while let Some((_, addr)) = best(allocations, &subnet(), block, owner, AT) {
            give(allocations, addr, holder(&addr.to_string()));
            given.push(addr.to_string());
        }
        given
    }

    #[test]
    fn a_block_gives_each_of_its_addresses_once_and_the_reserved_ones_last() {
        let block = "10.0.0.0/29".parse().expect("a literal");
        let mut allocations = Allocations::default();
        reserve(&mut allocations, &subnet(), block);
        let mut others = allocations.clone();
        let expected: Vec<_> = (2..8).map(|i| format!("10.0.0.{i}")).collect();
        assert_eq!(fill(&mut allocations, block, true), expected, "without the network's and the gateway's");
        assert_eq!(fill(&mut others, block, false), expected[..4], "two are the owner's alone");
    }

    #[test]
    fn freed_addresses_are_reused_oldest_first() {
        let block = "10.0.0.8/29".parse().expect("a literal");
        let mut allocations = Allocations::default();
        let given = fill(&mut allocations, block, true);
        for (i, at) in [(3, 900), (5, 990), (1, 950)] {
            free(&mut allocations, |_, holder| holder.endpoint != given[i], at);
        }
        let mut order = Vec::new();
        while let Some((rank, addr)) = best(&allocations, &subnet(), block, true, AT) {
            give(&mut allocations, addr, holder("again"));
            order.push((rank, addr.to_string()));
        }
        let expected = [(Rank::Rested, 3), (Rank::Rested, 1), (Rank::Cooling, 5)];
        assert_eq!(order, expected.map(|(rank, i)| (rank, given[i].clone())));
    }
}
