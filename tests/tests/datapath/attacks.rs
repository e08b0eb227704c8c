//! Attacks of a hostile container that no other module covers: detours to forbidden
//! destinations, and frames that no honest stack sends.

use std::net::IpAddr;

use margay_tests::{
    bpf::{DROP, REDIRECT, both, mac, node},
    frame::{Frame, arp},
    sent,
};

use crate::{dropped, explained, forwarded};

/// Packets with wrong bytes.
const ROUNDS: usize = 800;

fn addr(text: &str) -> IpAddr {
    text.parse().expect("a literal")
}

/// From a container of blue.
fn to(dst: IpAddr) -> Frame {
    Frame::udp(mac("c2"), both(1, 3)[usize::from(dst.is_ipv6())], dst)
}

/// The same packet behind every option, extension and fragment header that the programs parse.
fn disguised(frame: &Frame) -> Vec<Frame> {
    let behind = |kind: u8, header: [u8; 8]| {
        let header = [&[frame.proto][..], &header[1..]].concat();
        frame.clone().carrying(kind, &[&header[..], &frame.payload].concat())
    };
    if frame.src.is_ipv4() {
        let options = [vec![148, 4, 0, 0], vec![7, 7, 4, 0, 0, 0, 0, 0], vec![1; 40]];
        let first = Frame { fragment: Some((0, true)), ..frame.clone() };
        let optioned = options.into_iter().map(|options| Frame { options, ..frame.clone() });
        return optioned.chain([first]).collect();
    }
    let headers = [
        (0, [0, 0, 5, 2, 0, 0, 1, 0]),
        (60, [0, 0, 1, 4, 0, 0, 0, 0]),
        // A home address and a segment list, which the destination's node would follow.
        (43, [0, 0, 2, 0, 0, 0, 0, 0]),
        (43, [0, 0, 4, 0, 0, 0, 0, 0]),
        (44, [0, 0, 0, 1, 0, 0, 0, 9]),
    ];
    headers.into_iter().map(|(kind, header)| behind(kind, header)).collect()
}

/// A fragment other than the first.
fn later_fragment(frame: &Frame) -> Frame {
    if frame.src.is_ipv4() {
        return Frame { fragment: Some((100, false)), ..frame.clone() };
    }
    let header = [frame.proto, 0, 0x03, 0x20, 0, 0, 0, 9];
    frame.clone().carrying(44, &[&header[..], &frame.payload].concat())
}

#[test]
fn options_extensions_and_fragments_do_not_reach_another_network() {
    let mut node = node();
    for family in 0..2 {
        for host in [3, 70] {
            let plain = to(both(2, host)[family]);
            for frame in disguised(&plain) {
                explained(&node.from_workload("c2", &frame.bytes()), "from_workload", "isolated");
            }
            let later = later_fragment(&plain);
            dropped(&node.from_workload("c2", &later.bytes()), "from_workload", "isolated");
        }
    }
}

#[test]
fn options_extensions_and_fragments_do_not_leave_an_internal_network() {
    let mut node = node();
    for (family, world) in ["203.0.113.9", "2001:db8:9::9"].into_iter().enumerate() {
        let plain = Frame::udp(mac("i1"), both(3, 2)[family], addr(world));
        for frame in disguised(&plain) {
            explained(&node.from_workload("i1", &frame.bytes()), "from_workload", "internal");
        }
        let later = later_fragment(&plain);
        dropped(&node.from_workload("i1", &later.bytes()), "from_workload", "internal");
    }
}

#[test]
fn packets_between_any_two_networks_are_isolated() {
    let mut node = node();
    let networks = [("c2", 1, 3), ("r1", 2, 3), ("i1", 3, 2), ("o1", 4, 2)];
    for (from, own, host) in networks {
        for (_, other, there) in networks.into_iter().filter(|(_, other, _)| *other != own) {
            for family in 0..2 {
                let [src, dst] = [both(own, host)[family], both(other, there)[family]];
                let frame = Frame::udp(mac(from), src, dst).bytes();
                explained(&node.from_workload(from, &frame), "from_workload", "isolated");
            }
        }
    }
}

#[test]
fn gateway_and_edge_addresses_of_another_network_are_isolated() {
    let mut node = node();
    for family in 0..2 {
        let echo = Frame::echo(mac("c2"), both(1, 3)[family], both(2, 1)[family]);
        explained(&node.from_workload("c2", &echo.bytes()), "from_workload", "isolated");
    }
    for edge in ["10.2.0.0", "10.2.255.255", "fd00:2::", "fd00:2::ffff:ffff:ffff:ffff"] {
        explained(&node.from_workload("c2", &to(addr(edge)).bytes()), "from_workload", "isolated");
    }
}

#[test]
fn icmp_error_to_another_network_is_dropped() {
    let mut node = node();
    let errors: [(u8, &[u8]); 2] = [(1, &[3, 5, 11, 12]), (58, &[1, 2, 3, 4])];
    for (family, (proto, kinds)) in errors.into_iter().enumerate() {
        for kind in kinds {
            // As if about a packet that the victim had sent.
            let quoted = Frame::udp(mac("r1"), both(2, 3)[family], both(1, 3)[family]).bytes();
            let message = [&[*kind, 1, 0, 0, 0, 0, 0, 0][..], &quoted[14..]].concat();
            let frame = to(both(2, 3)[family]).carrying(proto, &message);
            dropped(&node.from_workload("c2", &frame.bytes()), "from_workload", "isolated");
        }
    }
}

#[test]
fn tunnel_packet_is_judged_by_its_outer_header() {
    let mut node = node();
    for family in 0..2 {
        // IPv4 and IPv6 in IP, GRE, and VXLAN; inside is a packet of red's.
        let inner = Frame::udp(mac("r1"), both(2, 3)[family], both(2, 2)[family]).bytes();
        let ip = &inner[14..];
        let gre = [&[0, 0, inner[12], inner[13]][..], ip].concat();
        let vxlan = [&[0x12, 0xb5, 0x12, 0xb5, 0, 0, 0, 0, 8, 0, 0, 0, 0, 0, 2, 0][..], &inner].concat();
        for (proto, payload) in [([4, 41][family], ip), (47, &gre), (17, &vxlan)] {
            let refused = to(both(2, 3)[family]).carrying(proto, payload);
            explained(&node.from_workload("c2", &refused.bytes()), "from_workload", "isolated");
            let own = to(both(1, 2)[family]).carrying(proto, payload).bytes();
            let out = node.from_workload("c2", &own);
            forwarded(&out, "from_workload", "local");
            assert_eq!(out.frame[..6], mac("c1"), "to the outer address");
            assert_eq!(out.frame[14..], own[14..], "and not a byte of it is unpacked");
        }
    }
}

#[test]
fn link_layer_tags_and_tunnels_are_dropped() {
    let mut node = node();
    let plain = to(both(1, 2)[0]).bytes();
    // Two tags; provider bridge, PPPoE, PBB, MACsec, RARP, EAPOL, an EtherType too small.
    for (kind, reason) in [
        ([0x81, 0x00, 0, 5, 0x81, 0x00, 0, 6], "vlan"),
        ([0x88, 0xa8, 0, 5, 0x81, 0x00, 0, 6], "vlan"),
        ([0x91, 0x00, 0, 5, 0x08, 0x00, 0, 0], "ether_type"),
        ([0x88, 0x64, 0x11, 0, 0, 1, 0, 0], "ether_type"),
        ([0x88, 0xe7, 0, 0, 0, 1, 0, 0], "ether_type"),
        ([0x88, 0xe5, 0, 0, 0, 1, 0, 0], "ether_type"),
        ([0x80, 0x35, 0, 1, 8, 0, 6, 4], "ether_type"),
        ([0x88, 0x8e, 1, 1, 0, 0, 0, 0], "ether_type"),
        ([0x00, 0x00, 0, 0, 0, 0, 0, 0], "ether_type"),
    ] {
        let mut frame = plain.clone();
        frame.splice(12..12, kind);
        dropped(&node.from_workload("c2", &frame), "from_workload", reason);
    }
}

#[test]
fn source_that_is_no_single_host_is_dropped() {
    let mut node = node();
    let nobody = [
        ["224.0.0.1", "239.1.2.3", "255.255.255.255", "10.1.255.255", "169.254.1.1", "240.0.0.1"],
        ["ff02::1", "ff0e::1", "fe80::2", "fe80::eeee:eeff:feee:eeee", "::10.1.0.3", "fd00:1::"],
    ];
    for (family, sources) in nobody.into_iter().enumerate() {
        for dst in [both(1, 2)[family], both(1, 70)[family], both(1, 200)[family]] {
            for src in sources {
                let frame = to(dst).from(addr(src)).bytes();
                dropped(&node.from_workload("c2", &frame), "from_workload", "spoofed_source");
            }
        }
    }
}

#[test]
fn no_icmp_error_to_a_source_that_is_no_single_host() {
    let mut node = node();
    // To a routable network from the wire, where any source may come from.
    let senders =
        [["0.0.0.0", "127.0.0.1", "224.0.0.1", "255.255.255.255"], ["::", "ff02::1", "ff0e::1", "ff05::2"]];
    for (family, senders) in senders.into_iter().enumerate() {
        for src in senders {
            let frame = Frame::udp([2, 9, 9, 9, 9, 9], addr(src), both(4, 200)[family]);
            dropped(&node.from_network(&frame.bytes()), "from_network", "no_endpoint");
            let late = Frame::udp([2, 9, 9, 9, 9, 9], addr(src), both(4, 70)[family]).ttl(1);
            dropped(&node.from_network(&late.bytes()), "from_network", "ttl_exceeded");
        }
    }
}

/// Neighbour discovery from a container, behind another header if there is one.
fn discovery(kind: u8, code: u8, src: IpAddr, dst: IpAddr, before: Option<(u8, [u8; 8])>) -> Vec<u8> {
    let IpAddr::V6(target) = both(1, 1)[1] else { panic!("IPv6 only") };
    let message = [&[kind, code, 0, 0, 0, 0, 0, 0][..], &target.octets(), &[2, 1], &mac("c2")].concat();
    let frame = Frame::udp(mac("c2"), src, dst).ttl(255);
    match before {
        None => frame.carrying(58, &message),
        Some((proto, header)) => frame.carrying(proto, &[&header[..], &message].concat()),
    }
    .bytes()
}

#[test]
fn neighbour_discovery_behind_extension_headers_is_dropped() {
    let mut node = node();
    let headers = [
        None,
        Some((0, [58, 0, 5, 2, 0, 0, 1, 0])),
        Some((60, [58, 0, 1, 4, 0, 0, 0, 0])),
        Some((43, [58, 0, 2, 0, 0, 0, 0, 0])),
        Some((44, [58, 0, 0, 1, 0, 0, 0, 9])),
    ];
    let own = both(1, 3)[1];
    // To a neighbour and to all nodes; from its own, the gateway's and a link-local address.
    for before in headers {
        for kind in [133, 134, 136, 137] {
            for src in [own, both(1, 1)[1], addr("fe80::1")] {
                for dst in [both(1, 2)[1], both(1, 70)[1], addr("ff02::1")] {
                    let frame = discovery(kind, 0, src, dst, before);
                    dropped(&node.from_workload("c2", &frame), "from_workload", "neighbour");
                }
            }
        }
    }
    let coded = discovery(135, 1, own, both(1, 1)[1], None);
    dropped(&node.from_workload("c2", &coded), "from_workload", "malformed");
}

#[test]
fn arp_with_another_type_or_operation_is_dropped() {
    let mut node = node();
    let honest = arp(mac("c2"), 1, (mac("c2"), [10, 1, 0, 3]), [10, 1, 0, 1]);
    forwarded(&node.from_workload("c2", &honest), "from_workload", "answered");
    // Another hardware, another protocol, addresses of other lengths.
    for (at, byte) in [(15, 6), (16, 0x86), (18, 8), (19, 16), (18, 0), (19, 0)] {
        let mut frame = honest.clone();
        frame[at] = byte;
        dropped(&node.from_workload("c2", &frame), "from_workload", "malformed");
    }
    // Inverse, reverse, and no operation at all.
    for operation in [0, 3, 8, 9, 0xffff] {
        let frame = arp(mac("c2"), operation, (mac("c2"), [10, 1, 0, 3]), [10, 1, 0, 1]);
        dropped(&node.from_workload("c2", &frame), "from_workload", "neighbour");
    }
}

#[test]
fn truncated_frame_is_dropped() {
    let mut node = node();
    for family in 0..2 {
        let plain = to(both(1, 2)[family]);
        for frame in disguised(&plain).into_iter().chain([plain]) {
            let whole = frame.bytes();
            // The kernel runs no program on less than an IP header; the node suite sends that.
            for len in [34, 54][family]..whole.len() {
                dropped(&node.from_workload("c2", &whole[..len]), "from_workload", "malformed");
            }
        }
    }
}

/// Numbers that look random and are the same in every run (xorshift, Marsaglia 2003).
fn numbers() -> impl FnMut() -> usize {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 16) as usize
    }
}

/// Whether a forwarded frame respects its sender's limits: sent from its MAC, still from its
/// address, and not into another network.
fn may_go_on(sent: &[u8], out: &[u8], family: usize) -> bool {
    let (at, len) = if family == 0 { (26, 4) } else { (22, 16) };
    let bytes = |addr: IpAddr| match addr {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    };
    let red = &bytes(both(2, 0)[family])[..[2, 8][family]];
    sent[6..12] == mac("c2")
        && out[at..at + len] == bytes(both(1, 3)[family])
        && !out[at + len..].starts_with(red)
}

#[test]
fn corrupted_packets_keep_sender_and_network() {
    let mut node = node();
    let mut next = numbers();
    let mut went_on = 0;
    for round in 0..ROUNDS {
        let family = round % 2;
        let dst = both([1, 1, 2][next() % 3], [2, 70, 3][next() % 3])[family];
        let forms = disguised(&to(dst));
        let mut frame = forms[next() % forms.len()].bytes();
        for _ in 0..1 + next() % 3 {
            // The EtherType stays, since it selects the parser.
            let at = [14 + next() % 50, 6 + next() % 6][usize::from(next().is_multiple_of(8))];
            frame[at] = next() as u8;
        }
        let out = node.from_workload("c2", &frame);
        assert!([DROP, REDIRECT].contains(&out.action), "{frame:x?}: {out:?}");
        let answered = out.counted.iter().any(|c| c.ends_with("answered") || c.ends_with("icmp_sent"));
        if out.action == REDIRECT && !answered {
            went_on += 1;
            assert!(may_go_on(&frame, &out.frame, family), "{frame:x?}: {out:?}");
            let [counted] = &out.counted[..] else { panic!("it is counted once: {out:?}") };
            let (_, verdict) = counted.split_once(' ').expect("a program and a verdict");
            let dst = sent::destination(&out.frame).expect("it has one");
            let expected = sent::expected("from_workload", verdict, &out.from, dst);
            assert_eq!(out.sent, expected, "{frame:x?}: {out:?}");
        }
    }
    assert!(went_on > ROUNDS / 30, "{went_on} went on: some packets are whole");
}
