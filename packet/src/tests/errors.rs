//! ICMP errors about dropped packets.

use std::{vec, vec::Vec};

use margay_common::{
    icmp::{IcmpError, error_for},
    net::{Addr, Family},
    verdict::DropReason,
};
use proptest::{prelude::*, sample::select, test_runner::TestCaseResult};
use zerocopy::FromBytes;

use super::{
    checksum_of,
    frames::{ASKER, Built, TO, broken, built},
    run,
};
use crate::{Headers, icmp};

const V4: [u8; 4] = [10, 1, 0, 1];
const V6: [u8; 16] = [0xfd, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];

fn gateway(family: Family) -> Addr {
    match family {
        Family::V4 => Addr::from_v4_word(u32::from_ne_bytes(V4)),
        Family::V6 => Addr(zerocopy::transmute!(V6)),
    }
}

/// Whether the RFCs allow an error about a packet.
fn may_be_told(built: &Built) -> bool {
    let known = built.known.as_ref().expect("it is in order");
    let is_error = built.icmp_type().is_some_and(|kind| match built.family {
        Family::V4 => [3, 4, 5, 11, 12].contains(&kind),
        Family::V6 => kind < 128 || kind == 137,
    });
    let host = match built.family {
        Family::V4 => !matches!(built.bytes[26], 0 | 127 | 224..),
        Family::V6 => built.bytes[22] != 0xff && built.bytes[22..38] != [0; 16],
    };
    host && !known.later && !is_error
}

/// A draft that still holds the error about another packet.
fn dirty() -> icmp::Draft {
    icmp::Draft::read_from_bytes(&[0xa5; icmp::LONGEST]).expect("its size")
}

const WANTED: &[&str] = &["of IPv4", "of IPv6", "of IPv4 with an MTU", "nobody", "a large MTU"];

#[test]
fn icmp_error_is_well_formed_and_goes_to_the_sender() {
    let reasons = select(vec![
        DropReason::TooBig,
        DropReason::TooBig,
        DropReason::TtlExceeded,
        DropReason::NoEndpoint,
        DropReason::NodeUnreachable,
        DropReason::Isolated,
        DropReason::GatewayPort,
    ]);
    let mtu = prop_oneof![0_u32..=65_535, any::<u32>()];
    run((built(), reasons, mtu), WANTED, |(built, reason, mtu), hits| {
        let (packet, mut headers) = (built.packet(), Headers::NONE);
        if headers.parse(&packet, built.family).is_err() {
            return Ok(());
        }
        let told = may_be_told(&built);
        prop_assert_eq!(icmp::may_answer(&packet, &headers), told);
        if !told {
            hits.count("nobody");
            return Ok(());
        }
        let error = error_for(reason, built.family).expect("it is told");
        let from = gateway(built.family);
        prop_assert!(icmp::answer(&packet, &headers, error, &from, mtu, &mut dirty()).is_some());
        let v4 = built.family == Family::V4;
        hits.count(if v4 { "of IPv4" } else { "of IPv6" });
        if error.carries_mtu && v4 {
            hits.count(if mtu > 65_535 { "a large MTU" } else { "of IPv4 with an MTU" });
        }
        let told = if error.carries_mtu { mtu } else { 0 };
        if v4 {
            is_v4_error(&built, error, told, &packet.bytes())
        } else {
            is_v6_error(&built, error, told, &packet.bytes())
        }
    });
}

/// The message without its checksum: type, code, MTU and what is quoted.
fn message(built: &Built, error: IcmpError, mtu: u32) -> Vec<u8> {
    let quoted = &built.bytes[14..][..(built.bytes.len() - 14).min(128)];
    [&[error.kind, error.code, 0, 0][..], &mtu.to_be_bytes(), quoted].concat()
}

/// A message with its checksum set to 0.
fn without_checksum(message: &[u8]) -> Vec<u8> {
    [&message[..2], &[0, 0], &message[4..]].concat()
}

fn is_v4_error(built: &Built, error: IcmpError, mtu: u32, out: &[u8]) -> TestCaseResult {
    let message = message(built, error, mtu.min(65_535));
    let [high, low] = (20 + message.len() as u16).to_be_bytes();
    prop_assert_eq!(out.len(), 34 + message.len());
    prop_assert_eq!(&out[..14], &[&ASKER.0[..], &TO, &[8, 0]].concat());
    prop_assert_eq!(&out[14..24], &[0x45, 0xc0, high, low, 0, 0, 0, 0, 64, 1]);
    prop_assert_eq!(&out[26..34], &[&V4[..], &built.bytes[26..30]].concat());
    prop_assert_eq!(checksum_of(&[&out[14..34]]), 0, "the header's checksum");
    prop_assert_eq!(without_checksum(&out[34..]), message);
    prop_assert_eq!(checksum_of(&[&out[34..]]), 0, "the message's checksum");
    Ok(())
}

fn is_v6_error(built: &Built, error: IcmpError, mtu: u32, out: &[u8]) -> TestCaseResult {
    let message = message(built, error, mtu);
    let [high, low] = (message.len() as u16).to_be_bytes();
    prop_assert_eq!(out.len(), 54 + message.len());
    prop_assert_eq!(&out[..14], &[&ASKER.0[..], &TO, &[0x86, 0xdd]].concat());
    prop_assert_eq!(&out[14..22], &[0x60, 0, 0, 0, high, low, 58, 64]);
    prop_assert_eq!(&out[22..54], &[&V6[..], &built.bytes[22..38]].concat());
    prop_assert_eq!(without_checksum(&out[54..]), message);
    let sum = checksum_of(&[&out[22..54], &[0, 0, high, low, 0, 0, 0, 58], &out[54..]]);
    prop_assert_eq!(sum, 0, "the message's checksum");
    Ok(())
}

#[test]
fn icmp_error_about_a_corrupted_packet_is_well_formed() {
    run(broken(), &["of IPv4", "of IPv6"], |built, hits| {
        let (packet, mut headers) = (built.packet(), Headers::NONE);
        if headers.parse(&packet, built.family).is_err() || !icmp::may_answer(&packet, &headers) {
            return Ok(());
        }
        hits.count(if built.family == Family::V4 { "of IPv4" } else { "of IPv6" });
        let error = error_for(DropReason::TooBig, built.family).expect("it is told");
        let from = gateway(built.family);
        prop_assert!(icmp::answer(&packet, &headers, error, &from, 1_400, &mut dirty()).is_some());
        let out = packet.bytes();
        prop_assert_eq!(&out[..12], &[&built.bytes[6..12], &built.bytes[..6]].concat());
        prop_assert!(etherparse::SlicedPacket::from_ip(&out[14..]).is_ok());
        Ok(())
    });
}
