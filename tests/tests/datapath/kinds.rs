//! Kinds of packets that need a rule of their own.

use std::net::IpAddr;

use margay_common::verdict::Program;
use margay_tests::{
    bpf::{Context, both, mac, node},
    frame::{Frame, GATEWAY},
};

use crate::{dropped, forwarded};

fn local(family: usize) -> Frame {
    Frame::udp(mac("c1"), both(1, 2)[family], both(1, 3)[family])
}

fn remote(family: usize) -> Frame {
    Frame::udp(mac("c1"), both(1, 2)[family], both(1, 70)[family])
}

#[test]
fn vlan_tags_are_dropped() {
    let mut node = node();
    for tag in [[0x81, 0x00], [0x88, 0xa8]] {
        let mut frame = local(0).bytes();
        frame.splice(12..12, [tag[0], tag[1], 0, 5]);
        dropped(&node.from_workload("c1", &frame), "from_workload", "vlan");
    }
}

#[test]
fn frames_of_other_ether_types_are_dropped() {
    let mut node = node();
    // MPLS, LLDP, 802.3.
    for kind in [[0x88, 0x47], [0x88, 0xcc], [0x00, 0x40]] {
        let mut frame = local(0).bytes();
        frame[12..14].copy_from_slice(&kind);
        dropped(&node.from_workload("c1", &frame), "from_workload", "ether_type");
    }
}

#[test]
fn frames_for_other_hosts_are_dropped() {
    let mut node = node();
    for family in 0..2 {
        for other in [mac("c2"), [0xff; 6], [1, 0, 0x5e, 0, 0, 1]] {
            let frame = local(family).to_mac(other);
            dropped(&node.from_workload("c1", &frame.bytes()), "from_workload", "other_host");
        }
    }
}

#[test]
fn broadcast_and_multicast_are_dropped_with_their_own_reasons() {
    let mut node = node();
    let cases = [
        ("255.255.255.255", 0, "broadcast"),
        ("10.1.255.255", 0, "broadcast"),
        ("224.0.0.251", 0, "multicast"),
        ("239.1.2.3", 0, "multicast"),
        ("ff02::2", 1, "multicast"),
        ("ff0e::1", 1, "multicast"),
    ];
    for (dst, family, reason) in cases {
        let frame = Frame::udp(mac("c1"), both(1, 2)[family], dst.parse().expect("a literal"));
        dropped(&node.from_workload("c1", &frame.bytes()), "from_workload", reason);
        // With a group MAC, as on a link. Addresses in the sender's own subnet are not checked.
        let reason = if dst == "10.1.255.255" { "other_host" } else { reason };
        for group in [[0xff; 6], [1, 0, 0x5e, 0, 0, 1], [0x33, 0x33, 0, 0, 0, 2]] {
            let frame = frame.clone().to_mac(group);
            dropped(&node.from_workload("c1", &frame.bytes()), "from_workload", reason);
        }
    }
}

#[test]
fn bad_destinations_are_dropped() {
    let mut node = node();
    for (dst, family) in [
        ("0.0.0.0", 0),
        ("0.1.2.3", 0),
        ("127.0.0.1", 0),
        ("240.0.0.1", 0),
        ("::", 1),
        ("::1", 1),
        ("fe80::1", 1),
        ("::10.1.0.3", 1),
    ] {
        let dst: IpAddr = dst.parse().expect("a literal");
        let frame = Frame::udp(mac("c1"), both(1, 2)[family], dst);
        dropped(&node.from_workload("c1", &frame.bytes()), "from_workload", "bad_destination");
    }
}

#[test]
fn fragments_are_forwarded() {
    let mut node = node();
    for fragment in [(0, true), (100, true), (200, false)] {
        for (frame, verdict) in [(local(0), "local"), (remote(0), "remote")] {
            let frame = Frame { fragment: Some(fragment), ..frame };
            forwarded(&node.from_workload("c1", &frame.bytes()), "from_workload", verdict);
        }
    }
    for offset in [0x0001_u16, 0x0648, 0x0c81] {
        let [high, low] = offset.to_be_bytes();
        let header = [17, 0, high, low, 0, 0, 0, 9];
        for (frame, verdict) in [(local(1), "local"), (remote(1), "remote")] {
            let payload = [&header[..], &frame.payload].concat();
            let frame = frame.carrying(44, &payload);
            forwarded(&node.from_workload("c1", &frame.bytes()), "from_workload", verdict);
        }
    }
}

#[test]
fn harmless_options_are_forwarded_and_source_routes_are_not() {
    let mut node = node();
    let harmless: [&[u8]; 4] = [
        &[148, 4, 0, 0],
        &[7, 7, 4, 0, 0, 0, 0, 0],
        &[1, 1, 1, 0],
        // Ends before what would be a source route.
        &[0, 131, 3, 4],
    ];
    for options in harmless {
        for (frame, verdict) in [(local(0), "local"), (remote(0), "remote")] {
            let frame = Frame { options: options.to_vec(), ..frame };
            forwarded(&node.from_workload("c1", &frame.bytes()), "from_workload", verdict);
        }
    }
    let routes: [&[u8]; 4] = [
        &[131, 7, 4, 10, 2, 0, 3, 0],
        &[137, 7, 4, 10, 2, 0, 3, 0],
        &[1, 131, 7, 4, 10, 2, 0, 3],
        &[7, 7, 4, 131, 0, 0, 0, 137, 7, 4, 10, 2, 0, 3, 0, 0],
    ];
    for options in routes {
        let frame = Frame { options: options.to_vec(), ..local(0) };
        dropped(&node.from_workload("c1", &frame.bytes()), "from_workload", "source_route");
    }
    let frame = Frame { options: vec![148, 0, 0, 0], ..local(0) };
    dropped(&node.from_workload("c1", &frame.bytes()), "from_workload", "malformed");
}

#[test]
fn harmless_extensions_are_forwarded_and_routing_header_0_is_not() {
    let mut node = node();
    let hop_by_hop = [17, 0, 5, 2, 0, 0, 1, 0];
    let destination = [17, 0, 1, 4, 0, 0, 0, 0];
    let mobile = [17, 0, 2, 0, 0, 0, 0, 0];
    for (proto, header) in [(0, hop_by_hop), (60, destination), (43, mobile)] {
        for (frame, verdict) in [(local(1), "local"), (remote(1), "remote")] {
            let payload = [&header[..], &frame.payload].concat();
            let frame = frame.carrying(proto, &payload);
            forwarded(&node.from_workload("c1", &frame.bytes()), "from_workload", verdict);
        }
    }
    // Directly, and behind another header.
    let route = [17, 2, 0, 1, 0, 0, 0, 0];
    let address = [0xfd; 16];
    let direct = [&route[..], &address, &local(1).payload].concat();
    let behind = [&[43, 0, 1, 4, 0, 0, 0, 0][..], &direct].concat();
    for (proto, payload) in [(43, direct), (60, behind)] {
        let frame = local(1).carrying(proto, &payload);
        dropped(&node.from_workload("c1", &frame.bytes()), "from_workload", "source_route");
    }
    // A chain that does not end.
    let chain = [60, 0, 1, 4, 0, 0, 0, 0].repeat(20);
    let frame = local(1).carrying(60, &chain);
    dropped(&node.from_workload("c1", &frame.bytes()), "from_workload", "malformed");
}

#[test]
fn truncated_and_contradictory_packets_are_dropped() {
    let mut node = node();
    let v4 = local(0).bytes();
    let v6 = local(1).bytes();
    let mut short_header = v4.clone();
    short_header[14] = 0x44;
    let mut long_header = v4.clone();
    long_header[14] = 0x4f;
    let mut wrong_version = v4.clone();
    wrong_version[14] = 0x65;
    let mut wrong_version_6 = v6.clone();
    wrong_version_6[14] = 0x40;
    let cut = v4.len() - 1;
    let mut header_only = v4[..34].to_vec();
    header_only[16..18].copy_from_slice(&[0, 10]);
    let frames = [
        v4[..cut].to_vec(),
        v6[..v6.len() - 1].to_vec(),
        short_header,
        long_header,
        wrong_version,
        wrong_version_6,
        header_only,
    ];
    for frame in frames {
        dropped(&node.from_workload("c1", &frame), "from_workload", "malformed");
    }
}

#[test]
fn ipv4_mapped_addresses_are_malformed() {
    let mut node = node();
    let mapped = |addr: &str| addr.parse::<IpAddr>().expect("a literal");
    // The source is the container's own IPv4 address, mapped to IPv6: in the maps both have the
    // same key.
    for dst in [both(1, 3)[1], both(2, 3)[1], both(1, 70)[1]] {
        let frame = Frame::udp(mac("c1"), mapped("::ffff:10.1.0.2"), dst);
        dropped(&node.from_workload("c1", &frame.bytes()), "from_workload", "malformed");
    }
    let frame = Frame::udp(mac("c1"), both(1, 2)[1], mapped("::ffff:10.1.0.3"));
    dropped(&node.from_workload("c1", &frame.bytes()), "from_workload", "malformed");
    let frame = Frame::udp([2; 6], mapped("::ffff:10.1.0.70"), mapped("::ffff:10.1.0.2"));
    dropped(&node.from_network(&frame.bytes()), "from_network", "malformed");
}

#[test]
fn length_0_is_valid_in_super_packets_only() {
    let mut node = node();
    let ifindex = node.ifindex("c1");
    let mut frame = local(0).carrying(6, &[0x50; 60]).bytes();
    frame[16..18].copy_from_slice(&[0, 0]);
    dropped(&node.from_workload("c1", &frame), "from_workload", "malformed");
    let context = Context { ifindex, gso_size: 20, ..Context::default() };
    let out = node.run(Program::FromWorkload, &frame, context);
    forwarded(&out, "from_workload", "local");
    assert_eq!(out.frame[6..12], GATEWAY);
}
