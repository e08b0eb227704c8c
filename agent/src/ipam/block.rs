//! Which address of a block is next. Pure.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::model::{
    block::{Allocations, Holder},
    network::{Subnet, max_len, offset},
};

/// Addresses in a block.
fn size(block: IpNet) -> u128 {
    1 << (max_len(block.addr()) - block.prefix_len())
}

/// The next free address behind the one given out last, going around, so that
/// a freed address rests as long as the block allows.
pub fn next(allocations: &Allocations, subnet: &Subnet, block: IpNet) -> Option<IpAddr> {
    let first = block.network();
    let size = size(block);
    let start = allocations.last.map_or(0, |last| position(last, first) + 1);
    let candidates = (0..size).map(|i| offset(first, (start + i) % size));
    let free = |addr: &IpAddr| subnet.is_assignable(*addr) && !allocations.addresses.contains_key(addr);
    candidates.into_iter().find(free)
}

/// Notes that an endpoint has an address.
pub fn give(allocations: &mut Allocations, addr: IpAddr, holder: Holder) {
    allocations.last = Some(addr);
    allocations.addresses.insert(addr, holder);
}

fn position(addr: IpAddr, first: IpAddr) -> u128 {
    let bits = |addr: IpAddr| match addr {
        IpAddr::V4(v4) => u128::from(v4.to_bits()),
        IpAddr::V6(v6) => v6.to_bits(),
    };
    bits(addr).wrapping_sub(bits(first))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subnet() -> Subnet {
        Subnet {
            cidr: "10.0.0.0/24".parse().expect("a literal"),
            gateway: "10.0.0.1".parse().expect("a literal"),
            block_len: 29,
        }
    }

    fn holder() -> Holder {
        Holder { endpoint: "e".into(), name: None }
    }

    #[test]
    fn a_block_gives_each_of_its_addresses_once() {
        let (subnet, block) = (subnet(), "10.0.0.0/29".parse().expect("a literal"));
        let mut allocations = Allocations::default();
        let mut given = Vec::new();
        while let Some(addr) = next(&allocations, &subnet, block) {
            give(&mut allocations, addr, holder());
            given.push(addr.to_string());
        }
        let expected: Vec<_> = (2..8).map(|i| format!("10.0.0.{i}")).collect();
        assert_eq!(given, expected, "without the network's address and the gateway's");
    }

    #[test]
    fn a_freed_address_comes_last() {
        let (subnet, block) = (subnet(), "10.0.0.8/29".parse().expect("a literal"));
        let mut allocations = Allocations::default();
        for _ in 0..3 {
            let addr = next(&allocations, &subnet, block).expect("free");
            give(&mut allocations, addr, holder());
        }
        let first = allocations.addresses.keys().next().copied().expect("given");
        allocations.addresses.remove(&first);
        let mut later = Vec::new();
        while let Some(addr) = next(&allocations, &subnet, block) {
            give(&mut allocations, addr, holder());
            later.push(addr);
        }
        assert_eq!(later.len(), 6);
        assert_eq!(later.last(), Some(&first));
    }
}
