//! Where valid packets of a container go.

use std::net::IpAddr;

use margay_common::endpoint::{NETKIT, Workload};
use margay_tests::{
    bpf::{Outcome, both, mac, node},
    frame::{Frame, GATEWAY, sum},
};

use crate::{dropped, explained, forwarded};

/// The bytes of a frame with its TTL decremented and the checksum right.
fn one_hop_later(frame: &Frame) -> Vec<u8> {
    frame.clone().ttl(frame.ttl - 1).bytes()
}

#[test]
fn packet_to_a_local_endpoint_is_delivered() {
    let mut node = node();
    for (src, dst) in both(1, 2).into_iter().zip(both(1, 3)) {
        let frame = Frame::udp(mac("c1"), src, dst).bytes();
        let out = node.from_workload("c1", &frame);
        forwarded(&out, "from_workload", "local");
        assert_eq!(out.frame[..6], mac("c2"), "addressed to the container");
        assert_eq!(out.frame[6..12], GATEWAY, "from the gateway");
        assert_eq!(out.frame[12..], frame[12..], "nothing else is touched, the TTL neither");
    }
}

/// Packets of a netkit to a container here leave by the host side of its interface. Verdict,
/// bytes and counters are the same as for a veth.
#[test]
fn netkit_sender_gets_the_verdicts_of_a_veth_sender() {
    let mut node = node();
    let own = node.ifindex("c1");
    let workload = node.maps().workloads.read().expect("the map")[&own];
    for family in 0..2 {
        let frame = |host| Frame::udp(mac("c1"), both(1, 2)[family], both(1, host)[family]).bytes();
        for host in [3, 70, 210, 1] {
            let by_veth = node.from_workload("c1", &frame(host));
            let netkit = Workload { flags: workload.flags | NETKIT, ..workload };
            node.maps().workloads.put(own, netkit).expect("it is there");
            assert_eq!(node.maps().workloads.read().expect("the map")[&own], netkit);
            let by_netkit = node.from_workload("c1", &frame(host));
            node.maps().workloads.put(own, workload).expect("it is there");
            let sent = by_veth.sent.replace("behind ", "out of ");
            assert_eq!(by_netkit, Outcome { sent, ..by_veth }, "to {host}");
        }
    }
}

#[test]
fn packet_to_a_local_endpoint_of_another_block_is_delivered() {
    let mut node = node();
    // This node's own second block, and an address borrowed from h2's block.
    for (from, network, host, to) in [("c1", 1, 210, "c3"), ("o1", 4, 100, "o2")] {
        for (src, dst) in both(network, 2).into_iter().zip(both(network, host)) {
            let out = node.from_workload(from, &Frame::udp(mac(from), src, dst).bytes());
            forwarded(&out, "from_workload", "local");
            assert_eq!(out.frame[..6], mac(to), "addressed to the container");
        }
    }
}

#[test]
fn packet_to_a_block_of_another_node_is_sent_to_that_node() {
    let mut node = node();
    for (src, dst) in both(1, 2).into_iter().zip(both(1, 70)) {
        for ttl in [2, 64, 255] {
            let frame = Frame::udp(mac("c1"), src, dst).ttl(ttl);
            let out = node.from_workload("c1", &frame.bytes());
            forwarded(&out, "from_workload", "remote");
            assert_eq!(out.frame, one_hop_later(&frame), "one hop, and a right checksum");
        }
    }
}

#[test]
fn packet_to_a_borrowed_address_is_sent_to_its_borrower() {
    let mut node = node();
    for (src, dst) in both(4, 2).into_iter().zip(both(4, 130)) {
        let out = node.from_workload("o1", &Frame::udp(mac("o1"), src, dst).bytes());
        forwarded(&out, "from_workload", "remote");
    }
    for (src, dst) in both(4, 2).into_iter().zip(both(4, 131)) {
        let out = node.from_workload("o1", &Frame::udp(mac("o1"), src, dst).bytes());
        explained(&out, "from_workload", "no_endpoint");
    }
}

#[test]
fn packet_to_a_node_reaches_this_host_or_the_other_node() {
    let mut node = node();
    let nodes = [["192.0.2.1", "2001:db8::1"], ["192.0.2.2", "2001:db8::2"]];
    for (family, src) in both(1, 2).into_iter().enumerate() {
        let [this, other] = nodes.map(|n| n[family].parse::<IpAddr>().expect("a literal"));
        let frame = Frame::udp(mac("c1"), src, this);
        let out = node.from_workload("c1", &frame.bytes());
        forwarded(&out, "from_workload", "host");
        assert_eq!(out.frame[..6], GATEWAY, "margay0 has that MAC");
        assert_eq!(out.frame[14..], frame.bytes()[14..], "not routed, so not a hop");
        let frame = Frame::udp(mac("c1"), src, other);
        let out = node.from_workload("c1", &frame.bytes());
        forwarded(&out, "from_workload", "remote");
        assert_eq!(out.frame, one_hop_later(&frame));
    }
}

#[test]
fn packet_to_the_world_leaves_unless_the_network_is_internal() {
    let mut node = node();
    let world = ["203.0.113.9", "2001:db8:9::9"].map(|a| a.parse::<IpAddr>().expect("a literal"));
    for (family, world) in world.into_iter().enumerate() {
        let to = |name: &str, network| Frame::udp(mac(name), both(network, 2)[family], world);
        let out = node.from_workload("c1", &to("c1", 1).bytes());
        forwarded(&out, "from_workload", "host");
        let out = node.from_workload("i1", &to("i1", 3).bytes());
        explained(&out, "from_workload", "internal");
        let open = to("o1", 4);
        let out = node.from_workload("o1", &open.bytes());
        forwarded(&out, "from_workload", "world");
        assert_eq!(out.frame, one_hop_later(&open));
    }
}

#[test]
fn an_internal_network_reaches_the_nodes() {
    let mut node = node();
    for (family, nodes) in
        [["192.0.2.1", "192.0.2.2"], ["2001:db8::1", "2001:db8::2"]].into_iter().enumerate()
    {
        for (dst, verdict) in nodes.into_iter().zip(["host", "remote"]) {
            let frame = Frame::udp(mac("i1"), both(3, 2)[family], dst.parse().expect("a literal"));
            forwarded(&node.from_workload("i1", &frame.bytes()), "from_workload", verdict);
        }
    }
}

#[test]
fn echo_request_to_the_gateway_is_answered() {
    let mut node = node();
    for (src, gateway) in both(1, 2).into_iter().zip(both(1, 1)) {
        let out = node.from_workload("c1", &Frame::echo(mac("c1"), src, gateway).bytes());
        forwarded(&out, "from_workload", "answered");
        let mut reply = Frame::echo(GATEWAY, gateway, src).to_mac(mac("c1"));
        let l4 = if src.is_ipv4() { 34 } else { 54 };
        reply.payload[0] = if src.is_ipv4() { 0 } else { 129 };
        assert_eq!(out.frame[..l4], reply.bytes()[..l4], "addresses and MACs are turned");
        assert_eq!(out.frame[l4..][..2], reply.payload[..2], "the type is reply");
        assert_eq!(out.frame[l4 + 4..], reply.payload[4..], "the payload is the same");
        if src.is_ipv4() {
            assert_eq!(sum(&out.frame[l4..]), 0xffff);
        } else {
            assert!(margay_tests::frame::icmpv6_checksum_is_right(&out.frame));
        }
    }
}

#[test]
fn echo_request_by_the_second_interface_is_answered_there() {
    let mut node = node();
    for (src, gateway) in both(2, 2).into_iter().zip(both(2, 1)) {
        let out = node.from_workload("c1", &Frame::echo(mac("c1"), src, gateway).bytes());
        forwarded(&out, "from_workload", "answered");
        assert_eq!(out.frame[..6], mac("c1"), "to the interface that asked");
    }
}

#[test]
fn echo_request_in_fragments_or_behind_options_gets_no_reply() {
    let mut node = node();
    let [v4, v6] = [0, 1].map(|family| Frame::echo(mac("c1"), both(1, 2)[family], both(1, 1)[family]));
    let first = Frame { fragment: Some((0, true)), ..v4.clone() };
    let optioned = Frame { options: vec![148, 4, 0, 0], ..v4.clone() };
    // ICMPv6 behind the header of a first fragment, and behind options that say nothing.
    let behind = |kind: u8, header: [u8; 8]| v6.clone().carrying(kind, &[&header[..], &v6.payload].concat());
    let first_v6 = behind(44, [58, 0, 0, 1, 0, 0, 0, 9]);
    let optioned_v6 = behind(60, [58, 0, 1, 4, 0, 0, 0, 0]);
    for frame in [first, optioned, first_v6, optioned_v6] {
        explained(&node.from_workload("c1", &frame.bytes()), "from_workload", "gateway_port");
    }
    let later = Frame { fragment: Some((100, false)), ..v4 };
    dropped(&node.from_workload("c1", &later.bytes()), "from_workload", "gateway_port");
}

#[test]
fn other_packets_to_the_gateway_get_port_unreachable() {
    let mut node = node();
    for (src, gateway) in both(1, 2).into_iter().zip(both(1, 1)) {
        let out = node.from_workload("c1", &Frame::udp(mac("c1"), src, gateway).bytes());
        explained(&out, "from_workload", "gateway_port");
    }
}

#[test]
fn without_margay0_containers_still_reach_each_other() {
    let mut node = node();
    let entry = node.maps().node.read().expect("the map");
    let without = margay_common::route::Node { host_ifindex: 0, ..entry };
    node.maps().node.put(without).expect("the map");
    let send = |node: &mut margay_tests::bpf::Node, dst| {
        node.from_workload("c1", &Frame::udp(mac("c1"), both(1, 2)[0], dst).bytes())
    };
    let world = send(&mut node, "203.0.113.9".parse().expect("a literal"));
    let near = send(&mut node, both(1, 3)[0]);
    let far = send(&mut node, both(1, 70)[0]);
    let back = node.from_network(&Frame::udp([2; 6], both(1, 70)[0], both(1, 2)[0]).bytes());
    node.maps().node.put(Default::default()).expect("the map");
    let nowhere = send(&mut node, both(1, 70)[0]);
    node.maps().node.put(entry).expect("the map");
    dropped(&nowhere, "from_workload", "unconfigured");
    dropped(&world, "from_workload", "unconfigured");
    forwarded(&near, "from_workload", "local");
    forwarded(&far, "from_workload", "remote");
    forwarded(&back, "from_network", "local");
}
