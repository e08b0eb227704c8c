//! Kinds of packets and the look-ups that each may cost: a test holds the
//! programs to them, the bench times them.

use std::net::IpAddr;

use margay::tables::HOST_INTERFACE;
use margay_common::verdict::Program;

use crate::{
    bpf::{Context, Node, UPLINK, both, mac},
    frame::Frame,
};

/// One kind of packet.
pub struct Kind {
    /// The program that it meets.
    pub program: Program,
    /// What it is.
    pub what: &'static str,
    /// The interface that it comes from.
    pub interface: &'static str,
    /// One of IPv4, one of IPv6.
    pub frames: [Frame; 2],
    /// The verdict or reason that it is counted under.
    pub counted: &'static str,
    /// Look-ups in hashes and tries, where nothing is denied.
    pub lookups: u64,
    /// Whether it can pass the program many times, with a lower TTL each time.
    pub repeats: bool,
    /// Whether a packet between the same addresses went before it.
    pub again: bool,
    /// Whether it is the first of its flow. Only programs that remember no flows see such a packet
    /// more than once.
    pub first: bool,
}

impl Kind {
    /// Passes it through its program; the look-ups that this took.
    pub fn pass(&self, node: &mut Node, family: usize) -> u64 {
        if self.again {
            self.pass_once(node, family);
        }
        self.pass_once(node, family)
    }

    fn pass_once(&self, node: &mut Node, family: usize) -> u64 {
        let context = Context { ifindex: node.ifindex(self.interface), ..Context::default() };
        let before = node.lookups();
        let out = node.run(self.program, &self.frames[family].bytes(), context);
        let expected = format!("{} {}", self.program.label(), self.counted);
        assert_eq!(out.counted, [expected], "{}: the path is the one meant", self.what);
        node.lookups() - before
    }
}

const WIRE: [u8; 6] = [2, 9, 9, 9, 9, 9];
const HOST: [u8; 6] = [0xee; 6];
const OUTSIDE: [&str; 2] = ["203.0.113.9", "2001:db8:9::9"];
/// This node and the one that the routes lead to.
const NODES: [[&str; 2]; 2] = [["192.0.2.1", "2001:db8::1"], ["192.0.2.2", "2001:db8::2"]];

/// Prepares a node: the deny list is empty, and XDP has a fresh next hop.
pub fn prepare(node: &mut Node) {
    deny_nothing(node);
    addresses(NODES[1]).into_iter().for_each(|addr| node.confirm(addr, WIRE, 600));
}

/// Empties the deny list.
pub fn deny_nothing(node: &mut Node) {
    let denied = &mut node.maps().denied;
    for key in denied.read().expect("the map").into_keys() {
        denied.remove(key.len, key.addr).expect("the map");
    }
}

/// All of them.
pub fn all() -> Vec<Kind> {
    [from_workload(), from_network(), from_host(), xdp()].into_iter().flatten().collect()
}

fn addresses(texts: [&str; 2]) -> [IpAddr; 2] {
    texts.map(|text| text.parse().expect("a literal"))
}

/// UDP of both families.
fn udp(eth_src: [u8; 6], src: [IpAddr; 2], dst: [IpAddr; 2]) -> [Frame; 2] {
    [0, 1].map(|family| Frame::udp(eth_src, src[family], dst[family]).ttl(255))
}

fn from_workload() -> Vec<Kind> {
    let kind = |what, interface, network, dst, counted, lookups, repeats| Kind {
        program: Program::FromWorkload,
        what,
        interface,
        frames: udp(mac(interface), both(network, if interface == "c1" { 2 } else { 100 }), dst),
        counted,
        lookups,
        repeats,
        again: false,
        first: false,
    };
    let echo = [0, 1].map(|family| Frame::echo(mac("c1"), both(1, 2)[family], both(1, 1)[family]));
    vec![
        kind("to another node", "c1", 1, both(1, 70), "remote", 1, true),
        kind("to a container here", "c1", 1, both(1, 3), "local", 1, false),
        kind("to one here, of another block", "c1", 1, both(1, 210), "local", 2, false),
        kind("to another node, borrowed address", "o2", 4, both(4, 130), "remote", 2, true),
        kind("to another node, beside borrowed ones", "o2", 4, both(4, 70), "remote", 3, true),
        kind("to another node itself", "c1", 1, addresses(NODES[1]), "remote", 1, true),
        kind("to this node", "c1", 1, addresses(NODES[0]), "host", 1, false),
        kind("to the world, by the host", "c1", 1, addresses(OUTSIDE), "host", 1, false),
        Kind { frames: echo, ..kind("echo of the gateway", "c1", 1, both(1, 1), "answered", 0, false) },
    ]
}

fn from_network() -> Vec<Kind> {
    let kind = |what, src, dst, counted, lookups, repeats| Kind {
        program: Program::FromNetwork,
        what,
        interface: UPLINK,
        frames: udp(WIRE, src, dst),
        counted,
        lookups,
        repeats,
        again: false,
        first: false,
    };
    let outside = addresses(OUTSIDE);
    vec![
        kind("to a container here", both(1, 70), both(1, 2), "local", 1, false),
        kind("not ours, for this host", outside, addresses(NODES[0]), "passed", 1, true),
        kind("not ours, for others", outside, addresses(["203.0.113.7", "2001:db8:9::7"]), "passed", 2, true),
        kind("through to another node", outside, both(5, 70), "remote", 4, true),
    ]
}

fn from_host() -> Vec<Kind> {
    let kind = |what, dst, counted, lookups, repeats| Kind {
        program: Program::FromHost,
        what,
        interface: HOST_INTERFACE,
        frames: udp(HOST, addresses(NODES[0]), dst),
        counted,
        lookups,
        repeats,
        again: false,
        first: false,
    };
    vec![
        kind("to a container here", both(1, 2), "local", 1, false),
        kind("to another node", both(1, 70), "remote", 3, true),
    ]
}

fn xdp() -> Vec<Kind> {
    let kind = |what, src, dst, counted, lookups, repeats| Kind {
        program: Program::Xdp,
        what,
        interface: UPLINK,
        frames: udp(WIRE, src, dst),
        counted,
        lookups,
        repeats,
        again: false,
        first: false,
    };
    let outside = addresses(OUTSIDE);
    vec![
        kind("passed, to a container here", both(1, 70), both(1, 2), "passed", 1, true),
        kind("passed, for this host", outside, addresses(NODES[0]), "passed", 0, true),
        kind("passed, for others", outside, addresses(["203.0.113.7", "2001:db8:9::7"]), "passed", 2, true),
        kind("dropped, from outside", outside, both(1, 2), "outside", 2, true),
        Kind {
            again: true,
            ..kind("through to another node, again", outside, both(5, 70), "remote", 0, false)
        },
        Kind { first: true, ..kind("through to another node", outside, both(5, 71), "remote", 5, false) },
    ]
}
