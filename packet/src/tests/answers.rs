//! What the gateway answers: ARP, neighbour discovery and echo.

use std::{vec, vec::Vec};

use etherparse::PacketBuilder;
use margay_common::{
    net::{Addr, Family, GATEWAY_MAC},
    verdict::DropReason,
};
use proptest::{collection::vec as many, prelude::*, sample::select};

use super::{
    checksum_of,
    frames::{ASKER, TO},
    run,
};
use crate::{Buffer, Headers, arp, echo, ndp};

const GATEWAY: [u8; 4] = [10, 1, 0, 1];
const OWN: [u8; 4] = [10, 1, 0, 2];
const OTHER: [u8; 4] = [10, 1, 0, 3];
/// The message that a request for the gateway begins with.
const ETHERNET_IPV4: [u8; 6] = [0, 1, 8, 0, 6, 4];

fn v4(addr: [u8; 4]) -> Addr {
    Addr::from_v4_word(u32::from_ne_bytes(addr))
}

fn v6(addr: [u8; 16]) -> Addr {
    Addr(zerocopy::transmute!(addr))
}

/// Mostly the first value, sometimes one of the others.
fn mostly<T: Clone + core::fmt::Debug + 'static>(first: T, others: Vec<T>) -> impl Strategy<Value = T> {
    prop_oneof![5 => Just(first), 1 => select(others)]
}

#[test]
fn arp_request_for_the_gateway_is_answered_to_its_sender() {
    let parts = (
        mostly(ETHERNET_IPV4, vec![[0, 6, 8, 0, 6, 4], [0, 1, 0x86, 0xdd, 6, 4], [0, 1, 8, 0, 6, 16]]),
        mostly(1_u16, vec![0, 2, 3]),
        mostly(ASKER.0, vec![[2, 0, 0, 0, 0, 8], [0; 6], GATEWAY_MAC.0]),
        mostly(OWN, vec![OTHER, GATEWAY, [0; 4]]),
        mostly(GATEWAY, vec![OTHER, OWN]),
        (many(any::<u8>(), 0..20), 0_usize..60, mostly(42_usize, vec![14, 30, 41])),
    );
    let wanted = ["answered", "a probe", "malformed", "forged MAC", "forged source", "not the gateway"];
    run(parts, &wanted, |(kinds, operation, mac, sender, target, (padding, linear, cut)), hits| {
        let mut frame = [&[0xff; 6][..], &ASKER.0, &[8, 6], &kinds, &operation.to_be_bytes()].concat();
        frame.extend([&mac[..], &sender, &[0; 6], &target, &padding].concat());
        if cut < 42 {
            frame.truncate(cut);
        }
        let (expected, what) = match (operation, target) {
            _ if cut < 42 || kinds != ETHERNET_IPV4 => (Err(DropReason::Malformed), "malformed"),
            _ if mac != ASKER.0 => (Err(DropReason::SpoofedMac), "forged MAC"),
            _ if ![OWN, [0; 4]].contains(&sender) => (Err(DropReason::SpoofedSource), "forged source"),
            (1, GATEWAY) if sender == [0; 4] => (Ok(()), "a probe"),
            (1, GATEWAY) => (Ok(()), "answered"),
            _ => (Err(DropReason::Neighbour), "not the gateway"),
        };
        hits.count(what);
        let packet = Buffer::new(&frame, linear);
        prop_assert_eq!(arp::answer(&packet, ASKER.word(), &v4(GATEWAY), |addr| *addr == v4(OWN)), expected);
        if expected.is_ok() {
            let message = [&ETHERNET_IPV4[..], &[0, 2], &GATEWAY_MAC.0, &GATEWAY, &mac, &sender].concat();
            frame = [&ASKER.0[..], &GATEWAY_MAC.0, &[8, 6], &message, &padding].concat();
        }
        prop_assert_eq!(packet.bytes(), frame);
        Ok(())
    });
}

const GATEWAY_V6: [u8; 16] = [0xfd, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
const OWN_V6: [u8; 16] = [0xfd, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2];
const OTHER_V6: [u8; 16] = [0xfd, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 3];
const LINK_LOCAL: [u8; 16] = [0xfe, 0x80, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 7];

#[test]
fn solicitation_for_the_gateway_is_answered_to_its_sender() {
    let parts = (
        mostly(OWN_V6, vec![LINK_LOCAL, OTHER_V6, [0; 16]]),
        mostly(GATEWAY_V6, vec![OTHER_V6, OWN_V6]),
        mostly(255_u8, vec![64, 254, 1]),
        mostly([135_u8, 0], vec![[133, 0], [136, 0], [137, 0], [135, 1]]),
        (many(any::<u8>(), 0..40), 0_usize..120, mostly(24_usize, vec![0, 8, 23])),
    );
    let wanted = ["answered", "link-local", "malformed", "forged source", "not the gateway"];
    run(parts, &wanted, |(src, target, limit, [kind, code], (behind, linear, cut)), hits| {
        let mut message = [&[kind, code, 0, 0, 0, 0, 0, 0][..], &target, &behind].concat();
        if cut < 24 {
            message.truncate(cut);
        }
        let len = message.len() as u8;
        let mut frame = [&TO[..], &ASKER.0, &[0x86, 0xdd, 0x60, 0, 0, 0, 0, len, 58, limit], &src].concat();
        frame.extend([&GATEWAY_V6[..], &message].concat());
        let (expected, what) = match (kind, target) {
            _ if cut < 24 => (Err(DropReason::Malformed), "malformed"),
            (135, GATEWAY_V6) if src == [0; 16] => (Err(DropReason::Neighbour), "not the gateway"),
            (135, GATEWAY_V6) if limit != 255 || code != 0 => (Err(DropReason::Malformed), "malformed"),
            (135, GATEWAY_V6) if src == OTHER_V6 => (Err(DropReason::SpoofedSource), "forged source"),
            (135, GATEWAY_V6) if src == LINK_LOCAL => (Ok(()), "link-local"),
            (135, GATEWAY_V6) => (Ok(()), "answered"),
            _ => (Err(DropReason::Neighbour), "not the gateway"),
        };
        hits.count(what);
        let (packet, mut headers) = (Buffer::new(&frame, linear), Headers::NONE);
        prop_assert_eq!(headers.parse(&packet, Family::V6), Ok(()));
        let own = |addr: &Addr| *addr == v6(OWN_V6);
        prop_assert_eq!(ndp::answer(&packet, &headers, ASKER.word(), &v6(GATEWAY_V6), own), expected);
        let mut out = packet.bytes();
        if expected.is_ok() {
            let sum = checksum_of(&[&out[22..54], &[0, 0, 0, 32, 0, 0, 0, 58], &out[54..]]);
            prop_assert_eq!(sum, 0, "its checksum");
            out[56..58].fill(0);
            let ip = [&[0x60, 0, 0, 0, 0, 32, 58, 255][..], &GATEWAY_V6, &src].concat();
            let message = [&[136, 0, 0, 0, 0xe0, 0, 0, 0][..], &GATEWAY_V6, &[2, 1], &GATEWAY_MAC.0].concat();
            frame = [&ASKER.0[..], &GATEWAY_MAC.0, &[0x86, 0xdd], &ip, &message].concat();
        }
        prop_assert_eq!(out, frame);
        Ok(())
    });
}

/// An echo of that type from [`OWN`] or its like of IPv6 to the gateway.
fn echo_of(family: Family, request: bool, [id, seq]: [u16; 2], payload: &[u8]) -> Vec<u8> {
    let (mut out, ethernet) = (Vec::new(), PacketBuilder::ethernet2(ASKER.0, TO));
    let done = match (family, request) {
        (Family::V4, true) => {
            ethernet.ipv4(OWN, GATEWAY, 64).icmpv4_echo_request(id, seq).write(&mut out, payload)
        }
        (Family::V4, false) => {
            ethernet.ipv4(GATEWAY, OWN, 64).icmpv4_echo_reply(id, seq).write(&mut out, payload)
        }
        (Family::V6, true) => {
            ethernet.ipv6(OWN_V6, GATEWAY_V6, 64).icmpv6_echo_request(id, seq).write(&mut out, payload)
        }
        (Family::V6, false) => {
            ethernet.ipv6(GATEWAY_V6, OWN_V6, 64).icmpv6_echo_reply(id, seq).write(&mut out, payload)
        }
    };
    done.expect("memory takes it");
    out
}

#[test]
fn echo_request_becomes_a_standard_echo_reply() {
    let parts = (any::<bool>(), any::<[u16; 2]>(), many(any::<u8>(), 0..100), 0_usize..120);
    run(parts, &["answered to IPv4", "answered to IPv6"], |(first, numbers, payload, linear), hits| {
        let (family, ip) = if first { (Family::V4, 34) } else { (Family::V6, 54) };
        hits.count(if first { "answered to IPv4" } else { "answered to IPv6" });
        let frame = echo_of(family, true, numbers, &payload);
        let (packet, mut headers) = (Buffer::new(&frame, linear), Headers::NONE);
        prop_assert_eq!(headers.parse(&packet, family), Ok(()));
        prop_assert!(echo::is_request(&packet, &headers));
        prop_assert_eq!(echo::answer(&packet, &headers), Ok(()));
        let (out, mut expected) = (packet.bytes(), echo_of(family, false, numbers, &payload));
        expected[..12].copy_from_slice(&[ASKER.0, GATEWAY_MAC.0].concat());
        // Zero can be written in two ways.
        if out[ip + 2..ip + 4] == [0xff, 0xff] || out[ip + 2..ip + 4] == [0, 0] {
            expected[ip + 2..ip + 4].copy_from_slice(&out[ip + 2..ip + 4]);
        }
        prop_assert_eq!(out, expected);
        prop_assert!(!echo::is_request(&packet, &headers));
        Ok(())
    });
}
