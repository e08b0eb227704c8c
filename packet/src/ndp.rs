//! Neighbour discovery (RFC 4861) from an endpoint: the gateway is the only neighbour.

use margay_common::{
    net::{Addr, GATEWAY_MAC, MacWord},
    verdict::DropReason,
};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::{
    checksum,
    frame::{IPV6, IPV6_LEN, Packet},
    headers::{Headers, ICMPV6, is_link_local},
};

const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;
/// Router, solicited, override.
const FLAGS: u32 = 0xe000_0000_u32.to_be();
/// The option with the target's link-layer address: 2, one unit of 8 bytes, the MAC.
const TARGET_MAC: u64 = {
    let [a, b, c, d, e, f] = GATEWAY_MAC.0;
    u64::from_ne_bytes([2, 1, a, b, c, d, e, f])
};
/// Neighbour discovery is valid with this hop limit only.
const HOP_LIMIT: u8 = 255;

/// The message behind the IPv6 header, options left out.
#[derive(Clone, Copy, Default, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct Message {
    kind: u8,
    code: u8,
    checksum: u16,
    flags: u32,
    target: Addr,
}

/// An advertisement with its IPv6 header. While the checksum is computed, the pseudo header is
/// in the place of the IPv6 header.
#[derive(Clone, Copy, IntoBytes, Immutable)]
#[repr(C)]
struct Advertisement {
    ip: [u64; 5],
    message: Message,
    option: u64,
}

const LEN: usize = size_of::<Advertisement>();
const PAYLOAD_LEN: u16 = (LEN - IPV6_LEN) as u16;

/// Whether a message is neighbour discovery: router solicitation to redirect.
#[inline(always)]
pub const fn is_ndp(kind: u8) -> bool {
    matches!(kind, 133..=137)
}

/// Answers a solicitation for the gateway; all other discovery is dropped. `owns` says whether
/// the container behind `mac` may use an address. The kernel's probes have link-local sources.
///
/// # Errors
///
/// The message is no solicitation for the gateway, or forges its sender.
#[inline(always)]
pub fn answer<P: Packet>(
    packet: &P,
    headers: &Headers,
    mac: MacWord,
    gateway: &Addr,
    owns: impl FnOnce(&Addr) -> bool,
) -> Result<(), DropReason> {
    let message: Message = packet.load(headers.l4).ok_or(DropReason::Malformed)?;
    let ours = message.kind == SOLICITATION && message.target == *gateway;
    // Duplicate address detection has no source and wants no answer.
    if !ours || headers.src.is_unspecified() {
        return Err(DropReason::Neighbour);
    }
    if headers.ttl != HOP_LIMIT || message.code != 0 {
        return Err(DropReason::Malformed);
    }
    if !is_link_local(&headers.src) && !owns(&headers.src) {
        return Err(DropReason::SpoofedSource);
    }
    write(packet, headers, mac, gateway).ok_or(DropReason::Malformed)
}

/// Turns a solicitation into the advertisement that answers it.
#[inline(always)]
fn write<P: Packet>(packet: &P, headers: &Headers, mac: MacWord, gateway: &Addr) -> Option<()> {
    let mut reply = Advertisement {
        ip: pseudo_header(gateway, &headers.src, PAYLOAD_LEN.into()),
        message: Message { kind: ADVERTISEMENT, code: 0, checksum: 0, flags: FLAGS, target: *gateway },
        option: TARGET_MAC,
    };
    let bytes: &[u8; LEN] = zerocopy::transmute_ref!(&reply);
    reply.message.checksum = checksum::finish(packet.sum(bytes));
    reply.ip = ip_header(gateway, &headers.src, PAYLOAD_LEN, HOP_LIMIT);
    packet.renew(P::L3 + LEN)?;
    packet.store::<LEN>(P::L3, zerocopy::transmute_ref!(&reply))?;
    packet.set_macs(mac, GATEWAY_MAC.word())?;
    packet.set(12, IPV6)
}

/// The pseudo header that an ICMPv6 checksum covers (RFC 8200 section 8.1).
#[inline(always)]
pub(crate) fn pseudo_header(src: &Addr, dst: &Addr, len: u32) -> [u64; 5] {
    let last: u64 = zerocopy::transmute!([len.to_be(), u32::from(ICMPV6).to_be()]);
    [src.0[0], src.0[1], dst.0[0], dst.0[1], last]
}

/// The header of an ICMPv6 message (RFC 8200 section 3).
#[inline(always)]
pub(crate) fn ip_header(src: &Addr, dst: &Addr, payload_len: u16, hop_limit: u8) -> [u64; 5] {
    let [high, low] = payload_len.to_be_bytes();
    let first = u64::from_ne_bytes([0x60, 0, 0, 0, high, low, ICMPV6, hop_limit]);
    [first, src.0[0], src.0[1], dst.0[0], dst.0[1]]
}
