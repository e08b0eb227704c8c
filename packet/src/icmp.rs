//! ICMP (RFC 792) and ICMPv6 (RFC 4443) errors about dropped packets. Traceroute and path-MTU
//! discovery need them.

use margay_common::{
    icmp::{IcmpError, QUOTE_MAX, is_error},
    net::{Addr, Family},
};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::{
    checksum,
    frame::{IPV4_LEN, IPV6_LEN, Packet, Part},
    headers::{Headers, ICMP},
    ndp::{ip_header, pseudo_header},
};

const ICMP_LEN: usize = 8;
/// Low-delay class of network control, as routers mark their errors (RFC 1812 section
/// 4.3.2.5).
const TOS: u8 = 0xc0;
const TTL: u8 = 64;

/// Bytes of the longest error behind the link header: ICMPv6 with its quote.
pub const LONGEST: usize = size_of::<Draft>();

/// An error under construction. ICMPv6 first has the pseudo header in the place of the IP
/// header, since the checksum covers it; IPv4 has none, and its shorter header ends there.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Draft {
    ip: [u64; 5],
    icmp: [u64; 1],
    /// Zero behind the end of the quote.
    quote: [u8; QUOTE_MAX],
}

impl Default for Draft {
    fn default() -> Self {
        Self { ip: [0; 5], icmp: [0], quote: [0; QUOTE_MAX] }
    }
}

/// Whether a sender may get an error. RFC 1122 section 3.2.2 and RFC 4443 section 2.4: no
/// error about an error, about a fragment other than the first, or to a sender that is no
/// single host. Packets to multicast are dropped without an error.
#[inline(always)]
pub fn may_answer<P: Packet>(packet: &P, headers: &Headers) -> bool {
    let single = match headers.family {
        Family::V4 => {
            let first = headers.src.v4_word().to_ne_bytes()[0];
            first != 0 && first != 127 && first < 224
        }
        Family::V6 => !headers.src.is_unspecified() && !headers.src.is_multicast_v6(),
    };
    if !single || headers.is_later_fragment() {
        return false;
    }
    match headers.icmp_type(packet) {
        Some(kind) => !is_error(kind, headers.family),
        None => true,
    }
}

/// Replaces a packet by the error about it, from `gateway` to the packet's sender, with `mtu`
/// if this error carries one.
#[inline(always)]
pub fn answer<P: Packet>(
    packet: &P,
    headers: &Headers,
    error: IcmpError,
    gateway: &Addr,
    mtu: u32,
    draft: &mut Draft,
) -> Option<()> {
    let ethernet = packet.ethernet()?;
    let quote = Part::of(packet.l3_len());
    let len = ICMP_LEN as u16 + quote.get() as u16;
    let told = match headers.family {
        _ if !error.carries_mtu => 0,
        // The field has 16 bits (RFC 1191 section 4).
        Family::V4 => mtu.min(u16::MAX.into()),
        Family::V6 => mtu,
    };
    let [a, b, c, d] = told.to_be_bytes();
    draft.icmp = [u64::from_ne_bytes([error.kind, error.code, 0, 0, a, b, c, d])];
    draft.ip = match headers.family {
        Family::V4 => [0; 5],
        Family::V6 => pseudo_header(gateway, &headers.src, len.into()),
    };
    draft.quote = [0; QUOTE_MAX];
    packet.load_part(P::L3, &mut draft.quote, quote)?;
    let sum = checksum::finish(packet.sum::<LONGEST>(zerocopy::transmute_ref!(&*draft)));
    let [low, high] = sum.to_ne_bytes();
    draft.icmp[0] |= u64::from_ne_bytes([0, 0, low, high, 0, 0, 0, 0]);
    match headers.family {
        Family::V4 => write_v4(packet, headers, gateway, draft, quote)?,
        Family::V6 => write_v6(packet, headers, gateway, draft, quote)?,
    }
    packet.set_macs(ethernet.src, ethernet.dst)
}

#[inline(always)]
fn write_v6<P: Packet>(
    packet: &P,
    headers: &Headers,
    gateway: &Addr,
    draft: &Draft,
    quote: Part<QUOTE_MAX>,
) -> Option<()> {
    let len = ICMP_LEN as u16 + quote.get() as u16;
    let ip = ip_header(gateway, &headers.src, len, TTL);
    let head: [u8; IPV6_LEN + ICMP_LEN] =
        zerocopy::transmute!([ip[0], ip[1], ip[2], ip[3], ip[4], draft.icmp[0]]);
    packet.renew(P::L3 + head.len() + quote.get() as usize)?;
    packet.store(P::L3, &head)?;
    packet.store_part(P::L3 + head.len(), &draft.quote, quote)
}

/// The header of an error of IPv4, behind padding that aligns it.
#[derive(Clone, Copy, IntoBytes, Immutable)]
#[repr(C)]
struct HeadersV4 {
    padding: u32,
    version: u32,
    id: u32,
    ttl: u32,
    addresses: [u32; 2],
    icmp: [u64; 1],
}

const PADDING: usize = size_of::<u32>();
const V4_LEN: usize = size_of::<HeadersV4>() - PADDING;

#[inline(always)]
fn write_v4<P: Packet>(
    packet: &P,
    headers: &Headers,
    gateway: &Addr,
    draft: &Draft,
    quote: Part<QUOTE_MAX>,
) -> Option<()> {
    let total_len = (IPV4_LEN + ICMP_LEN) as u16 + quote.get() as u16;
    let [high, low] = total_len.to_be_bytes();
    let mut head = HeadersV4 {
        padding: 0,
        version: u32::from_ne_bytes([0x45, TOS, high, low]),
        id: 0,
        ttl: u32::from_ne_bytes([TTL, ICMP, 0, 0]),
        addresses: [gateway.v4_word(), headers.src.v4_word()],
        icmp: [0],
    };
    // The ICMP header is zero meanwhile, so it adds nothing.
    let [a, b] =
        checksum::finish(packet.sum::<{ V4_LEN + PADDING }>(zerocopy::transmute_ref!(&head))).to_ne_bytes();
    head.ttl |= u32::from_ne_bytes([0, 0, a, b]);
    head.icmp = draft.icmp;
    let head: [u8; V4_LEN + PADDING] = zerocopy::transmute!(head);
    packet.renew(P::L3 + V4_LEN + quote.get() as usize)?;
    packet.store_behind::<{ V4_LEN + PADDING }, PADDING>(P::L3, &head)?;
    packet.store_part(P::L3 + V4_LEN, &draft.quote, quote)
}
