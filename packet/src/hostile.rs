//! Whatever a container or the wire sends: no panic, and what is read lies inside the packet.

extern crate std;

use std::vec::Vec;

use margay_common::{
    icmp::error_for,
    net::{Addr, Family, GATEWAY_MAC, Mac},
    verdict::DropReason,
};
use proptest::prelude::*;

use crate::{Buffer, Frame, Headers, addresses, arp, check_size, checksum, decrement_ttl, echo, icmp, ndp};

const ASKER: Mac = Mac([2, 0, 0, 0, 0, 7]);

fn family() -> impl Strategy<Value = Family> {
    prop_oneof![Just(Family::V4), Just(Family::V6)]
}

/// Bytes that get past the first checks: an Ethernet header, a version, a plausible length, then
/// anything.
fn frame() -> impl Strategy<Value = (Family, Vec<u8>)> {
    let parts = (family(), any::<[u8; 14]>(), proptest::collection::vec(any::<u8>(), 0..400), any::<bool>());
    parts.prop_map(|(family, ethernet, mut body, plausible)| {
        let len = body.len() as u16;
        if plausible && family == Family::V4 && len >= 20 {
            // Now and then with options.
            body[0] = 0x40 | (5 + body[1] % 3);
            body[2..4].copy_from_slice(&len.to_be_bytes());
        } else if plausible && family == Family::V6 && len >= 40 {
            body[0] = 0x60;
            body[4..6].copy_from_slice(&(len - 40).to_be_bytes());
            // Headers that are walked, TCP and ICMPv6.
            body[6] = [0, 43, 44, 60, 6, 58][usize::from(body[6] % 6)];
        }
        (family, [&ethernet[..], &body].concat())
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_096))]

    #[test]
    fn any_bytes_are_parsed_or_refused((family, bytes) in frame(), linear in 0_usize..500, gso in any::<bool>()) {
        let packet = Buffer::new(&bytes, linear).with_gso_size(if gso { 1_000 } else { 0 });
        let mut headers = Headers::NONE;
        let parsed = headers.parse(&packet, family);
        prop_assert_eq!(packet.bytes(), &bytes[..], "parsing changes nothing");
        prop_assert_eq!(parsed, parsed.and(headers.parse(&packet, family)), "and is the same again");
        let Ok(()) = parsed else { return Ok(()) };
        prop_assert_eq!(headers.family, family);
        prop_assert_eq!(addresses(&packet, family), Some([headers.src, headers.dst]));
        prop_assert!(headers.l4 >= Buffer::L3 + 20);
        // With neither options nor extensions both parsers see the same.
        let plain = Headers::parse_plain(&packet, family);
        if let Ok(Some(plain)) = plain {
            prop_assert_eq!(plain, headers);
        }
        if let Some([_, _]) = headers.ports(&packet) {
            prop_assert!(bytes.len() >= headers.l4 + 4 && !headers.is_later_fragment());
        }
        if check_size(&packet, &headers, 100).is_ok() && !gso {
            prop_assert!(packet.l3_len() <= 100);
        }
    }

    #[test]
    fn a_lost_hop_is_all_that_changes((family, bytes) in frame()) {
        let packet = Buffer::new(&bytes, bytes.len());
        let mut headers = Headers::NONE;
        if headers.parse(&packet, family).is_err() {
            return Ok(());
        }
        let ttl = if family == Family::V4 { 22 } else { 21 };
        if decrement_ttl(&packet, &headers).is_err() {
            prop_assert!(headers.ttl <= 1);
            prop_assert_eq!(packet.bytes(), bytes);
            return Ok(());
        }
        prop_assert!(headers.ttl > 1);
        let mut expected = bytes.clone();
        expected[ttl] -= 1;
        if family == Family::V4 {
            let old = u16::from_be_bytes([bytes[24], bytes[25]]);
            let (old_word, new_word) = (u16::from_be_bytes([bytes[22], bytes[23]]), u16::from_be_bytes([bytes[22] - 1, bytes[23]]));
            let replaced = checksum::replaced(old, old_word, new_word);
            let after = u16::from_be_bytes([packet.bytes()[24], packet.bytes()[25]]);
            // Two ways to write zero.
            prop_assert!(after == replaced || after ^ replaced == 0xffff, "{after:#x} {replaced:#x}");
            expected[24..26].copy_from_slice(&after.to_be_bytes());
        }
        prop_assert_eq!(packet.bytes(), expected);
    }

    #[test]
    fn what_is_answered_is_answered_to_its_sender((family, bytes) in frame(), gateway: [u64; 2]) {
        let gateway = Addr(gateway);
        let packet = Buffer::new(&bytes, bytes.len());
        let answered = arp::answer(&packet, ASKER.word(), &gateway, |_| true);
        prop_assert!(answered.is_err() || packet.bytes()[..12] == [ASKER.0, GATEWAY_MAC.0].concat());
        let mut headers = Headers::NONE;
        let packet = Buffer::new(&bytes, bytes.len());
        if headers.parse(&packet, family).is_err() {
            return Ok(());
        }
        let own = if family == Family::V6 { gateway } else { headers.dst };
        if ndp::answer(&packet, &headers, ASKER.word(), &own, |_| true).is_ok() {
            prop_assert_eq!(&packet.bytes()[38..54], &bytes[22..38]);
        }
        let packet = Buffer::new(&bytes, bytes.len());
        if echo::is_request(&packet, &headers) && echo::answer(&packet, &headers).is_ok() {
            prop_assert_eq!(addresses(&packet, family), Some([headers.dst, headers.src]));
        }
    }

    #[test]
    fn an_error_is_well_formed_and_goes_to_the_sender((family, bytes) in frame(), mtu: u32) {
        let packet = Buffer::new(&bytes, bytes.len());
        let mut headers = Headers::NONE;
        if headers.parse(&packet, family).is_err() || !icmp::may_answer(&packet, &headers) {
            return Ok(());
        }
        let error = error_for(DropReason::TooBig, family).expect("it is told");
        let gateway = Addr::from_v4_word(u32::from_ne_bytes([10, 1, 0, 1]));
        let gateway = if family == Family::V4 { gateway } else { Addr([1_u64.to_be(), 2_u64.to_be()]) };
        prop_assert!(icmp::answer(&packet, &headers, error, &gateway, mtu, &mut icmp::Draft::default()).is_some());
        let out = packet.bytes();
        let quoted = (bytes.len() - 14).min(128);
        prop_assert_eq!(&out[..12], &[&bytes[6..12], &bytes[..6]].concat()[..]);
        let sliced = etherparse::SlicedPacket::from_ip(&out[14..]).expect("it is well formed");
        match (sliced.net, sliced.transport) {
            (Some(etherparse::NetSlice::Ipv4(ip)), Some(etherparse::TransportSlice::Icmpv4(message))) => {
                prop_assert_eq!(&ip.header().destination()[..], &bytes[26..30]);
                prop_assert_eq!(ip.header().header_checksum(), ip.header().to_header().calc_header_checksum());
                let sum = message.header().icmp_type.calc_checksum(message.payload());
                prop_assert_eq!(message.checksum(), sum);
                prop_assert_eq!(&message.payload()[..], &bytes[14..14 + quoted]);
            }
            (Some(etherparse::NetSlice::Ipv6(ip)), Some(etherparse::TransportSlice::Icmpv6(message))) => {
                let header = ip.header();
                prop_assert_eq!(&header.destination()[..], &bytes[22..38]);
                prop_assert!(message.is_checksum_valid(header.source(), header.destination()));
                prop_assert_eq!(&message.payload()[..], &bytes[14..14 + quoted]);
            }
            other => prop_assert!(false, "{other:?}"),
        }
    }
}
