//! ICMP and ICMPv6 errors: who gets which, and what they quote.

use std::net::IpAddr;

use margay_common::verdict::Program;
use margay_tests::{
    bpf::{Context, Node, both, mac, node},
    frame::{Frame, GATEWAY, icmpv6_checksum_is_right, sum},
};

use crate::{dropped, explained};

/// Checks that a frame is the error with that type, code and MTU about a
/// packet, from `gateway` back to its sender.
#[track_caller]
fn is_error(frame: &[u8], about: &Frame, gateway: IpAddr, kind: (u8, u8), mtu: u32) {
    let original = &about.bytes()[14..];
    let quote = &original[..original.len().min(128)];
    assert_eq!(frame[..6], about.eth_src, "back to where it came from");
    assert_eq!(frame[6..12], about.eth_dst);
    let (l4, len) = match (gateway, about.src) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            assert_eq!(frame[12..16], [8, 0, 0x45, 0xc0]);
            assert_eq!(sum(&frame[14..34]), 0xffff, "header checksum");
            assert_eq!(frame[26..34], [from.octets(), to.octets()].concat());
            assert_eq!(sum(&frame[34..]), 0xffff, "ICMP checksum");
            (34, usize::from(u16::from_be_bytes([frame[16], frame[17]])) + 14)
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            assert_eq!(frame[12..15], [0x86, 0xdd, 0x60]);
            assert_eq!(frame[22..54], [from.octets(), to.octets()].concat());
            assert!(icmpv6_checksum_is_right(frame), "ICMPv6 checksum");
            (54, usize::from(u16::from_be_bytes([frame[18], frame[19]])) + 54)
        }
        _ => panic!("two families"),
    };
    assert_eq!(len, frame.len(), "the header says how long it is");
    assert_eq!((frame[l4], frame[l4 + 1]), kind);
    assert_eq!(frame[l4 + 4..l4 + 8], mtu.to_be_bytes());
    assert_eq!(&frame[l4 + 8..], quote, "the packet as it came");
}

#[test]
fn packet_with_an_expired_ttl_gets_time_exceeded() {
    let mut node = node();
    for (family, kind) in [(11, 0), (3, 0)].into_iter().enumerate() {
        for ttl in [0, 1] {
            let frame = Frame::udp(mac("c1"), both(1, 2)[family], both(1, 70)[family]).ttl(ttl);
            let out = node.from_workload("c1", &frame.bytes());
            explained(&out, "from_workload", "ttl_exceeded");
            is_error(&out.frame, &frame, both(1, 1)[family], kind, 0);
        }
    }
}

#[test]
fn undeliverable_packet_gets_the_icmp_error_of_its_reason() {
    let mut node = node();
    let cases = [
        // An unused address, one of a node that is not on-link, one of another network.
        (1, 200, "no_endpoint", [(3, 1), (1, 3)]),
        (1, 130, "node_unreachable", [(3, 1), (1, 0)]),
        (2, 3, "isolated", [(3, 13), (1, 1)]),
        (1, 1, "gateway_port", [(3, 3), (1, 4)]),
    ];
    for (network, host, reason, kinds) in cases {
        for (family, kind) in kinds.into_iter().enumerate() {
            let frame = Frame::udp(mac("c2"), both(1, 3)[family], both(network, host)[family]);
            let out = node.from_workload("c2", &frame.bytes());
            explained(&out, "from_workload", reason);
            is_error(&out.frame, &frame, both(1, 1)[family], kind, 0);
        }
    }
}

#[test]
fn a_node_that_is_not_on_link_is_unreachable() {
    let mut node = node();
    for (family, dst) in ["198.51.100.3", "2001:db8:3::3"].into_iter().enumerate() {
        let frame = Frame::udp(mac("c1"), both(1, 2)[family], dst.parse().expect("a literal"));
        explained(&node.from_workload("c1", &frame.bytes()), "from_workload", "node_unreachable");
    }
}

#[test]
fn icmp_errors_quote_at_most_128_bytes() {
    let mut node = node();
    for (family, kind) in [(3, 1), (1, 3)].into_iter().enumerate() {
        for len in [0, 40, 72, 100, 101, 1300] {
            let frame = Frame::udp_of(mac("c1"), both(1, 2)[family], both(1, 200)[family], len);
            let out = node.from_workload("c1", &frame.bytes());
            explained(&out, "from_workload", "no_endpoint");
            is_error(&out.frame, &frame, both(1, 1)[family], kind, 0);
        }
    }
}

#[test]
fn no_icmp_error_about_icmp_errors() {
    let mut node = node();
    let errors: [&[u8]; 2] = [&[3, 4, 5, 11, 12], &[1, 2, 3, 4, 100, 127]];
    for (family, kinds) in errors.into_iter().enumerate() {
        let proto = if family == 0 { 1 } else { 58 };
        for kind in kinds {
            let frame = Frame::udp(mac("c1"), both(1, 2)[family], both(1, 200)[family]);
            let frame = frame.carrying(proto, &[*kind, 0, 0, 0, 0, 0, 0, 0]);
            dropped(&node.from_workload("c1", &frame.bytes()), "from_workload", "no_endpoint");
        }
        // An echo request does get an error.
        let echo = Frame::echo(mac("c1"), both(1, 2)[family], both(1, 200)[family]);
        explained(&node.from_workload("c1", &echo.bytes()), "from_workload", "no_endpoint");
    }
}

#[test]
fn no_icmp_error_about_later_fragments() {
    let mut node = node();
    let to_nobody = |family: usize| Frame::udp(mac("c1"), both(1, 2)[family], both(1, 200)[family]);
    let first = Frame { fragment: Some((0, true)), ..to_nobody(0) };
    explained(&node.from_workload("c1", &first.bytes()), "from_workload", "no_endpoint");
    let later = Frame { fragment: Some((10, false)), ..to_nobody(0) };
    dropped(&node.from_workload("c1", &later.bytes()), "from_workload", "no_endpoint");
    for (offset, first) in [(1_u16, true), (0x0648, false)] {
        let [high, low] = offset.to_be_bytes();
        let payload = [&[17, 0, high, low, 0, 0, 0, 9][..], &to_nobody(1).payload].concat();
        let out = node.from_workload("c1", &to_nobody(1).carrying(44, &payload).bytes());
        if first {
            explained(&out, "from_workload", "no_endpoint");
        } else {
            dropped(&out, "from_workload", "no_endpoint");
        }
    }
}

#[test]
fn icmp_errors_are_rate_limited() {
    let mut node = node();
    let (own, program) = (node.ifindex("c1"), Program::FromWorkload);
    let frame = Frame::udp(mac("c1"), both(1, 2)[0], both(1, 200)[0]).bytes();
    let counts = |node: &Node| ["icmp_sent", "icmp_limited"].map(|reason| node.count(program, reason));
    let before = counts(&node);
    // The budget is 100 per second, so 3000 packets exceed it unless they take half a minute.
    // The counters are read only at the end, since that takes hundreds of system calls.
    for _ in 0..3000 {
        node.nanoseconds(program, &frame, own, 1);
    }
    let after = counts(&node);
    let (sent, limited) = (after[0] - before[0], after[1] - before[1]);
    assert_eq!(sent + limited, 3000);
    assert!(sent >= 100 && limited > 0, "{sent} sent, {limited} withheld");
    // Another endpoint has a budget of its own.
    let other = Frame::udp(mac("c2"), both(1, 3)[0], both(1, 200)[0]).bytes();
    explained(&node.from_workload("c2", &other), "from_workload", "no_endpoint");
}

/// Passes frames through `from_network` without reading results, and so as fast as possible.
fn flood(node: &Node, frames: impl Iterator<Item = Vec<u8>>) {
    let uplink = node.ifindex("up0");
    for frame in frames {
        node.nanoseconds(Program::FromNetwork, &frame, uplink, 1);
    }
}

const REMOTE: [u8; 6] = [2, 9, 9, 9, 9, 9];

#[test]
fn the_icmp_budget_is_per_sender() {
    let mut node = node();
    for family in 0..2 {
        let to_nobody = |host| Frame::udp(REMOTE, both(1, host)[family], both(1, 20)[family]).bytes();
        let limited = node.count(Program::FromNetwork, "icmp_limited");
        flood(&node, (0..3000).map(|_| to_nobody(70)));
        assert!(node.count(Program::FromNetwork, "icmp_limited") > limited, "one has spent its own");
        explained(&node.from_network(&to_nobody(71)), "from_network", "no_endpoint");
    }
}

/// Outsiders can forge any source, so they share one budget.
#[test]
fn outsiders_share_one_icmp_budget() {
    let node = node();
    let outsider = |n: u32| IpAddr::from((0xcb00_7100 + n).to_be_bytes());
    let frames = (0..3000).map(|n| Frame::udp(REMOTE, outsider(n % 50), both(4, 200)[0]).bytes());
    let counts = || ["icmp_sent", "icmp_limited"].map(|reason| node.count(Program::FromNetwork, reason));
    let before = counts();
    flood(&node, frames);
    let after = counts();
    let (sent, limited) = (after[0] - before[0], after[1] - before[1]);
    assert_eq!(sent + limited, 3000);
    assert!(sent >= 100 && limited > 0, "{sent} sent, {limited} withheld");
    // The budgets of the cluster's own senders are untouched.
    let mut node = node;
    let own = Frame::udp(REMOTE, both(1, 70)[0], both(1, 20)[0]).bytes();
    explained(&node.from_network(&own), "from_network", "no_endpoint");
}

#[test]
fn too_big_errors_are_not_limited() {
    let mut node = node();
    for family in 0..2 {
        // The sender has already spent its budget on other errors.
        flood(&node, (0..300).map(|_| Frame::udp(REMOTE, both(1, 70)[family], both(1, 20)[family]).bytes()));
        let big = Frame::udp_of(REMOTE, both(1, 70)[family], both(1, 4)[family], 1350);
        for _ in 0..300 {
            explained(&node.from_network(&big.bytes()), "from_network", "too_big");
        }
    }
}

/// The kernel merges packets on their way in; the error is a plain one about the first bytes.
#[test]
fn gro_packets_from_the_wire_get_errors() {
    let mut node = node();
    let uplink = node.ifindex("up0");
    for (family, kind) in [(3, 4), (2, 0)].into_iter().enumerate() {
        let mut tcp = vec![0; 20 + 3000];
        tcp[12] = 0x50;
        let frame = Frame::udp(REMOTE, both(1, 70)[family], both(1, 4)[family]).carrying(6, &tcp);
        let context = Context { ifindex: uplink, gso_size: 1350, ..Context::default() };
        let out = node.run(Program::FromNetwork, &frame.bytes(), context);
        explained(&out, "from_network", "too_big");
        is_error(&out.frame, &frame, both(1, 1)[family], kind, 1300);
    }
}

#[test]
fn packet_from_the_wire_to_an_unused_address_gets_an_error() {
    let mut node = node();
    let remote = [2, 9, 9, 9, 9, 9];
    for (family, kind) in [(3, 1), (1, 3)].into_iter().enumerate() {
        let frame = Frame::udp(remote, both(1, 70)[family], both(1, 20)[family]);
        let out = node.from_network(&frame.bytes());
        explained(&out, "from_network", "no_endpoint");
        is_error(&out.frame, &frame, both(1, 1)[family], kind, 0);
    }
}

#[test]
fn packet_from_the_host_to_an_unused_address_gets_an_error() {
    let mut node = node();
    for (family, (kind, src)) in [((3, 1), "192.0.2.1"), ((1, 3), "2001:db8::1")].into_iter().enumerate() {
        let frame = Frame::udp(GATEWAY, src.parse().expect("a literal"), both(1, 200)[family]);
        let out = node.from_host(&frame.bytes());
        explained(&out, "from_host", "no_endpoint");
        is_error(&out.frame, &frame, both(1, 1)[family], kind, 0);
    }
}
