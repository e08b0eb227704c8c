//! Echo (RFC 792, RFC 4443 section 4.1) for the gateway's own address.

use margay_common::{
    net::{Family, GATEWAY_MAC},
    verdict::DropReason,
};

use crate::{
    checksum,
    frame::{IPV4_LEN, IPV6_LEN, Packet},
    headers::{Headers, V4_ADDRESSES, V6_ADDRESSES},
};

/// The types of a request and its reply, and the length of the IP header before them.
#[inline(always)]
const fn kinds(family: Family) -> (u8, u8, usize) {
    match family {
        Family::V4 => (8, 0, IPV4_LEN),
        Family::V6 => (128, 129, IPV6_LEN),
    }
}

/// Whether a packet is an echo request that can be answered: no fragment and not behind
/// options, since the gateway does not reassemble.
#[inline(always)]
pub fn is_request<P: Packet>(packet: &P, headers: &Headers) -> bool {
    let (request, _, len) = kinds(headers.family);
    !headers.is_fragment() && headers.l4 == P::L3 + len && headers.icmp_type(packet) == Some(request)
}

/// Turns an echo request into its reply, in place, addressed to the MAC that it came from.
///
/// # Errors
///
/// The request is cut off.
#[inline(always)]
pub fn answer<P: Packet>(packet: &P, headers: &Headers) -> Result<(), DropReason> {
    let (_, reply, _) = kinds(headers.family);
    turn(packet, headers, reply).ok_or(DropReason::Malformed)
}

#[inline(always)]
fn turn<P: Packet>(packet: &P, headers: &Headers, reply: u8) -> Option<()> {
    packet.pull(headers.l4 + 4);
    // To the interface that asked, which need not be the one that the source address
    // belongs to.
    let asker = packet.ethernet()?.src;
    match headers.family {
        Family::V4 => {
            turn_at(packet, P::L3 + IPV4_LEN, reply)?;
            packet.set(P::L3 + V4_ADDRESSES, headers.dst.v4_word())?;
            packet.set(P::L3 + V4_ADDRESSES + 4, headers.src.v4_word())?;
        }
        Family::V6 => {
            turn_at(packet, P::L3 + IPV6_LEN, reply)?;
            packet.set(P::L3 + V6_ADDRESSES, headers.dst)?;
            packet.set(P::L3 + V6_ADDRESSES + 16, headers.src)?;
        }
    }
    packet.set_macs(asker, GATEWAY_MAC.word())
}

/// Changes type and checksum. Swapping the addresses leaves both checksums as they are.
#[inline(always)]
fn turn_at<P: Packet>(packet: &P, l4: usize, reply: u8) -> Option<()> {
    let kind = u16::from_be(packet.get(l4)?);
    let sum = u16::from_be(packet.get(l4 + 2)?);
    let answer = kind & 0xff | u16::from(reply) << 8;
    packet.set(l4, answer.to_be())?;
    packet.set(l4 + 2, checksum::replaced(sum, kind, answer).to_be())
}
