//! Forwarding a packet to another node: the size check and the TTL.

use margay_common::{net::Family, verdict::DropReason};

use crate::{
    frame::{Frame, IPV6_LEN, Packet},
    headers::{Headers, TCP, UDP},
};

/// TTL, protocol and checksum of IPv4.
const TTL: usize = 8;
const HOP_LIMIT: usize = 7;
/// The length in an IPv6 header.
const PAYLOAD_LEN: usize = 4;

/// `gso_size` of a super-packet whose segments keep their original sizes (SCTP): the sender
/// itself has cut them to fit.
const GSO_BY_FRAGS: u32 = 0xffff;
/// The jumbo header that IPv6 super-packets above 64 KiB carry and their segments do not.
const JUMBO_LEN: u32 = 8;

/// Decrements the TTL or hop limit. An IPv4 header's checksum is one's complement arithmetic,
/// so it grows by as much as the TTL's half-word shrinks (RFC 1141).
///
/// # Errors
///
/// The TTL has run out.
#[inline(always)]
pub fn decrement_ttl<F: Frame>(frame: &F, headers: &Headers) -> Result<(), DropReason> {
    if headers.ttl <= 1 {
        return Err(DropReason::TtlExceeded);
    }
    let written = match headers.family {
        Family::V6 => frame.set(F::L3 + HOP_LIMIT, headers.ttl - 1),
        Family::V4 => frame.get(F::L3 + TTL).and_then(|word: u32| {
            let [ttl, proto, high, low] = word.to_ne_bytes();
            let sum = u32::from(u16::from_ne_bytes([high, low])) + u32::from(0x0100_u16.to_be());
            let [high, low] = ((sum + (sum >> 16)) as u16).to_ne_bytes();
            frame.set(F::L3 + TTL, u32::from_ne_bytes([ttl.wrapping_sub(1), proto, high, low]))
        }),
    };
    written.ok_or(DropReason::Malformed)
}

/// Refuses a packet that is larger than `mtu` bytes without its link header. A super-packet is
/// measured by the size of its segments.
///
/// # Errors
///
/// The packet is too big.
#[inline(always)]
pub fn check_size<P: Packet>(packet: &P, headers: &Headers, mtu: u32) -> Result<(), DropReason> {
    if packet.l3_len() <= mtu {
        return Ok(());
    }
    let gso_size = packet.gso_size();
    if gso_size == GSO_BY_FRAGS {
        return Ok(());
    }
    if gso_size != 0 && segment_len(packet, headers, gso_size) <= mtu {
        return Ok(());
    }
    Err(DropReason::TooBig)
}

/// Length of one segment of a super-packet with its own IP header, bytes.
#[inline(always)]
fn segment_len<P: Packet>(packet: &P, headers: &Headers, gso_size: u32) -> u32 {
    let l4_len = match headers.proto {
        TCP => packet.load::<u8>(headers.l4 + 12).map_or(60, |offset| u32::from(offset >> 4) * 4),
        UDP => 8,
        _ => 0,
    };
    let jumbo = headers.family == Family::V6
        && headers.l4 > P::L3 + IPV6_LEN
        && packet.get::<u16>(P::L3 + PAYLOAD_LEN) == Some(0);
    gso_size + (headers.l4 - P::L3) as u32 + l4_len - if jumbo { JUMBO_LEN } else { 0 }
}
