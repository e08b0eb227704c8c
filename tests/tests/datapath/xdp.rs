//! XDP of the uplink: what it drops, what it forwards, and that it leaves all else to
//! `from_network`.

use std::net::IpAddr;

use margay_tests::{
    bpf::{Outcome, both, node},
    frame::{Frame, GATEWAY, arp},
};

use crate::{dropped, passed};

const WIRE: [u8; 6] = [2, 9, 9, 9, 9, 9];
const NEXT: [u8; 6] = [2, 8, 8, 8, 8, 8];
/// Actions of XDP (linux/bpf.h).
const XDP_DROP: i32 = 1;
const XDP_PASS: i32 = 2;
const XDP_TX: i32 = 3;

const OUTSIDE: [&str; 2] = ["203.0.113.9", "2001:db8:9::9"];
const BLOCKED: [&str; 2] = ["203.0.113.65", "2001:db8:bad::1"];
const THIS_NODE: [&str; 2] = ["192.0.2.1", "2001:db8::1"];
const H2: [&str; 2] = ["192.0.2.2", "2001:db8::2"];

fn addr(text: &str) -> IpAddr {
    text.parse().expect("a literal")
}

#[track_caller]
fn passes(out: &Outcome, frame: &[u8]) {
    assert_eq!((out.action, &out.counted[..]), (XDP_PASS, &["xdp_uplink passed".to_owned()][..]), "{out:?}");
    assert_eq!(out.frame, frame, "not a byte of it changed");
}

#[track_caller]
fn ends(out: &Outcome, reason: &str) {
    assert_eq!((out.action, &out.counted[..]), (XDP_DROP, &[format!("xdp_uplink {reason}")][..]), "{out:?}");
}

/// `from_network` then checks them.
#[test]
fn frames_with_vlan_tags_pass_xdp() {
    let mut node = node();
    for family in 0..2 {
        for src in [BLOCKED, THIS_NODE, OUTSIDE] {
            for tags in [&[0x81, 0, 0, 0][..], &[0x88, 0xa8, 0, 5], &[0x81, 0, 0, 0, 0x81, 0, 0, 0]] {
                let mut frame = Frame::udp(WIRE, addr(src[family]), both(1, 2)[family]).bytes();
                frame.splice(12..12, tags.iter().copied());
                passes(&node.xdp(&frame), &frame);
            }
        }
    }
}

#[test]
fn xdp_forwards_transit_frames() {
    let mut node = node();
    for family in 0..2 {
        node.confirm(addr(H2[family]), NEXT, 60);
        let outside = addr(OUTSIDE[family]);
        let inside = [(both(5, 5)[family], 5, 70), (both(4, 2)[family], 4, 70)];
        let cases = [(outside, 5, 70), (outside, 4, 70), (outside, 4, 130), inside[0], inside[1]];
        for (src, network, host) in cases {
            let frame = Frame::udp(WIRE, src, both(network, host)[family]);
            let out = node.xdp(&frame.bytes());
            assert_eq!((out.action, &out.counted[..]), (XDP_TX, &["xdp_uplink remote".to_owned()][..]));
            assert_eq!(out.frame[..12], [NEXT, GATEWAY].concat(), "to the next hop, from the uplink");
            let later = frame.clone().ttl(frame.ttl - 1).bytes();
            assert_eq!(out.frame[12..], later[12..], "one hop, and a right checksum");
        }
    }
}

#[test]
fn xdp_passes_frames_without_a_fresh_next_hop() {
    let mut node = node();
    for family in 0..2 {
        node.confirm(addr(H2[family]), NEXT, -1);
        let frame = Frame::udp(WIRE, addr(OUTSIDE[family]), both(4, 70)[family]).bytes();
        passes(&node.xdp(&frame), &frame);
    }
}

#[test]
fn xdp_passes_frames_that_need_a_reply() {
    let mut node = node();
    for family in 0..2 {
        node.confirm(addr(H2[family]), NEXT, 60);
        let outside = addr(OUTSIDE[family]);
        let to = |dst| Frame::udp(WIRE, outside, dst);
        let cases = [
            to(both(4, 70)[family]).ttl(1),
            // Above the uplink's 1400.
            Frame::udp_of(WIRE, outside, both(4, 70)[family], 1390),
            to(both(4, 200)[family]),
            // Its node is not on the link.
            to(both(5, 130)[family]),
            // The sender is an endpoint of another network, and gets an error.
            Frame::udp(WIRE, both(1, 70)[family], both(4, 70)[family]),
            Frame::udp(WIRE, both(1, 70)[family], both(2, 2)[family]),
            Frame::udp(WIRE, both(2, 70)[family], both(2, 200)[family]),
        ];
        for frame in cases {
            let bytes = frame.bytes();
            passes(&node.xdp(&bytes), &bytes);
        }
    }
}

#[test]
fn xdp_drops_denied_spoofed_and_outside_frames() {
    let mut node = node();
    for family in 0..2 {
        let cases = [
            (addr(OUTSIDE[family]), both(1, 2)[family], "outside"),
            (addr(OUTSIDE[family]), both(1, 70)[family], "outside"),
            (addr(THIS_NODE[family]), both(1, 2)[family], "spoofed_source"),
            (addr(THIS_NODE[family]), both(1, 70)[family], "spoofed_source"),
            (addr(BLOCKED[family]), both(4, 2)[family], "guarded"),
            (addr(BLOCKED[family]), addr(THIS_NODE[family]), "guarded"),
        ];
        for (src, dst, reason) in cases {
            let frame = Frame::udp(WIRE, src, dst).bytes();
            ends(&node.xdp(&frame), reason);
            dropped(&node.from_network(&frame), "from_network", reason);
        }
        // The deny list also applies to malformed headers.
        let mut broken = Frame::udp(WIRE, addr(BLOCKED[family]), both(1, 2)[family]).bytes();
        broken[14] = 0x15;
        ends(&node.xdp(&broken), "guarded");
    }
}

#[test]
fn xdp_passes_frames_for_the_host_and_for_unknown_addresses() {
    let mut node = node();
    for family in 0..2 {
        node.confirm(addr(H2[family]), NEXT, 60);
        let cases = [
            Frame::udp(WIRE, addr(H2[family]), addr(THIS_NODE[family])),
            Frame::udp(WIRE, addr(OUTSIDE[family]), addr(H2[family])),
            Frame::udp(WIRE, both(1, 70)[family], both(1, 2)[family]),
            Frame::udp(WIRE, addr(OUTSIDE[family]), both(4, 2)[family]),
            // The source is a container here: a load balancer outside has sent its packet back.
            Frame::udp(WIRE, both(1, 3)[family], both(1, 2)[family]),
            // A node, and a container of another network, to a container here.
            Frame::udp(WIRE, addr(H2[family]), both(1, 2)[family]),
            Frame::udp(WIRE, both(2, 70)[family], both(1, 2)[family]),
            // This node has borrowed it from h2's block.
            Frame::udp(WIRE, addr(OUTSIDE[family]), both(4, 100)[family]),
            Frame::udp(WIRE, addr(BLOCKED[family]), addr(THIS_NODE[family])).to_mac([2, 7, 7, 7, 7, 7]),
            Frame::udp(WIRE, addr(OUTSIDE[family]), both(1, 2)[family]).to_mac([0xff; 6]),
        ];
        for frame in cases {
            let bytes = frame.bytes();
            passes(&node.xdp(&bytes), &bytes);
        }
    }
    let asks = arp(WIRE, 1, (WIRE, [192, 0, 2, 2]), [192, 0, 2, 1]);
    passes(&node.xdp(&asks), &asks);
}

#[test]
fn xdp_drops_malformed_frames_to_containers() {
    let mut node = node();
    let mapped = std::net::Ipv4Addr::new(10, 1, 0, 70).to_ipv6_mapped().octets();
    for family in 0..2 {
        // A length that the frame does not have; another version.
        let mut wrong = vec![([16, 18][family], vec![0xff]), (14, vec![0x15])];
        if family == 0 {
            // A header of 16 bytes; a packet of 19, and of 20 with a header of 24.
            wrong.extend([(14, vec![0x44]), (16, vec![0, 19]), (14, vec![0x46, 0, 0, 20])]);
        } else {
            wrong.push((22, mapped.to_vec()));
        }
        for (at, bytes) in wrong {
            let broken = |dst| {
                let mut frame = Frame::udp(WIRE, addr(OUTSIDE[family]), dst).bytes();
                frame[at..at + bytes.len()].copy_from_slice(&bytes);
                frame
            };
            for ours in [both(1, 2), both(1, 70), both(4, 70)] {
                ends(&node.xdp(&broken(ours[family])), "malformed");
                dropped(&node.from_network(&broken(ours[family])), "from_network", "malformed");
            }
            for other in [addr(THIS_NODE[family]), addr("203.0.113.7")] {
                if other.is_ipv4() == (family == 0) {
                    let frame = broken(other);
                    passes(&node.xdp(&frame), &frame);
                }
            }
        }
    }
}

#[test]
fn xdp_passes_frames_with_options_or_extensions() {
    let mut node = node();
    for family in 0..2 {
        let whole = Frame::udp(WIRE, addr(OUTSIDE[family]), both(1, 2)[family]);
        let mut cases = vec![whole.bytes()[..[32, 40][family]].to_vec()];
        // What only a super-packet says of its length, and an extension with it.
        let mut bytes = whole.bytes();
        bytes[[16, 18][family]..][..2].fill(0);
        if family == 1 {
            bytes[20] = 0;
        }
        cases.push(bytes);
        let options = if family == 0 { vec![1; 4] } else { Vec::new() };
        if family == 0 {
            cases.push(Frame { options, ..whole }.bytes());
        } else {
            cases.push(whole.carrying(60, &[17, 0, 1, 4, 0, 0, 0, 0]).bytes());
        }
        for bytes in cases {
            passes(&node.xdp(&bytes), &bytes);
        }
    }
}

#[test]
fn deny_list_drops_without_xdp() {
    let mut node = node();
    for family in 0..2 {
        let from = |dst| Frame::udp(WIRE, addr(BLOCKED[family]), dst);
        let mut frames: Vec<Vec<u8>> = [both(4, 2)[family], addr(THIS_NODE[family]), addr(H2[family])]
            .map(|dst| from(dst).bytes())
            .into();
        // By broadcast, and with headers that no parser gets to the end of.
        frames.push(from(addr(THIS_NODE[family])).to_mac([0xff; 6]).bytes());
        let mut broken = from(addr(THIS_NODE[family])).bytes();
        broken[14] = [0x4f, 0x60][family];
        broken[20] = [0x00, 0x3c][family];
        frames.push(broken);
        for frame in frames {
            dropped(&node.from_network(&frame), "from_network", "guarded");
        }
        let overheard = from(addr(THIS_NODE[family])).to_mac([2, 7, 7, 7, 7, 7]).bytes();
        passed(&node.from_network(&overheard), "from_network", &overheard);
    }
}
