//! A container can send from its own MAC and addresses only.

use std::net::{IpAddr, Ipv6Addr};

use margay_common::endpoint::{EndpointEntry, Side, Workload};
use margay_tests::{
    bpf::{both, mac, node},
    frame::Frame,
};

use crate::{dropped, forwarded};

#[test]
fn packet_with_a_foreign_mac_is_dropped() {
    let mut node = node();
    for (src, dst) in both(1, 2).into_iter().zip(both(1, 3)) {
        for other in [mac("c2"), [0xee; 6], [0; 6], [0xff; 6]] {
            let out = node.from_workload("c1", &Frame::udp(other, src, dst).bytes());
            dropped(&out, "from_workload", "spoofed_mac");
        }
    }
}

#[test]
fn packet_with_a_foreign_source_address_is_dropped() {
    let mut node = node();
    let others = [
        // A container on this node, one on another, the gateway, a node, the world, no host at all.
        ["10.1.0.3", "10.1.0.70", "10.1.0.1", "192.0.2.2", "203.0.113.9", "0.0.0.0", "127.0.0.1"],
        ["fd00:1::3", "fd00:1::46", "fd00:1::1", "2001:db8::2", "2001:db8:9::9", "::", "::1"],
    ];
    for (family, others) in others.into_iter().enumerate() {
        for dst in [both(1, 3)[family], both(1, 70)[family], both(1, 1)[family]] {
            for src in others {
                let frame = Frame::udp(mac("c1"), both(1, 2)[family], dst);
                let frame = frame.from(src.parse::<IpAddr>().expect("a literal"));
                dropped(&node.from_workload("c1", &frame.bytes()), "from_workload", "spoofed_source");
            }
        }
    }
}

#[test]
fn a_container_on_two_networks_may_answer_through_either() {
    let mut node = node();
    for family in 0..2 {
        // From its red address through its blue interface to a red endpoint:
        // the packet counts as the red one's.
        let frame = Frame::udp(mac("c1"), both(2, 2)[family], both(2, 3)[family]);
        forwarded(&node.from_workload("c1", &frame.bytes()), "from_workload", "local");
        let frame = Frame::udp(mac("c1"), both(2, 2)[family], both(2, 70)[family]);
        forwarded(&node.from_workload("c1", &frame.bytes()), "from_workload", "remote");
    }
}

#[test]
fn unknown_sandbox_sends_from_its_own_address_only() {
    let mut node = node();
    let own = node.ifindex("c2");
    let (workload, other) = (node.maps().workloads.read().expect("the map")[&own], both(1, 2)[0].into());
    let endpoint = node.maps().endpoints.get(other).expect("the map").expect("c1's");
    node.maps().workloads.put(own, Workload { sandbox: 0, ..workload }).expect("the map");
    node.maps().endpoints.put(other, EndpointEntry { sandbox: 0, ..endpoint }).expect("the map");
    let frame = Frame::udp(mac("c2"), both(1, 3)[0], both(1, 70)[0]);
    let itself = node.from_workload("c2", &frame.bytes());
    let as_another = node.from_workload("c2", &frame.from(both(1, 2)[0]).bytes());
    node.maps().workloads.put(own, workload).expect("the map");
    node.maps().endpoints.put(other, endpoint).expect("the map");
    forwarded(&itself, "from_workload", "remote");
    dropped(&as_another, "from_workload", "spoofed_source");
}

#[test]
fn unspecified_source_is_dropped_if_the_network_lacks_the_family() {
    let mut node = node();
    let own = node.ifindex("c2");
    let workload = node.maps().workloads.read().expect("the map")[&own];
    node.maps().workloads.put(own, Workload { v6: Side::default(), ..workload }).expect("the map");
    let nobody = Ipv6Addr::UNSPECIFIED.into();
    let out = node.from_workload("c2", &Frame::udp(mac("c2"), nobody, both(1, 70)[1]).bytes());
    node.maps().workloads.put(own, workload).expect("the map");
    dropped(&out, "from_workload", "spoofed_source");
}

#[test]
fn source_of_a_removed_interface_is_dropped() {
    let mut node = node();
    let other = node.ifindex("c1red");
    let workload = node.maps().workloads.read().expect("the map")[&other];
    let without = Workload { v4: Side::default(), v6: Side::default(), ..workload };
    node.maps().workloads.put(other, without).expect("the map");
    let outs = [0, 1].map(|family| {
        let frame = Frame::udp(mac("c1"), both(2, 2)[family], both(2, 3)[family]);
        node.from_workload("c1", &frame.bytes())
    });
    node.maps().workloads.put(other, workload).expect("the map");
    outs.iter().for_each(|out| dropped(out, "from_workload", "spoofed_source"));
}

#[test]
fn packet_from_an_unknown_interface_is_dropped() {
    let mut node = node();
    let ifindex = node.ifindex("up0");
    for (src, dst) in both(1, 2).into_iter().zip(both(1, 3)) {
        let frame = Frame::udp(mac("c1"), src, dst).bytes();
        let context = margay_tests::bpf::Context { ifindex, ..Default::default() };
        let out = node.run(margay_common::verdict::Program::FromWorkload, &frame, context);
        dropped(&out, "from_workload", "unknown_interface");
    }
}
