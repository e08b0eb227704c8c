//! Packets that come in on the uplink.

use std::net::IpAddr;

use margay_tests::{
    bpf::{both, mac, node},
    frame::{Frame, GATEWAY, arp},
};

use crate::{dropped, explained, forwarded, passed};

const WIRE: [u8; 6] = [2, 9, 9, 9, 9, 9];

fn addr(text: &str) -> IpAddr {
    text.parse().expect("a literal")
}

#[test]
fn packet_from_a_remote_container_is_delivered() {
    let mut node = node();
    for family in 0..2 {
        let frame = Frame::udp(WIRE, both(1, 70)[family], both(1, 2)[family]).bytes();
        let out = node.from_network(&frame);
        forwarded(&out, "from_network", "local");
        assert_eq!(out.frame[..12], [mac("c1"), GATEWAY].concat());
        assert_eq!(out.frame[12..], frame[12..], "the hop was counted where it was sent");
    }
}

#[test]
fn packet_from_another_node_itself_is_delivered() {
    let mut node = node();
    for (family, src) in ["192.0.2.2", "2001:db8::2"].into_iter().enumerate() {
        for (network, host) in [(1, 2), (3, 2), (4, 2)] {
            let frame = Frame::udp(WIRE, addr(src), both(network, host)[family]);
            forwarded(&node.from_network(&frame.bytes()), "from_network", "local");
        }
    }
}

#[test]
fn packet_from_outside_reaches_routable_networks_only() {
    let mut node = node();
    for (family, src) in ["203.0.113.9", "2001:db8:9::9"].into_iter().enumerate() {
        for network in [1, 2, 3] {
            let frame = Frame::udp(WIRE, addr(src), both(network, 2)[family]);
            dropped(&node.from_network(&frame.bytes()), "from_network", "outside");
            // Outsiders cannot find out which addresses are in use.
            let frame = Frame::udp(WIRE, addr(src), both(network, 200)[family]);
            dropped(&node.from_network(&frame.bytes()), "from_network", "outside");
        }
        let frame = Frame::udp(WIRE, addr(src), both(4, 2)[family]);
        forwarded(&node.from_network(&frame.bytes()), "from_network", "local");
    }
}

#[test]
fn packet_from_the_wire_with_this_nodes_address_is_dropped() {
    let mut node = node();
    for (family, src) in ["192.0.2.1", "2001:db8::1"].into_iter().enumerate() {
        let frame = Frame::udp(WIRE, addr(src), both(1, 2)[family]);
        dropped(&node.from_network(&frame.bytes()), "from_network", "spoofed_source");
    }
}

#[test]
fn every_node_forwards_packets_to_a_routable_network() {
    let mut node = node();
    for (family, src) in ["203.0.113.9", "2001:db8:9::9"].into_iter().enumerate() {
        let frame = Frame::udp(WIRE, addr(src), both(4, 70)[family]);
        let out = node.from_network(&frame.bytes());
        forwarded(&out, "from_network", "remote");
        assert_eq!(out.frame, frame.clone().ttl(63).bytes(), "one hop");
        let out = node.from_network(&frame.ttl(1).bytes());
        explained(&out, "from_network", "ttl_exceeded");
        let frame = Frame::udp(WIRE, addr(src), both(4, 200)[family]);
        explained(&node.from_network(&frame.bytes()), "from_network", "no_endpoint");
    }
}

#[test]
fn packet_from_a_remote_container_to_this_node_goes_to_margay0() {
    let mut node = node();
    for (family, this) in ["192.0.2.1", "2001:db8::1"].into_iter().enumerate() {
        let frame = Frame::udp(WIRE, both(1, 70)[family], addr(this));
        let out = node.from_network(&frame.bytes());
        forwarded(&out, "from_network", "host");
        assert_eq!(out.frame[..6], GATEWAY, "margay0 has that MAC");
    }
}

#[test]
fn foreign_packets_pass_unchanged() {
    let mut node = node();
    let pairs = [
        // Node to node, the world to the node, the world through the host.
        ["192.0.2.2", "192.0.2.1"],
        ["203.0.113.9", "192.0.2.1"],
        ["203.0.113.9", "203.0.113.10"],
        ["2001:db8::2", "2001:db8::1"],
        ["2001:db8:9::9", "2001:db8::1"],
        ["2001:db8:9::9", "2001:db8:9::a"],
        // Broadcast and multicast.
        ["192.0.2.2", "255.255.255.255"],
        ["192.0.2.2", "224.0.0.251"],
        ["fe80::2", "ff02::1"],
    ];
    for [src, dst] in pairs {
        let frame = Frame::udp(WIRE, addr(src), addr(dst)).bytes();
        passed(&node.from_network(&frame), "from_network", &frame);
    }
    let frames = [
        arp(WIRE, 1, (WIRE, [192, 0, 2, 2]), [192, 0, 2, 1]),
        // A host's own neighbour discovery.
        Frame::udp(WIRE, addr("fe80::2"), addr("2001:db8::1")).carrying(58, &[135, 0, 0, 0]).bytes(),
        // For another host's MAC, even to an address of ours.
        Frame::udp(WIRE, both(1, 70)[0], both(1, 2)[0]).to_mac([2, 8, 8, 8, 8, 8]).bytes(),
    ];
    for frame in frames {
        passed(&node.from_network(&frame), "from_network", &frame);
    }
    // Malformed, but not for the cluster.
    let mut broken = Frame::udp(WIRE, addr("203.0.113.9"), addr("192.0.2.1")).bytes();
    broken[14] = 0x44;
    passed(&node.from_network(&broken), "from_network", &broken);
}

#[test]
fn malformed_packets_to_containers_are_dropped() {
    let mut node = node();
    let mut broken = Frame::udp(WIRE, both(1, 70)[0], both(1, 2)[0]).bytes();
    broken[14] = 0x44;
    dropped(&node.from_network(&broken), "from_network", "malformed");
    let routed =
        Frame { options: vec![131, 7, 4, 10, 2, 0, 3, 0], ..Frame::udp(WIRE, both(1, 70)[0], both(1, 2)[0]) };
    dropped(&node.from_network(&routed.bytes()), "from_network", "source_route");
}
