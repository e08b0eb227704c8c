//! IPv4 and IPv6 headers: one view of both.

use core::sync::atomic::{Ordering, compiler_fence};

use margay_common::{
    net::{Addr, Family},
    verdict::DropReason,
};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::{
    maps::Cursor,
    packet::{Bytes, ETH_LEN, IPV4_LEN, IPV6_LEN, Packet},
};

/// ICMP in the protocol field.
pub const ICMP: u8 = 1;
/// TCP.
pub const TCP: u8 = 6;
/// UDP.
pub const UDP: u8 = 17;
/// ICMPv6 in the next header field.
pub const ICMPV6: u8 = 58;

/// TTL, protocol and checksum of IPv4.
const TTL_OFFSET: usize = ETH_LEN + 8;
const HOP_LIMIT_OFFSET: usize = ETH_LEN + 7;

/// IPv6 extension headers that a packet may have; more are malformed.
const EXTENSIONS_MAX: usize = 6;

/// What the programs want to know of an IP header.
#[derive(Clone, Copy)]
pub struct Ip {
    /// IPv4 or IPv6.
    pub family: Family,
    /// Source.
    pub src: Addr,
    /// Destination.
    pub dst: Addr,
    /// TTL or hop limit.
    pub ttl: u8,
    /// The protocol behind the IP header and all extensions.
    pub proto: u8,
    /// Where that protocol's header starts in the frame.
    pub l4: usize,
    /// The half-word of IPv4 that tells of fragments, host byte order. Of IPv6 only
    /// whether it is one: [`MORE_FRAGMENTS`] for any, [`SOME_OFFSET`] for a later one.
    fragment: u16,
}

/// Where IPv4 says that more fragments follow, and where its fragment begins.
const MORE_FRAGMENTS: u16 = 0x2000;
const FRAGMENT_OFFSET: u16 = 0x1fff;
/// An offset other than zero.
const SOME_OFFSET: u16 = 0x1000;

/// IPv4, RFC 791, without options.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct Ipv4Header {
    version_ihl: u8,
    tos: u8,
    total_len: u16,
    id: u16,
    fragment: u16,
    ttl: u8,
    proto: u8,
    checksum: u16,
    src: u32,
    dst: u32,
}

/// IPv6, RFC 8200.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct Ipv6Header {
    version_class: u8,
    class_flow: u8,
    flow: u16,
    payload_len: u16,
    next: u8,
    hop_limit: u8,
    src: Addr,
    dst: Addr,
}

impl Ipv4Header {
    #[inline(always)]
    fn view(&self, header_len: usize) -> Ip {
        Ip {
            family: Family::V4,
            src: Addr::from_v4_word(self.src),
            dst: Addr::from_v4_word(self.dst),
            ttl: self.ttl,
            proto: self.proto,
            l4: ETH_LEN + header_len,
            fragment: u16::from_be(self.fragment),
        }
    }
}

impl Ipv6Header {
    #[inline(always)]
    fn view(&self) -> Ip {
        Ip {
            family: Family::V6,
            src: self.src,
            dst: self.dst,
            ttl: self.hop_limit,
            proto: self.next,
            l4: ETH_LEN + IPV6_LEN,
            fragment: 0,
        }
    }
}

impl Ip {
    /// No header yet.
    pub const NONE: Self = Self {
        family: Family::V4,
        src: Addr::UNSPECIFIED,
        dst: Addr::UNSPECIFIED,
        ttl: 0,
        proto: 0,
        l4: 0,
        fragment: 0,
    };

    /// Whether the packet is any fragment.
    #[inline(always)]
    pub const fn is_fragment(&self) -> bool {
        self.fragment & (MORE_FRAGMENTS | FRAGMENT_OFFSET) != 0
    }

    /// Whether the packet is a fragment other than the first, so that no header of its
    /// protocol is there.
    #[inline(always)]
    pub const fn is_later_fragment(&self) -> bool {
        self.fragment & FRAGMENT_OFFSET != 0
    }

    /// Reads the header of a packet of that family into a place in memory. LLVM carries
    /// every field of a value along, in ten registers, and moves the others to and from the
    /// stack at every turn: a quarter of all that `from_workload` did for a packet. The fence
    /// keeps it from doing so with what it has just written to memory that it does not see
    /// through; it is a hint alone, and nothing else rests on it.
    #[inline(always)]
    pub fn parse<'p>(
        packet: &Packet<'_>,
        family: Family,
        place: &'p mut Self,
    ) -> Result<&'p Self, DropReason> {
        match family {
            Family::V4 => parse_v4(packet, place)?,
            Family::V6 => parse_v6(packet, place)?,
        }
        compiler_fence(Ordering::SeqCst);
        Ok(place)
    }

    /// Reads a header that has neither options nor extensions, of a frame with `l3_len`
    /// bytes behind the link header. None if it takes a closer look: options,
    /// extensions, and the length that only a super-packet has. Fails if it
    /// contradicts itself or its frame.
    #[inline(always)]
    pub fn parse_plain<B: Bytes>(frame: &B, family: Family, l3_len: u32) -> Result<Option<Self>, DropReason> {
        match family {
            Family::V4 => {
                let Some(header) = frame.read::<Ipv4Header>(ETH_LEN) else { return Ok(None) };
                let total_len = u32::from(u16::from_be(header.total_len));
                let header_len = u32::from(header.version_ihl & 0xf) * 4;
                let wrong = header.version_ihl >> 4 != 4 || header_len < IPV4_LEN as u32;
                if wrong || total_len > l3_len || (total_len != 0 && total_len < header_len) {
                    return Err(DropReason::Malformed);
                }
                let plain = header_len == IPV4_LEN as u32 && total_len != 0;
                Ok(plain.then(|| header.view(IPV4_LEN)))
            }
            Family::V6 => {
                let Some(header) = frame.read::<Ipv6Header>(ETH_LEN) else { return Ok(None) };
                let payload_len = u32::from(u16::from_be(header.payload_len));
                let mapped = header.src.is_v4() || header.dst.is_v4();
                if header.version_class >> 4 != 6 || mapped || payload_len + IPV6_LEN as u32 > l3_len {
                    return Err(DropReason::Malformed);
                }
                Ok((!is_extension(header.next)).then(|| header.view()))
            }
        }
    }

    /// The destination alone, of a packet that may be broken otherwise.
    #[inline(always)]
    pub fn destination<B: Bytes>(frame: &B, family: Family) -> Option<Addr> {
        match family {
            Family::V4 => frame.read::<Ipv4Header>(ETH_LEN).map(|h| Addr::from_v4_word(h.dst)),
            Family::V6 => frame.read::<Ipv6Header>(ETH_LEN).map(|h| h.dst),
        }
    }

    /// The source alone, of a packet of which nothing else is known.
    #[inline(always)]
    pub fn source<B: Bytes>(frame: &B, family: Family) -> Option<Addr> {
        match family {
            Family::V4 => {
                frame.pull(ETH_LEN + IPV4_LEN);
                frame.read::<Ipv4Header>(ETH_LEN).map(|h| Addr::from_v4_word(h.src))
            }
            Family::V6 => {
                frame.pull(ETH_LEN + IPV6_LEN);
                frame.read::<Ipv6Header>(ETH_LEN).map(|h| h.src)
            }
        }
    }

    /// The type field where this is ICMP of the packet's family.
    #[inline(always)]
    pub fn icmp_type(&self, packet: &Packet<'_>) -> Option<u8> {
        let icmp = match self.family {
            Family::V4 => ICMP,
            Family::V6 => ICMPV6,
        };
        if self.proto != icmp || self.is_later_fragment() {
            return None;
        }
        packet.load(self.l4)
    }
}

#[inline(always)]
fn parse_v4(packet: &Packet<'_>, place: &mut Ip) -> Result<(), DropReason> {
    packet.pull(ETH_LEN + IPV4_LEN);
    let header: Ipv4Header = packet.read(ETH_LEN).ok_or(DropReason::Malformed)?;
    let header_len = usize::from(header.version_ihl & 0xf) * 4;
    *place = header.view(header_len);
    let total_len = u32::from(u16::from_be(header.total_len));
    // Only a super-packet above 64 KiB says 0.
    let truncated = match total_len {
        0 => packet.gso_size() == 0,
        len => len > packet.l3_len() || len < header_len as u32,
    };
    if header.version_ihl >> 4 != 4 || header_len < IPV4_LEN || truncated {
        return Err(DropReason::Malformed);
    }
    if header_len > IPV4_LEN {
        check_options(packet, header_len - IPV4_LEN)?;
    }
    Ok(())
}

/// IPv4 options.
const END: u8 = 0;
const NO_OPERATION: u8 = 1;
const LOOSE_ROUTE: u8 = 131;
const STRICT_ROUTE: u8 = 137;
/// The longest options that an IPv4 header can have.
const OPTIONS_MAX: usize = 40;

/// Refuses loose and strict source routing (RFC 791 section 3.1, RFC 7126
/// section 4.3); other options do no harm here.
#[inline(never)]
fn check_options(packet: &Packet<'_>, len: usize) -> Result<(), DropReason> {
    let cursor = Cursor::new(0, len as u32).ok_or(DropReason::Malformed)?;
    for at in 0..OPTIONS_MAX as u32 {
        if at != cursor.at() || at >= cursor.end() {
            continue;
        }
        let offset = ETH_LEN + IPV4_LEN + at as usize;
        let kind: u8 = packet.load(offset).ok_or(DropReason::Malformed)?;
        if kind == END {
            break;
        }
        if kind == NO_OPERATION {
            cursor.set(at + 1);
            continue;
        }
        if kind == LOOSE_ROUTE || kind == STRICT_ROUTE {
            return Err(DropReason::SourceRoute);
        }
        let size: u8 = packet.load(offset + 1).ok_or(DropReason::Malformed)?;
        let next = at + u32::from(size);
        if size < 2 || next > cursor.end() {
            return Err(DropReason::Malformed);
        }
        cursor.set(next);
    }
    Ok(())
}

#[inline(always)]
fn parse_v6(packet: &Packet<'_>, place: &mut Ip) -> Result<(), DropReason> {
    packet.pull(ETH_LEN + IPV6_LEN);
    let header: Ipv6Header = packet.read(ETH_LEN).ok_or(DropReason::Malformed)?;
    *place = header.view();
    let payload_len = u32::from(u16::from_be(header.payload_len));
    // A super-packet above 64 KiB says 0.
    let truncated = payload_len != 0 && payload_len + IPV6_LEN as u32 > packet.l3_len();
    // IPv4-mapped addresses have no place on a wire (RFC 4291 section 2.5.5.2),
    // and in the maps they are IPv4.
    let mapped = header.src.is_v4() || header.dst.is_v4();
    let wrong_super_packet = payload_len == 0 && header.next == HOP_BY_HOP && packet.gso_size() == 0;
    if header.version_class >> 4 != 6 || truncated || mapped || wrong_super_packet {
        return Err(DropReason::Malformed);
    }
    if is_extension(header.next) {
        let walked = walk_extensions(packet, header.next)?;
        place.proto = walked as u8;
        place.l4 = (walked >> 8) as usize & 0xffff;
        place.fragment = (walked >> 12) as u16 & (MORE_FRAGMENTS | SOME_OFFSET);
    }
    Ok(())
}

/// Hop-by-hop, routing and fragment headers.
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
/// What `walk_extensions` found, twelve bits above where a header has it.
const FRAGMENTED: u32 = (MORE_FRAGMENTS as u32) << 12;
const LATER_FRAGMENT: u32 = (SOME_OFFSET as u32) << 12;

#[inline(always)]
const fn is_extension(next: u8) -> bool {
    // Hop-by-hop, routing, fragment, destination options. An authentication
    // header counts as the protocol: nothing behind it concerns us.
    matches!(next, HOP_BY_HOP | ROUTING | FRAGMENT | 60)
}

/// Steps over the extension headers. The result is packed, since a function
/// of its own may return one register: protocol, offset, fragment flags.
#[inline(never)]
fn walk_extensions(packet: &Packet<'_>, first: u8) -> Result<u32, DropReason> {
    let (mut next, mut at, mut flags) = (first, ETH_LEN + IPV6_LEN, 0);
    for _ in 0..EXTENSIONS_MAX {
        let header: [u8; 4] = packet.load(at).ok_or(DropReason::Malformed)?;
        let mut units = usize::from(header[1]);
        if next == ROUTING && header[2] == 0 {
            return Err(DropReason::SourceRoute);
        }
        if next == FRAGMENT {
            units = 0;
            flags |= FRAGMENTED;
            if u16::from_be_bytes([header[2], header[3]]) & 0xfff8 != 0 {
                flags |= LATER_FRAGMENT;
            }
        }
        next = header[0];
        at += (units + 1) * 8;
        if !is_extension(next) || flags & LATER_FRAGMENT != 0 {
            return Ok(u32::from(next) | (at as u32) << 8 | flags);
        }
    }
    Err(DropReason::Malformed)
}

/// Takes one off the TTL or hop limit. An IPv4 header's checksum is one's
/// complement arithmetic, so it grows by what the TTL's half-word lost
/// (RFC 1141).
#[inline(always)]
pub fn decrement_ttl<B: Bytes>(packet: &B, ip: &Ip) -> Result<(), DropReason> {
    if ip.ttl <= 1 {
        return Err(DropReason::TtlExceeded);
    }
    let written = match ip.family {
        Family::V6 => packet.write(HOP_LIMIT_OFFSET, ip.ttl - 1),
        Family::V4 => packet.update(TTL_OFFSET, |word: u32| {
            let [ttl, proto, high, low] = word.to_ne_bytes();
            let sum = u32::from(u16::from_ne_bytes([high, low])) + u32::from(0x0100_u16.to_be());
            let [high, low] = ((sum + (sum >> 16)) as u16).to_ne_bytes();
            u32::from_ne_bytes([ttl - 1, proto, high, low])
        }),
    };
    written.ok_or(DropReason::Malformed)
}

/// Refuses a packet that is larger than `mtu`. A super-packet is as large as
/// its segments will be.
#[inline(always)]
pub fn check_size(packet: &Packet<'_>, ip: &Ip, mtu: u32) -> Result<(), DropReason> {
    if packet.l3_len() <= mtu {
        return Ok(());
    }
    let gso_size = packet.gso_size();
    if gso_size == GSO_BY_FRAGS {
        return Ok(());
    }
    if gso_size != 0 && segment_len(packet, ip, gso_size) <= mtu {
        return Ok(());
    }
    Err(DropReason::TooBig)
}

/// `gso_size` of a super-packet whose segments are as large as they came
/// (SCTP): their own sender has cut them to fit.
const GSO_BY_FRAGS: u32 = 0xffff;
/// The jumbo header that IPv6 super-packets above 64 KiB carry and their
/// segments do not.
const JUMBO_LEN: u32 = 8;
/// The length in an IPv6 header.
const PAYLOAD_LEN_OFFSET: usize = ETH_LEN + 4;

/// Length of one segment of a super-packet with its own IP header.
#[inline(always)]
fn segment_len(packet: &Packet<'_>, ip: &Ip, gso_size: u32) -> u32 {
    let l4_len = match ip.proto {
        TCP => packet.load::<u8>(ip.l4 + 12).map_or(60, |offset| u32::from(offset >> 4) * 4),
        UDP => 8,
        _ => 0,
    };
    let jumbo = ip.family == Family::V6
        && ip.l4 > ETH_LEN + IPV6_LEN
        && packet.read::<u16>(PAYLOAD_LEN_OFFSET) == Some(0);
    gso_size + (ip.l4 - ETH_LEN) as u32 + l4_len - if jumbo { JUMBO_LEN } else { 0 }
}
