//! Packets that are too big for their path, super-packets included.

use margay_common::verdict::Program;
use margay_tests::{
    bpf::{Context, UPLINK_MTU, both, mac, node},
    frame::Frame,
};

use crate::{explained, forwarded};

/// A frame whose IP packet is that long.
fn of_len(src_mac: [u8; 6], family: usize, dst: u8, len: u32) -> Frame {
    let headers = if family == 0 { 28 } else { 48 };
    Frame::udp_of(src_mac, both(1, 2)[family], both(1, dst)[family], len as usize - headers)
}

#[test]
fn packet_above_the_uplink_mtu_gets_too_big() {
    let mut node = node();
    for family in 0..2 {
        let fits = of_len(mac("c1"), family, 70, UPLINK_MTU);
        forwarded(&node.from_workload("c1", &fits.bytes()), "from_workload", "remote");
        let big = of_len(mac("c1"), family, 70, UPLINK_MTU + 1);
        let out = node.from_workload("c1", &big.bytes());
        explained(&out, "from_workload", "too_big");
        let at = if family == 0 { 34 } else { 54 };
        let kind = if family == 0 { [3, 4] } else { [2, 0] };
        assert_eq!(out.frame[at..at + 2], kind);
        assert_eq!(out.frame[at + 4..at + 8], UPLINK_MTU.to_be_bytes());
    }
}

#[test]
fn packet_of_the_network_mtu_reaches_a_local_endpoint() {
    let mut node = node();
    for family in 0..2 {
        let big = of_len(mac("c1"), family, 3, 1500);
        forwarded(&node.from_workload("c1", &big.bytes()), "from_workload", "local");
    }
}

/// A TCP segment of a super-packet: `gso_size` bytes of each segment.
fn super_packet(family: usize, len: usize) -> Vec<u8> {
    let mut tcp = vec![0; 32 + len];
    // Data offset 8 words: 20 bytes and 12 of options, as with timestamps.
    tcp[12] = 0x80;
    Frame::udp(mac("c1"), both(1, 2)[family], both(1, 70)[family]).carrying(6, &tcp).bytes()
}

#[test]
fn super_packet_is_measured_by_its_segments() {
    let mut node = node();
    let ifindex = node.ifindex("c1");
    for (family, header) in [20, 40].into_iter().enumerate() {
        let fits = UPLINK_MTU - header - 32;
        let frame = super_packet(family, 3000);
        let context = |gso_size| Context { ifindex, gso_size, ..Context::default() };
        let out = node.run(Program::FromWorkload, &frame, context(fits));
        forwarded(&out, "from_workload", "remote");
        assert_eq!(out.frame.len(), frame.len(), "it passes whole");
        let out = node.run(Program::FromWorkload, &frame, context(fits + 1));
        explained(&out, "from_workload", "too_big");
        assert!(out.frame.len() < 300, "the error is a plain packet");
    }
}

#[test]
fn packet_above_a_containers_mtu_gets_too_big_from_wire_and_host() {
    let mut node = node();
    let hosts = [["192.0.2.1", "192.0.2.2"], ["2001:db8::1", "2001:db8::2"]];
    for (family, [this, other]) in hosts.into_iter().enumerate() {
        let mut frame = of_len([2; 6], family, 4, 1301);
        frame.src = other.parse().expect("a literal");
        explained(&node.from_network(&frame.bytes()), "from_network", "too_big");
        frame.src = this.parse().expect("a literal");
        explained(&node.from_host(&frame.bytes()), "from_host", "too_big");
        let mut frame = of_len([2; 6], family, 4, 1300);
        frame.src = other.parse().expect("a literal");
        forwarded(&node.from_network(&frame.bytes()), "from_network", "local");
    }
}

#[test]
fn jumbo_header_does_not_count_as_segment_size() {
    let mut node = node();
    let ifindex = node.ifindex("c1");
    let mut tcp = vec![0; 32 + 3000];
    tcp[12] = 0x80;
    let jumbo = [6, 0, 0xc2, 4, 0, 0, 0x0b, 0xe0];
    let frame =
        Frame::udp(mac("c1"), both(1, 2)[1], both(1, 70)[1]).carrying(0, &[&jumbo[..], &tcp].concat());
    let mut bytes = frame.bytes();
    bytes[18..20].copy_from_slice(&[0, 0]);
    let context = |gso_size| Context { ifindex, gso_size, ..Context::default() };
    let fits = UPLINK_MTU - 40 - 32;
    forwarded(&node.run(Program::FromWorkload, &bytes, context(fits)), "from_workload", "remote");
    explained(&node.run(Program::FromWorkload, &bytes, context(fits + 1)), "from_workload", "too_big");
}

#[test]
fn super_packet_with_segments_cut_by_its_sender_passes() {
    let mut node = node();
    let ifindex = node.ifindex("c1");
    let frame = super_packet(0, 3000);
    let context = Context { ifindex, gso_size: 0xffff, ..Context::default() };
    forwarded(&node.run(Program::FromWorkload, &frame, context), "from_workload", "remote");
}
