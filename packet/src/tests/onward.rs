//! Size check and TTL of forwarded packets.

use margay_common::{net::Family, verdict::DropReason};
use proptest::prelude::*;

use super::{
    frames::{Built, built},
    run,
};
use crate::{Headers, check_size, checksum, decrement_ttl};

#[test]
fn ttl_decrement_changes_ttl_and_checksum_only() {
    run(built(), &["IPv4", "IPv6", "run out"], |built, hits| {
        let (packet, mut headers) = (built.packet(), Headers::NONE);
        if headers.parse(&packet, built.family).is_err() {
            return Ok(());
        }
        let v4 = built.family == Family::V4;
        let (mut expected, ttl) = (built.bytes.clone(), if v4 { 22 } else { 21 });
        if expected[ttl] <= 1 {
            hits.count("run out");
            prop_assert_eq!(decrement_ttl(&packet, &headers), Err(DropReason::TtlExceeded));
            prop_assert_eq!(packet.bytes(), expected);
            return Ok(());
        }
        hits.count(if v4 { "IPv4" } else { "IPv6" });
        prop_assert_eq!(decrement_ttl(&packet, &headers), Ok(()));
        expected[ttl] -= 1;
        if v4 {
            let word = |bytes: &[u8], at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
            let told = word(&built.bytes, 24);
            let right = checksum::replaced(told, word(&built.bytes, 22), word(&expected, 22));
            let after = word(&packet.bytes(), 24);
            // Zero can be written in two ways.
            prop_assert!(after == right || [after, right] == [0, 0xffff] || [after, right] == [0xffff, 0]);
            expected[24..26].copy_from_slice(&after.to_be_bytes());
        }
        prop_assert_eq!(packet.bytes(), expected);
        Ok(())
    });
}

/// Bytes of the largest packet that a super-packet becomes, or of the packet.
fn largest(built: &Built) -> usize {
    let known = built.known.as_ref().expect("it is in order");
    let frame = built.bytes.len() - 14;
    let l4 = match known.proto {
        6 => built.bytes.get(known.l4 + 12).map_or(60, |offset| usize::from(offset >> 4) * 4),
        17 => 8,
        _ => 0,
    };
    let jumbo = built.family == Family::V6 && !known.plain && built.bytes[18..20] == [0, 0];
    match built.gso {
        0 => frame,
        // SCTP: as large as they came.
        0xffff => 0,
        gso => frame.min(gso as usize + known.l4 - 14 + l4 - if jumbo { 8 } else { 0 }),
    }
}

#[test]
fn packet_fits_if_it_is_no_larger_than_the_mtu() {
    run((built(), 0_u32..3), &["plain", "segments", "as they came"], |(built, more), hits| {
        let (packet, mut headers) = (built.packet(), Headers::NONE);
        if headers.parse(&packet, built.family).is_err() {
            return Ok(());
        }
        hits.count(match built.gso {
            0 => "plain",
            0xffff => "as they came",
            _ => "segments",
        });
        let largest = largest(&built) as u32;
        let mtu = (largest + more).saturating_sub(1);
        let fits = if largest <= mtu { Ok(()) } else { Err(DropReason::TooBig) };
        prop_assert_eq!(check_size(&packet, &headers, mtu), fits);
        Ok(())
    });
}
