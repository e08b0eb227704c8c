//! VLAN tags on the uplink: a priority tag (VLAN 0) is ignored, and a frame of a VLAN is not
//! Margay's.

use std::net::IpAddr;

use margay_tests::{
    container::Namespace,
    eventually::eventually,
    frame::Frame,
    host::UPLINK,
    lab::Lab,
    needs::skip,
    raw::{self, Capture},
};

use crate::attach::one_host;

/// An EtherType and what follows it: priority, and VLAN.
type Tag = (u16, u16);
/// Customer tags, IEEE 802.1Q; and service tags, 802.1ad.
const C: u16 = 0x8100;
const S: u16 = 0x88a8;

/// Tags of no VLAN.
const PRIORITIES: [&[Tag]; 6] =
    [&[(C, 0)], &[(C, 5 << 13)], &[(S, 0)], &[(C, 0), (C, 7 << 13)], &[(S, 1 << 13), (C, 0)], &[(C, 0); 4]];
/// Tags of a VLAN.
const VLANS: [&[Tag]; 4] = [&[(C, 5)], &[(S, 5)], &[(C, 0), (C, 5)], &[(C, 3 << 13), (S, 5)]];

fn tagged(frame: &Frame, tags: &[Tag]) -> Vec<u8> {
    let mut bytes = frame.bytes();
    let tags = tags.iter().flat_map(|(kind, tag)| [kind.to_be_bytes(), tag.to_be_bytes()]).flatten();
    bytes.splice(12..12, tags);
    bytes
}

fn both(texts: [&str; 2]) -> [IpAddr; 2] {
    texts.map(|text| text.parse().expect("a literal"))
}

/// A host, who sends to its uplink's MAC, and that MAC.
struct Wire {
    lab: Lab,
    outside: Namespace,
    index: i32,
    macs: [[u8; 6]; 2],
}

impl Wire {
    fn new() -> Self {
        let lab = one_host();
        let outside = lab.outsider();
        let macs = [raw::mac(&outside, UPLINK), raw::mac(&lab.h(1).namespace, UPLINK)];
        Self { index: raw::index(&outside, UPLINK), macs, lab, outside }
    }

    fn frame(&self, src: IpAddr, dst: IpAddr) -> Frame {
        Frame::udp(self.macs[0], src, dst).to_mac(self.macs[1])
    }

    fn send(&self, frame: &[u8]) {
        raw::send(&self.outside.path(), self.index, 0, frame).expect("a raw socket sends it");
    }

    /// Sends a frame, tagged, and waits until a program has counted it so.
    #[track_caller]
    fn counted(&self, frame: &Frame, tags: &[Tag], program: &str, reason: &str) {
        let count = || self.lab.h(1).count(program, reason);
        let before = count();
        self.send(&tagged(frame, tags));
        eventually("it is counted", || match count() {
            n if n > before => Ok(()),
            _ => Err((reason, tags, self.lab.h(1).ok(&["counters"]))),
        });
    }
}

const OUTSIDE: [&str; 2] = ["192.0.2.200", "2001:db8::200"];
const OWN: [&str; 2] = ["192.0.2.1", "2001:db8::1"];

#[test]
fn priority_tagged_frames_are_checked_like_untagged_ones() {
    let wire = Wire::new();
    let host = wire.lab.h(1);
    let subnets = ["--subnet", "10.4.0.0/16", "--subnet", "fd00:4::/64"];
    host.ok(&[&["network", "create", "open", "--routable"][..], &subnets].concat());
    let (_closed, addr_closed) = wire.lab.attached(1, "blue");
    let (open, addr_open) = wire.lab.attached(1, "open");
    let arrivals = Capture::of(&open, "eth0");
    let (outside, own) = (both(OUTSIDE), both(OWN));
    for family in 0..2 {
        for tags in PRIORITIES {
            let to_closed = wire.frame(outside[family], addr_closed[family]);
            wire.counted(&to_closed, tags, "from_network", "outside");
            let as_the_host = wire.frame(own[family], addr_closed[family]);
            wire.counted(&as_the_host, tags, "from_network", "spoofed_source");
            arrivals.frames();
            let welcome = wire.frame(outside[family], addr_open[family]);
            wire.counted(&welcome, tags, "from_network", "local");
            eventually("it arrives as it would without", || {
                let frames = arrivals.frames();
                let whole = frames.iter().any(|frame| frame[12..] == welcome.bytes()[12..]);
                if whole { Ok(()) } else { Err(frames) }
            });
        }
    }
    OUTSIDE.iter().for_each(|addr| drop(host.ok(&["guard", "add", addr])));
    for family in 0..2 {
        let to_host = wire.frame(outside[family], own[family]);
        wire.counted(&to_host, &[], "from_network", "guarded");
        PRIORITIES.iter().for_each(|tags| wire.counted(&to_host, tags, "from_network", "guarded"));
        // A frame with more priority tags than real senders use is dropped.
        wire.counted(&to_host, &[(C, 0); 5], "from_network", "vlan");
    }
}

#[test]
fn vlan_frames_do_not_reach_isolated_networks() {
    let wire = Wire::new();
    let host = &wire.lab.h(1).namespace;
    let (closed, addresses) = wire.lab.attached(1, "blue");
    let arrivals = Capture::of(&closed, "eth0");
    let sources = ["198.51.100.2", "fd88::2"];
    // The host has no interface of that VLAN.
    for (src, dst) in both(OUTSIDE).into_iter().zip(&addresses) {
        let frame = wire.frame(src, *dst);
        VLANS.iter().for_each(|tags| wire.counted(&frame, tags, "from_network", "passed"));
    }
    // Now it has one, and forwards.
    host.sysctl("net.ipv4.ip_forward", "1");
    host.sysctl("net.ipv6.conf.all.forwarding", "1");
    for (name, protocol) in [("c5", "802.1q"), ("s5", "802.1ad")] {
        let made =
            host.run(&format!("ip link add link {UPLINK} name {name} type vlan protocol {protocol} id 5"));
        if made.err.contains("Unknown device type") {
            return skip("this kernel has no VLAN interfaces");
        }
        assert!(made.ok(), "{made:?}");
        host.sysctl(&format!("net.ipv4.conf.{name}.rp_filter"), "0");
        host.sh(&format!("ip link set {name} up"));
    }
    host.sysctl("net.ipv4.conf.all.rp_filter", "0");
    for addr in ["198.51.100.1/24", "fd88::1/64"] {
        host.sh(&format!("ip addr add {addr} dev c5"));
    }
    for (family, src) in both(sources).into_iter().enumerate() {
        for tags in VLANS {
            let frame = wire.frame(src, addresses[family]);
            wire.counted(&frame, tags, "from_host", "outside");
        }
    }
    let from_there = |frame: &&Vec<u8>| frame.windows(4).any(|bytes| bytes == [198, 51, 100, 2]);
    assert_eq!(arrivals.frames().iter().find(from_there), None);
}
