//! What a packet to a container of the same node costs with more of them.

use std::net::IpAddr;

use margay_common::{
    endpoint::EndpointEntry,
    net::{Addr, Mac},
};
use margay_tests::bpf::{Node, both, mac};

use super::sent;

/// Endpoints on the node, each with an address of both families.
const SIZES: [u32; 3] = [10, 1_000, 10_000];

/// Prints the times; the destinations lie in many blocks of the node's own.
pub fn measure() {
    println!("\n| endpoints here | hot, ns | random, ns |\n|--:|--:|--:|");
    let mut node = Node::new();
    let ifindex = node.ifindex("c1");
    let mut there = 0;
    for endpoints in SIZES {
        for i in there..endpoints {
            for v4 in [true, false] {
                put(&mut node, address(i, v4));
            }
        }
        there = endpoints;
        let [hot, random] = [1, endpoints].map(|among| {
            sent(&node, ifindex, |rng| {
                let v4 = rng.bool();
                (both(1, 2)[usize::from(!v4)], address(rng.u32(0..among), v4))
            })
        });
        println!("| {endpoints} | {} | {} |", crate::report::short(hot), crate::report::short(random));
    }
}

/// An address of network 1 behind those that the node has already.
fn address(i: u32, v4: bool) -> IpAddr {
    let n = i + 1024;
    match v4 {
        true => [10, 1, (n >> 8) as u8, n as u8].into(),
        false => [0xfd00, 1, 0, 0, 0, 0, 0, n as u16].into(),
    }
}

fn put(node: &mut Node, addr: IpAddr) {
    let addr = Addr::from(addr);
    let len = addr.mapped_len(if addr.is_v4() { 16 } else { 64 });
    let endpoint = EndpointEntry {
        ifindex: 1,
        network: 1,
        sandbox: 1,
        mac: Mac(mac("c2")).word(),
        mtu: 1500,
        subnet_mask: Addr::mask(len),
        ..EndpointEntry::default()
    };
    node.maps().endpoints.put(addr, endpoint).expect("the map takes it");
}
