//! Generated packets with every feature that the programs look at, and the expected result of
//! parsing each.

use std::{vec, vec::Vec};

use margay_common::{
    net::{Addr, Family, Mac},
    verdict::DropReason,
};
use proptest::{collection::vec as many, prelude::*, sample::select};

use crate::Buffer;

/// The sender's MAC.
pub const ASKER: Mac = Mac([2, 0, 0, 0, 0, 7]);
/// The MAC that a frame is addressed to.
pub const TO: [u8; 6] = [2, 1, 1, 1, 1, 1];

/// The fields of a well-formed packet.
#[derive(Clone, Debug)]
pub struct Known {
    pub src: Addr,
    pub dst: Addr,
    pub ttl: u8,
    pub proto: u8,
    pub l4: usize,
    pub fragment: bool,
    pub later: bool,
    /// Whether it has neither options nor extensions.
    pub plain: bool,
    /// Bytes of payload by the packet's own length; the rest is padding.
    pub carries: usize,
}

/// A packet.
#[derive(Clone, Debug)]
pub struct Built {
    pub family: Family,
    pub bytes: Vec<u8>,
    /// Bytes that are directly accessible.
    pub linear: usize,
    pub gso: u32,
    /// Its fields, or the reason for which it is refused.
    pub known: Result<Known, DropReason>,
}

impl Built {
    pub fn packet(&self) -> Buffer {
        Buffer::new(&self.bytes, self.linear).with_gso_size(self.gso)
    }

    /// The type of an ICMP message of its family.
    pub fn icmp_type(&self) -> Option<u8> {
        let known = self.known.as_ref().ok()?;
        let icmp = if self.family == Family::V4 { 1 } else { 58 };
        if known.proto != icmp || known.later {
            return None;
        }
        self.bytes.get(known.l4).copied()
    }
}

/// What is wrong with a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flaw {
    None,
    Version,
    /// The header's length exceeds the frame.
    Truncated,
    /// The frame ends within it.
    Cut,
    /// IPv4 with a header of 16 bytes; IPv6 from a mapped address.
    Header,
    /// IPv4 shorter than its header; IPv6 to a mapped address.
    Length,
}

/// The parts that both families have.
#[derive(Clone, Debug)]
struct Parts {
    ttl: u8,
    proto: u8,
    payload: Vec<u8>,
    padding: Vec<u8>,
    flaw: Flaw,
    linear: usize,
    /// Of a super-packet.
    gso: u32,
    /// Whether its length is 0, as that of a super-packet above 64 KiB.
    nothing: bool,
}

const SOUND: Flaw = Flaw::None;

fn parts(family: Family) -> impl Strategy<Value = Parts> {
    use Flaw::{Cut, Header, Length, Truncated, Version};
    let flaw = prop_oneof![2 => Just(SOUND), 1 => select(vec![Version, Truncated, Cut, Header, Length])];
    let ttl = prop_oneof![0_u8..3, any::<u8>()];
    // The family's own ICMP, TCP, UDP, the other family's ICMP, and a protocol that is not parsed.
    let (protos, kinds) = match family {
        Family::V4 => (vec![1, 1, 1, 6, 17, 58, 132], vec![8, 8, 8, 0, 3, 4, 5, 11, 12, 128, 129]),
        Family::V6 => (vec![58, 58, 58, 6, 17, 1, 132], vec![128, 128, 128, 129, 135, 1, 2, 137, 0, 8]),
    };
    let (proto, kind) = (select(protos), select(kinds));
    let payload = prop_oneof![many(any::<u8>(), 0..9), many(any::<u8>(), 0..200)];
    let gso = prop_oneof![3 => Just(0), 1 => 1_u32..1_500, 1 => Just(0xffff)];
    let nothing = prop_oneof![7 => Just(false), 1 => Just(true)];
    let rest = (many(any::<u8>(), 0..12), flaw, 0_usize..300, gso, nothing);
    (ttl, proto, kind, payload, rest).prop_map(|(ttl, proto, kind, mut payload, rest)| {
        let (padding, flaw, linear, gso, nothing) = rest;
        if let (1 | 58, Some(first)) = (proto, payload.first_mut()) {
            *first = kind;
        }
        let padding = if nothing || payload.is_empty() { Vec::new() } else { padding };
        Parts { ttl, proto, payload, padding, flaw, linear, gso, nothing }
    })
}

/// An IPv4 option, and the result of parsing if the option ends the walk.
type Optional = (Vec<u8>, Option<Result<(), DropReason>>);

/// Options of IPv4.
fn options() -> impl Strategy<Value = Vec<Optional>> {
    let refused = |reason| Some(Err(reason));
    let one = select(vec![
        (vec![1], None),
        (vec![148, 4, 0, 0], None),
        (vec![7, 7, 4, 0, 0, 0, 0], None),
        // An option whose data looks like source routes.
        (vec![7, 6, 131, 137, 131, 137], None),
        (vec![0], Some(Ok(()))),
        (vec![131, 3, 4], refused(DropReason::SourceRoute)),
        (vec![137, 3, 4], refused(DropReason::SourceRoute)),
        (vec![148, 1], refused(DropReason::Malformed)),
        (vec![148, 41], refused(DropReason::Malformed)),
    ]);
    prop_oneof![2 => Just(Vec::new()), 1 => many(one, 1..5)]
}

/// Addresses, some of which are no single host's.
fn v4_source() -> impl Strategy<Value = [u8; 4]> {
    prop_oneof![4 => any::<[u8; 4]>(), 1 => select(vec![[0, 0, 0, 0], [127, 0, 0, 1], [224, 0, 0, 1], [255; 4]])]
}

fn v4() -> impl Strategy<Value = Built> {
    let fragment =
        prop_oneof![3 => select(vec![0, 0x4000]), 1 => select(vec![0x2000, 0x2001, 1, 0x1fff, 0x1000])];
    // The edges of one's complement arithmetic.
    let checksum = prop_oneof![any::<u16>(), select(vec![0, 0xffff, 0xfeff, 0xff00, 0xfefe])];
    (parts(Family::V4), options(), fragment, checksum, v4_source(), any::<[u8; 4]>()).prop_map(build_v4)
}

type V4 = (Parts, Vec<Optional>, u16, u16, [u8; 4], [u8; 4]);

fn build_v4((parts, chosen, fragment, checksum, src, dst): V4) -> Built {
    let mut options: Vec<u8> = chosen.iter().flat_map(|(bytes, _)| bytes.clone()).collect();
    options.resize(options.len().next_multiple_of(4), 0);
    let header_len = 20 + options.len();
    let len = match parts.flaw {
        Flaw::Truncated => header_len + parts.payload.len() + parts.padding.len() + 1,
        Flaw::Length => header_len - 1,
        _ if parts.nothing => 0,
        _ => header_len + parts.payload.len(),
    } as u16;
    let version = if parts.flaw == Flaw::Version { 0x60 } else { 0x40 };
    let ihl = if parts.flaw == Flaw::Header { 4 } else { header_len as u8 / 4 };
    let mut bytes = [&TO[..], &ASKER.0, &[8, 0, version | ihl, 0]].concat();
    bytes.extend([len.to_be_bytes(), [0, 0], fragment.to_be_bytes(), [parts.ttl, parts.proto]].concat());
    bytes
        .extend([&checksum.to_be_bytes()[..], &src, &dst, &options, &parts.payload, &parts.padding].concat());
    let told = chosen.iter().find_map(|(_, verdict)| *verdict).unwrap_or(Ok(()));
    let known = Known {
        src: Addr::from_v4_word(u32::from_ne_bytes(src)),
        dst: Addr::from_v4_word(u32::from_ne_bytes(dst)),
        ttl: parts.ttl,
        proto: parts.proto,
        l4: 14 + header_len,
        fragment: fragment & 0x3fff != 0,
        later: fragment & 0x1fff != 0,
        plain: options.is_empty(),
        carries: parts.payload.len(),
    };
    let wrong = parts.flaw != Flaw::None || parts.nothing && parts.gso == 0;
    let known = if wrong { Err(DropReason::Malformed) } else { told.map(|()| known) };
    finish(Family::V4, parts, bytes, known)
}

/// An extension header: its number, and its bytes behind the next header's.
type Extension = (u8, Vec<u8>);

/// Extension headers.
fn extensions() -> impl Strategy<Value = Vec<Extension>> {
    let one = prop_oneof![
        4 => (select(vec![0_u8, 60]), 0_u8..3).prop_map(|(kind, units)| (kind, vec_of(units, 1))),
        // A segment list, and the routing header that is refused.
        2 => (0_u8..3).prop_map(|units| (43, vec_of(units, 4))),
        1 => (0_u8..3).prop_map(|units| (43, vec_of(units, 0))),
        // The first fragment, and later ones; its second byte is reserved, and no length.
        1 => any::<u8>().prop_map(|reserved| (44, vec![reserved, 0, 1, 0, 0, 0, 1])),
        1 => (any::<u8>(), select(vec![[0, 8], [0x10, 0], [0xff, 0xf9]]))
            .prop_map(|(reserved, [a, b])| (44, vec![reserved, a, b, 0, 0, 0, 1])),
    ];
    prop_oneof![2 => Just(Vec::new()), 2 => many(one.clone(), 1..4), 1 => many(one, 5..9)]
}

/// An extension header of one unit and that many more, with `first` behind its length.
fn vec_of(units: u8, first: u8) -> Vec<u8> {
    let mut bytes = vec![units, first];
    bytes.resize(7 + 8 * usize::from(units), 0);
    bytes
}

fn v6() -> impl Strategy<Value = Built> {
    let src = prop_oneof![4 => any::<[u8; 15]>().prop_map(|rest| [&[0xfd][..], &rest].concat()),
        1 => Just(vec![0; 16]), 1 => any::<[u8; 15]>().prop_map(|rest| [&[0xff][..], &rest].concat())];
    let dst = any::<[u8; 15]>().prop_map(|rest| [&[0xfd][..], &rest].concat());
    (parts(Family::V6), extensions(), src, dst).prop_map(build_v6)
}

type V6 = (Parts, Vec<Extension>, Vec<u8>, Vec<u8>);

fn build_v6((parts, chosen, mut src, mut dst): V6) -> Built {
    let mapped = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 255, 255, 10, 1, 0, 9];
    match parts.flaw {
        Flaw::Header => src = mapped.to_vec(),
        Flaw::Length => dst = mapped.to_vec(),
        _ => {}
    }
    let next = |at: usize| chosen.get(at).map_or(parts.proto, |(kind, _)| *kind);
    let headers = chosen.iter().enumerate().flat_map(|(at, (_, rest))| [&[next(at + 1)][..], rest].concat());
    let headers: Vec<u8> = headers.collect();
    let len = match parts.flaw {
        Flaw::Truncated => headers.len() + parts.payload.len() + parts.padding.len() + 1,
        _ if parts.nothing => 0,
        _ => headers.len() + parts.payload.len(),
    } as u16;
    let version = if parts.flaw == Flaw::Version { 0x40 } else { 0x60 };
    let mut bytes = [&TO[..], &ASKER.0, &[0x86, 0xdd, version, 0, 0, 0]].concat();
    bytes.extend([&len.to_be_bytes()[..], &[next(0), parts.ttl], &src, &dst, &headers].concat());
    bytes.extend([&parts.payload[..], &parts.padding].concat());
    let known = walk(&chosen, &parts, &src, &dst);
    let wrong = parts.flaw != Flaw::None || parts.nothing && parts.gso == 0 && next(0) == 0;
    finish(Family::V6, parts, bytes, if wrong { Err(DropReason::Malformed) } else { known })
}

/// The result of parsing a packet with these extension headers.
fn walk(chosen: &[Extension], parts: &Parts, src: &[u8], dst: &[u8]) -> Result<Known, DropReason> {
    let addr = |bytes: &[u8]| Addr(zerocopy::transmute!(<[u8; 16]>::try_from(bytes).expect("16 bytes")));
    let mut known = Known {
        src: addr(src),
        dst: addr(dst),
        ttl: parts.ttl,
        proto: parts.proto,
        l4: 54,
        fragment: false,
        later: false,
        plain: chosen.is_empty(),
        carries: if parts.nothing && parts.gso == 0 { 0 } else { parts.payload.len() },
    };
    for (at, (kind, rest)) in chosen.iter().enumerate() {
        if at == 6 {
            return Err(DropReason::Malformed);
        }
        if *kind == 43 && rest[1] == 0 {
            return Err(DropReason::SourceRoute);
        }
        known.l4 += 1 + rest.len();
        known.fragment |= *kind == 44;
        if *kind == 44 && (rest[1], rest[2]) != (0, 1) {
            known.later = true;
            known.proto = chosen.get(at + 1).map_or(parts.proto, |(kind, _)| *kind);
            break;
        }
    }
    Ok(known)
}

fn finish(family: Family, parts: Parts, mut bytes: Vec<u8>, known: Result<Known, DropReason>) -> Built {
    if parts.flaw == Flaw::Cut {
        let header = if family == Family::V4 { 34 } else { 54 };
        bytes.truncate(14 + parts.linear % (header - 14));
    }
    Built { family, bytes, linear: parts.linear, gso: parts.gso, known }
}

/// Any packet.
pub fn built() -> impl Strategy<Value = Built> {
    prop_oneof![v4(), v6()]
}

/// Any packet with a few bytes changed, or any bytes; `known` means nothing.
pub fn broken() -> impl Strategy<Value = Built> {
    prop_oneof![4 => changed(), 1 => noise()]
}

/// Any bytes, most of them with the first byte of an IP header in its place.
fn noise() -> impl Strategy<Value = Built> {
    let family = select(vec![Family::V4, Family::V6]);
    let bytes = many(any::<u8>(), 0..200);
    (family, bytes, any::<u8>(), 0_usize..200, 0_u32..3).prop_map(
        |(family, mut bytes, first, linear, gso)| {
            if let Some(byte) = bytes.get_mut(14)
                && first & 3 != 0
            {
                *byte = if family == Family::V4 { 0x45 + first % 11 } else { 0x60 };
            }
            Built { family, bytes, linear, gso: gso * 700, known: Err(DropReason::Malformed) }
        },
    )
}

fn changed() -> impl Strategy<Value = Built> {
    (built(), many((any::<u16>(), any::<u8>()), 0..6)).prop_map(|(mut built, wrong)| {
        for (at, byte) in wrong {
            let at = usize::from(at) % built.bytes.len();
            built.bytes[at] = byte;
        }
        built
    })
}
