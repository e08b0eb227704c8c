//! Options of IPv4 and extension headers of IPv6.

use margay_common::verdict::DropReason;

use crate::{
    frame::{Cursor, IPV4_LEN, IPV6_LEN, Packet},
    headers::{MORE_FRAGMENTS, SOME_OFFSET},
};

/// IPv4 options.
const END: u8 = 0;
const NO_OPERATION: u8 = 1;
const LOOSE_ROUTE: u8 = 131;
const STRICT_ROUTE: u8 = 137;
/// The longest options that an IPv4 header can have, bytes.
const OPTIONS_MAX: usize = 40;

/// Hop-by-hop, routing and fragment headers.
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const DESTINATION_OPTIONS: u8 = 60;
/// Extension headers that a packet may have; more are malformed.
const EXTENSIONS_MAX: usize = 6;

/// The result of a walk in one number, since a global function returns one register: the
/// protocol behind all extension headers, its offset, and twelve bits above their place in a
/// header the flags of a fragment. Or why the walk ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Walked(u32);

const FRAGMENTED: u32 = (MORE_FRAGMENTS as u32) << 12;
const LATER_FRAGMENT: u32 = (SOME_OFFSET as u32) << 12;

impl Walked {
    /// Nothing speaks against the packet.
    const FINE: Self = Self(0);
    /// The headers contradict themselves.
    const MALFORMED: Self = Self(1 << 31);
    /// The packet asks for a route.
    const SOURCE_ROUTE: Self = Self(1 << 30);

    /// From the register that a global function returned.
    #[inline(always)]
    pub const fn from_raw(raw: u32) -> Self {
        Self(raw)
    }

    /// For the register that a global function returns.
    #[inline(always)]
    pub const fn raw(self) -> u32 {
        self.0
    }

    /// # Errors
    ///
    /// The walk ended early.
    #[inline(always)]
    pub(crate) const fn check(self) -> Result<Self, DropReason> {
        if self.0 & Self::MALFORMED.0 != 0 {
            Err(DropReason::Malformed)
        } else if self.0 & Self::SOURCE_ROUTE.0 != 0 {
            Err(DropReason::SourceRoute)
        } else {
            Ok(self)
        }
    }

    #[inline(always)]
    pub(crate) const fn proto(self) -> u8 {
        self.0 as u8
    }

    #[inline(always)]
    pub(crate) const fn l4(self) -> usize {
        (self.0 >> 8) as usize & 0xffff
    }

    #[inline(always)]
    pub(crate) const fn fragment(self) -> u16 {
        (self.0 >> 12) as u16 & (MORE_FRAGMENTS | SOME_OFFSET)
    }
}

/// Steps over `len` bytes of options. Refuses loose and strict source routing (RFC 791 section
/// 3.1, RFC 7126 section 4.3); other options do no harm here.
#[inline(always)]
pub fn options<P: Packet>(packet: &P, len: u32) -> Walked {
    match step_over_options(packet, len) {
        Some(walked) => walked,
        None => Walked::MALFORMED,
    }
}

/// `None` if the options contradict themselves.
#[inline(always)]
fn step_over_options<P: Packet>(packet: &P, len: u32) -> Option<Walked> {
    let cursor = packet.cursor(len)?;
    for at in 0..OPTIONS_MAX as u32 {
        if at != cursor.at() || at >= cursor.end() {
            continue;
        }
        let offset = P::L3 + IPV4_LEN + at as usize;
        let kind: u8 = packet.load(offset)?;
        if kind == END {
            break;
        }
        if kind == NO_OPERATION {
            cursor.set(at + 1);
            continue;
        }
        if kind == LOOSE_ROUTE || kind == STRICT_ROUTE {
            return Some(Walked::SOURCE_ROUTE);
        }
        let size: u8 = packet.load(offset + 1)?;
        let next = at + u32::from(size);
        if size < 2 || next > cursor.end() {
            return None;
        }
        cursor.set(next);
    }
    Some(Walked::FINE)
}

#[inline(always)]
pub(crate) const fn is_hop_by_hop(next: u8) -> bool {
    next == HOP_BY_HOP
}

/// Whether a header is stepped over. An authentication header counts as the protocol: the
/// programs need nothing behind it.
#[inline(always)]
pub(crate) const fn is_extension(next: u8) -> bool {
    matches!(next, HOP_BY_HOP | ROUTING | FRAGMENT | DESTINATION_OPTIONS)
}

/// Steps over the extension headers, of which `first` is the first.
#[inline(always)]
pub fn extensions<P: Packet>(packet: &P, first: u8) -> Walked {
    let (mut next, mut at, mut flags) = (first, P::L3 + IPV6_LEN, 0);
    for _ in 0..EXTENSIONS_MAX {
        let Some(header) = packet.load::<[u8; 4]>(at) else { return Walked::MALFORMED };
        let mut units = usize::from(header[1]);
        if next == ROUTING && header[2] == 0 {
            return Walked::SOURCE_ROUTE;
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
            return Walked(u32::from(next) | (at as u32) << 8 | flags);
        }
    }
    Walked::MALFORMED
}
