//! Packets that the host sends by `margay0`.

use std::net::IpAddr;

use margay_common::{net::REPLY_MARK, verdict::Program};
use margay_tests::{
    bpf::{Context, both, mac, node},
    frame::{Frame, GATEWAY},
};

use crate::{dropped, explained, forwarded};

fn from_this_node(family: usize, network: u8, host: u8) -> Frame {
    let src: IpAddr = ["192.0.2.1", "2001:db8::1"][family].parse().expect("a literal");
    Frame::udp(GATEWAY, src, both(network, host)[family])
}

#[test]
fn host_packet_to_a_local_endpoint_is_delivered() {
    let mut node = node();
    for family in 0..2 {
        let frame = from_this_node(family, 1, 2).bytes();
        let out = node.from_host(&frame);
        forwarded(&out, "from_host", "local");
        assert_eq!(out.frame[..12], [mac("c1"), GATEWAY].concat());
        assert_eq!(out.frame[12..], frame[12..]);
    }
}

#[test]
fn host_packet_to_a_remote_endpoint_keeps_its_ttl() {
    let mut node = node();
    for family in 0..2 {
        for ttl in [1, 64] {
            let frame = from_this_node(family, 1, 70).ttl(ttl).bytes();
            let out = node.from_host(&frame);
            forwarded(&out, "from_host", "remote");
            assert_eq!(out.frame, frame, "this node made it, so it is no hop");
        }
    }
}

#[test]
fn host_packet_to_an_unreachable_address_gets_an_error() {
    let mut node = node();
    for family in 0..2 {
        explained(&node.from_host(&from_this_node(family, 1, 200).bytes()), "from_host", "no_endpoint");
        explained(&node.from_host(&from_this_node(family, 1, 130).bytes()), "from_host", "node_unreachable");
    }
}

#[test]
fn foreign_packets_on_margay0_are_dropped() {
    let mut node = node();
    let elsewhere = Frame { dst: "203.0.113.9".parse().expect("a literal"), ..from_this_node(0, 1, 2) };
    dropped(&node.from_host(&elsewhere.bytes()), "from_host", "bad_destination");
    let group = Frame { dst: "ff02::16".parse().expect("a literal"), ..from_this_node(1, 1, 2) };
    dropped(&node.from_host(&group.bytes()), "from_host", "multicast");
    let mut other = from_this_node(0, 1, 2).bytes();
    other[12..14].copy_from_slice(&[0x88, 0xcc]);
    dropped(&node.from_host(&other), "from_host", "ether_type");
}

#[test]
fn packet_forwarded_by_the_host_reaches_routable_networks_only() {
    let mut node = node();
    for family in 0..2 {
        for host in [2, 70] {
            let out = node.from_host_forwarded(&from_this_node(family, 1, host).bytes());
            dropped(&out, "from_host", "outside");
        }
        let frame = from_this_node(family, 4, 70).bytes();
        let out = node.from_host_forwarded(&frame);
        forwarded(&out, "from_host", "remote");
        assert_eq!(out.frame, frame, "the stack has counted the hop already");
    }
}

#[test]
fn forwarded_packet_passes_with_the_reply_mark_only() {
    let mut node = node();
    let (margay0, uplink) = (node.ifindex("margay0"), node.ifindex("up0"));
    for family in 0..2 {
        let world: IpAddr = ["203.0.113.1", "2001:db8:ffff::1"][family].parse().expect("a literal");
        let frame = Frame::udp(GATEWAY, world, both(1, 2)[family]).bytes();
        let context =
            |mark| Context { ifindex: margay0, ingress_ifindex: uplink, mark, ..Context::default() };
        dropped(&node.run(Program::FromHost, &frame, context(0)), "from_host", "outside");
        // Other bits of the mark do not matter.
        let answer = node.run(Program::FromHost, &frame, context(REPLY_MARK | 0x1234));
        forwarded(&answer, "from_host", "local");
        dropped(
            &node.run(Program::FromHost, &frame, context(REPLY_MARK ^ 0x0100_0000)),
            "from_host",
            "outside",
        );
    }
}
