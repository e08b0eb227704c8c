//! IPv4 and IPv6 headers: one view of both.

use core::sync::atomic::{Ordering, compiler_fence};

use margay_common::{
    net::{Addr, Family},
    verdict::DropReason,
};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::{
    frame::{Frame, IPV4_LEN, IPV6_LEN, Packet, mapped},
    walk::{is_extension, is_hop_by_hop},
};

/// ICMP in the protocol field.
pub const ICMP: u8 = 1;
/// TCP.
pub const TCP: u8 = 6;
/// UDP.
pub const UDP: u8 = 17;
/// ICMPv6 in the next header field.
pub const ICMPV6: u8 = 58;

/// Where IPv4 says that more fragments follow, and where its fragment begins.
pub(crate) const MORE_FRAGMENTS: u16 = 0x2000;
const FRAGMENT_OFFSET: u16 = 0x1fff;
/// An offset other than zero.
pub(crate) const SOME_OFFSET: u16 = 0x1000;

/// What the programs know of a packet's headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Headers {
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
    /// Where that protocol's header starts in the frame, bytes.
    pub l4: usize,
    /// The half-word of IPv4 with flags and fragment offset, host byte order. For IPv6 only
    /// whether it is a fragment: [`MORE_FRAGMENTS`] for any, [`SOME_OFFSET`] for a later one.
    fragment: u16,
}

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
    fn view(&self, l4: usize) -> Headers {
        Headers {
            family: Family::V4,
            src: Addr::from_v4_word(self.src),
            dst: Addr::from_v4_word(self.dst),
            ttl: self.ttl,
            proto: self.proto,
            l4,
            fragment: u16::from_be(self.fragment),
        }
    }
}

impl Ipv6Header {
    #[inline(always)]
    fn view(&self, l4: usize) -> Headers {
        Headers {
            family: Family::V6,
            src: self.src,
            dst: self.dst,
            ttl: self.hop_limit,
            proto: self.next,
            l4,
            fragment: 0,
        }
    }
}

impl Headers {
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

    /// Reads the header of a packet of that family. The caller hides the address of `self` from
    /// LLVM. Otherwise LLVM would keep every field in one of ten registers, and spill the rest to
    /// the stack at every branch. The fence keeps LLVM from doing so with the fields just
    /// written; it is only a hint, and correctness does not depend on it.
    ///
    /// # Errors
    ///
    /// The header is cut off, contradicts itself or its frame, or asks for a source route.
    #[inline(always)]
    pub fn parse<P: Packet>(&mut self, packet: &P, family: Family) -> Result<(), DropReason> {
        match family {
            Family::V4 => self.parse_v4(packet)?,
            Family::V6 => self.parse_v6(packet)?,
        }
        compiler_fence(Ordering::SeqCst);
        Ok(())
    }

    #[inline(always)]
    fn parse_v4<P: Packet>(&mut self, packet: &P) -> Result<(), DropReason> {
        packet.pull(P::L3 + IPV4_LEN);
        let header: Ipv4Header = packet.get(P::L3).ok_or(DropReason::Malformed)?;
        let header_len = usize::from(header.version_ihl & 0xf) * 4;
        *self = header.view(P::L3 + header_len);
        let total_len = u32::from(u16::from_be(header.total_len));
        // Only a super-packet above 64 KiB has length 0.
        let truncated = match total_len {
            0 => packet.gso_size() == 0,
            len => len > packet.l3_len() || len < header_len as u32,
        };
        if header.version_ihl >> 4 != 4 || header_len < IPV4_LEN || truncated {
            return Err(DropReason::Malformed);
        }
        if header_len > IPV4_LEN {
            packet.options((header_len - IPV4_LEN) as u32).check()?;
        }
        Ok(())
    }

    #[inline(always)]
    fn parse_v6<P: Packet>(&mut self, packet: &P) -> Result<(), DropReason> {
        packet.pull(P::L3 + IPV6_LEN);
        let header: Ipv6Header = packet.get(P::L3).ok_or(DropReason::Malformed)?;
        *self = header.view(P::L3 + IPV6_LEN);
        let payload_len = u32::from(u16::from_be(header.payload_len));
        // A super-packet above 64 KiB has length 0.
        let truncated = payload_len != 0 && payload_len + IPV6_LEN as u32 > packet.l3_len();
        // IPv4-mapped addresses have no place on a wire (RFC 4291 section 2.5.5.2),
        // and in the maps they are IPv4.
        let mapped = header.src.is_v4() || header.dst.is_v4();
        let wrong_super_packet = payload_len == 0 && is_hop_by_hop(header.next) && packet.gso_size() == 0;
        if header.version_class >> 4 != 6 || truncated || mapped || wrong_super_packet {
            return Err(DropReason::Malformed);
        }
        if is_extension(header.next) {
            let walked = packet.extensions(header.next).check()?;
            self.proto = walked.proto();
            self.l4 = walked.l4();
            self.fragment = walked.fragment();
        }
        Ok(())
    }

    /// Reads a header that has neither options nor extensions. `None` if the full parser has to
    /// decide: options, extensions, and the length that only a super-packet has.
    ///
    /// # Errors
    ///
    /// The header contradicts itself or its frame.
    #[inline(always)]
    pub fn parse_plain<F: Frame>(frame: &F, family: Family) -> Result<Option<Self>, DropReason> {
        let l3_len = frame.l3_len();
        match family {
            Family::V4 => {
                let Some(header) = frame.get::<Ipv4Header>(F::L3) else { return Ok(None) };
                let total_len = u32::from(u16::from_be(header.total_len));
                let header_len = u32::from(header.version_ihl & 0xf) * 4;
                let wrong = header.version_ihl >> 4 != 4 || header_len < IPV4_LEN as u32;
                if wrong || total_len > l3_len || (total_len != 0 && total_len < header_len) {
                    return Err(DropReason::Malformed);
                }
                let plain = header_len == IPV4_LEN as u32 && total_len != 0;
                Ok(plain.then(|| header.view(F::L3 + IPV4_LEN)))
            }
            Family::V6 => {
                let Some(header) = frame.get::<Ipv6Header>(F::L3) else { return Ok(None) };
                let payload_len = u32::from(u16::from_be(header.payload_len));
                let mapped = header.src.is_v4() || header.dst.is_v4();
                if header.version_class >> 4 != 6 || mapped || payload_len + IPV6_LEN as u32 > l3_len {
                    return Err(DropReason::Malformed);
                }
                Ok((!is_extension(header.next)).then(|| header.view(F::L3 + IPV6_LEN)))
            }
        }
    }

    /// The ICMP type, if this is ICMP of the packet's family.
    #[inline(always)]
    pub fn icmp_type<P: Packet>(&self, packet: &P) -> Option<u8> {
        let icmp = match self.family {
            Family::V4 => ICMP,
            Family::V6 => ICMPV6,
        };
        if self.proto != icmp || self.is_later_fragment() {
            return None;
        }
        packet.load(self.l4)
    }

    /// Source and destination port of TCP and UDP, host byte order; of an echo request or reply
    /// of the packet's family its identifier in both places (RFC 792, RFC 4443 section 4). `None`
    /// where the packet has none: another protocol, another message, a later fragment, or too
    /// few bytes. Padding of the link does not count as bytes of the packet.
    #[inline(always)]
    pub fn ports<P: Packet>(&self, packet: &P) -> Option<[u16; 2]> {
        let (at, len) = match (self.proto, self.icmp_type(packet), self.family) {
            _ if self.is_later_fragment() => return None,
            (TCP | UDP, ..) => (self.l4, 4),
            (_, Some(0 | 8), Family::V4) | (_, Some(128 | 129), Family::V6) => (self.l4 + 4, 2),
            _ => return None,
        };
        if at + len > self.end(packet)? {
            return None;
        }
        let first = u16::from_be(packet.load(at)?);
        let second = if len == 4 { u16::from_be(packet.load(at + 2)?) } else { first };
        Some([first, second])
    }

    /// Where the packet ends in its frame by its own length, bytes. A super-packet above 64 KiB
    /// says 0 and ends with the frame.
    #[inline(always)]
    fn end<P: Packet>(&self, packet: &P) -> Option<usize> {
        let (at, before) = match self.family {
            Family::V4 => (V4_TOTAL_LEN, 0),
            Family::V6 => (V6_PAYLOAD_LEN, IPV6_LEN),
        };
        match u16::from_be(packet.load(P::L3 + at)?) {
            0 if packet.gso_size() != 0 => Some(packet.len() as usize),
            len => Some(P::L3 + before + usize::from(len)),
        }
    }
}

/// Only the source, of a packet that is not parsed.
#[inline(always)]
pub fn source<F: Frame>(frame: &F, family: Family) -> Option<Addr> {
    match family {
        Family::V4 => {
            frame.pull(F::L3 + IPV4_LEN);
            frame.get::<Ipv4Header>(F::L3).map(|h| Addr::from_v4_word(h.src))
        }
        Family::V6 => {
            frame.pull(F::L3 + IPV6_LEN);
            frame.get::<Ipv6Header>(F::L3).map(|h| h.src)
        }
    }
}

/// Only the destination, of a packet that may be malformed.
#[inline(always)]
pub fn destination<F: Frame>(frame: &F, family: Family) -> Option<Addr> {
    match family {
        Family::V4 => frame.get::<Ipv4Header>(F::L3).map(|h| Addr::from_v4_word(h.dst)),
        Family::V6 => frame.get::<Ipv6Header>(F::L3).map(|h| h.dst),
    }
}

/// Where the length stands in an IP header: of the whole packet, and of what is behind it.
const V4_TOTAL_LEN: usize = 2;
const V6_PAYLOAD_LEN: usize = 4;

/// Where the source stands in an IP header, and behind it the destination.
pub(crate) const V4_ADDRESSES: usize = 12;
pub(crate) const V6_ADDRESSES: usize = 8;

/// Only source and destination, of a packet that is not parsed.
#[inline(always)]
pub fn addresses<F: Frame>(frame: &F, family: Family) -> Option<[Addr; 2]> {
    match family {
        Family::V4 => {
            frame.pull(F::L3 + IPV4_LEN);
            frame.get(F::L3 + V4_ADDRESSES).map(mapped)
        }
        Family::V6 => {
            frame.pull(F::L3 + IPV6_LEN);
            frame.get(F::L3 + V6_ADDRESSES)
        }
    }
}

/// `fe80::/10`.
#[inline(always)]
pub fn is_link_local(addr: &Addr) -> bool {
    addr.0[0] & 0xffc0_0000_0000_0000_u64.to_be() == 0xfe80_0000_0000_0000_u64.to_be()
}
