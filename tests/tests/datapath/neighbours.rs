//! ARP and neighbour discovery: the gateway is the only neighbour.

use std::net::IpAddr;

use margay_tests::{
    bpf::{both, mac, node},
    frame::{Frame, GATEWAY, arp, icmpv6_checksum_is_right},
};

use crate::{dropped, forwarded};

const OWN: [u8; 4] = [10, 1, 0, 2];
const ROUTER: [u8; 4] = [10, 1, 0, 1];

#[test]
fn arp_request_for_the_gateway_is_answered() {
    let mut node = node();
    let c1 = mac("c1");
    // Plainly, as a probe without an address yet, and from the container's
    // address on its other network.
    for sender in [OWN, [0; 4], [10, 2, 0, 2]] {
        let out = node.from_workload("c1", &arp(c1, 1, (c1, sender), ROUTER));
        forwarded(&out, "from_workload", "answered");
        let mut expected = arp(GATEWAY, 2, (GATEWAY, ROUTER), sender);
        expected[..6].copy_from_slice(&c1);
        expected[32..38].copy_from_slice(&c1);
        assert_eq!(out.frame, expected);
    }
}

#[test]
fn other_arp_is_dropped() {
    let mut node = node();
    let c1 = mac("c1");
    let cases = [
        (arp(c1, 1, (c1, OWN), [10, 1, 0, 3]), "neighbour"),
        (arp(c1, 1, (c1, OWN), OWN), "neighbour"),
        (arp(c1, 2, (c1, OWN), ROUTER), "neighbour"),
        (arp(c1, 1, (c1, [10, 1, 0, 3]), ROUTER), "spoofed_source"),
        (arp(c1, 1, (c1, ROUTER), ROUTER), "spoofed_source"),
        (arp(c1, 1, (mac("c2"), OWN), ROUTER), "spoofed_mac"),
        (arp(mac("c2"), 1, (c1, OWN), ROUTER), "spoofed_mac"),
        (arp(c1, 1, (c1, OWN), ROUTER)[..40].to_vec(), "malformed"),
    ];
    for (frame, reason) in cases {
        dropped(&node.from_workload("c1", &frame), "from_workload", reason);
    }
}

/// A neighbour solicitation or another message of that kind.
fn solicitation(kind: u8, src: IpAddr, target: IpAddr) -> Frame {
    let IpAddr::V6(target) = target else { panic!("IPv6 only") };
    let mut message = vec![kind, 0, 0, 0, 0, 0, 0, 0];
    message.extend(target.octets());
    message.extend([1, 1]);
    message.extend(mac("c1"));
    let group: IpAddr = "ff02::1:ff00:1".parse().expect("a literal");
    Frame::udp(mac("c1"), src, group).carrying(58, &message).ttl(255).to_mac([0x33, 0x33, 0xff, 0, 0, 1])
}

#[test]
fn a_solicitation_for_the_gateway_is_answered() {
    let mut node = node();
    let [_, gateway] = both(1, 1);
    let link_local: IpAddr = "fe80::1234".parse().expect("a literal");
    // From its own address, that on the other network, and link-local, as the
    // kernel's probes.
    for src in [both(1, 2)[1], both(2, 2)[1], link_local] {
        let out = node.from_workload("c1", &solicitation(135, src, gateway).bytes());
        forwarded(&out, "from_workload", "answered");
        let (IpAddr::V6(to), IpAddr::V6(from)) = (src, gateway) else { panic!("IPv6 only") };
        assert_eq!(out.frame.len(), 14 + 40 + 32);
        assert_eq!(out.frame[..12], [mac("c1"), GATEWAY].concat());
        assert_eq!(out.frame[21], 255, "hop limit");
        assert_eq!(out.frame[22..54], [from.octets(), to.octets()].concat());
        assert_eq!((out.frame[54], out.frame[58]), (136, 0xe0), "router, solicited, override");
        assert_eq!(out.frame[62..78], from.octets());
        assert_eq!(out.frame[78..], [[2, 1].as_slice(), &GATEWAY].concat());
        assert!(icmpv6_checksum_is_right(&out.frame));
    }
}

#[test]
fn other_neighbour_discovery_is_dropped() {
    let mut node = node();
    let ([_, own], [_, gateway], [_, other]) = (both(1, 2), both(1, 1), both(1, 3));
    let nobody: IpAddr = "::".parse().expect("a literal");
    let cases = [
        (solicitation(135, own, other), "neighbour"),
        (solicitation(135, nobody, own), "neighbour"),
        (solicitation(135, nobody, gateway), "neighbour"),
        (solicitation(133, own, gateway), "neighbour"),
        (solicitation(134, own, gateway), "neighbour"),
        (solicitation(136, own, gateway), "neighbour"),
        (solicitation(137, own, gateway), "neighbour"),
        (solicitation(135, other, gateway), "spoofed_source"),
        (solicitation(135, own, gateway).ttl(254), "malformed"),
    ];
    for (frame, reason) in cases {
        dropped(&node.from_workload("c1", &frame.bytes()), "from_workload", reason);
    }
}
