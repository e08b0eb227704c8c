//! Access to the bytes of a frame.

use margay_common::net::{Addr, MacWord};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::walk::{self, Walked};

/// Length of an Ethernet header without tags.
pub const ETH_LEN: usize = 14;
/// Length of an IPv4 header without options.
pub const IPV4_LEN: usize = 20;
/// Length of an IPv6 header without extensions.
pub const IPV6_LEN: usize = 40;

/// EtherTypes in network byte order.
pub const IPV4: u16 = 0x0800_u16.to_be();
/// IPv6.
pub const IPV6: u16 = 0x86dd_u16.to_be();
/// ARP.
pub const ARP: u16 = 0x0806_u16.to_be();
/// A VLAN tag that the device left in the frame.
pub const VLAN: u16 = 0x8100_u16.to_be();
/// A service VLAN tag.
pub const QINQ: u16 = 0x88a8_u16.to_be();

/// The fields of an Ethernet header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    /// Destination.
    pub dst: MacWord,
    /// Source.
    pub src: MacWord,
    /// EtherType, network byte order.
    pub kind: u16,
}

/// The bytes of a frame that are directly accessible. Offsets count from the Ethernet
/// header. They have to be constants, since the verifier follows no others into a packet.
pub trait Frame {
    /// Where the IP header starts. An encapsulated frame will have another offset.
    const L3: usize = ETH_LEN;

    /// Length of the frame, bytes: payload of a super-packet and link header included.
    fn len(&self) -> u32;

    /// Whether there is no byte in it.
    #[inline(always)]
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Makes the first `len` bytes directly accessible, as far as the frame has them. Drivers may
    /// leave headers in page fragments, so they are not always accessible.
    fn pull(&self, len: usize);

    /// Copies the `T` at `offset`, where the frame has that many bytes.
    fn get<T: FromBytes>(&self, offset: usize) -> Option<T>;

    /// Writes the `T` at `offset`.
    fn set<T: IntoBytes + Immutable>(&self, offset: usize, value: T) -> Option<()>;

    /// Length without the bytes before the IP header.
    #[inline(always)]
    fn l3_len(&self) -> u32 {
        self.len().wrapping_sub(Self::L3 as u32)
    }

    /// The Ethernet header, in two loads: the destination with two bytes of the source, and
    /// the source with the EtherType.
    #[inline(always)]
    fn ethernet(&self) -> Option<Link> {
        let last: u64 = self.get(6)?;
        let first: u64 = self.get(0)?;
        let [.., high, low] = last.to_ne_bytes();
        Some(Link {
            dst: MacWord::first_of(first),
            src: MacWord::first_of(last),
            kind: u16::from_ne_bytes([high, low]),
        })
    }

    /// Writes both MACs.
    #[inline(always)]
    fn set_macs(&self, dst: MacWord, src: MacWord) -> Option<()> {
        let [a, b, c, d, e, f, ..] = src.get().to_ne_bytes();
        let first = dst.get() | u64::from_ne_bytes([0, 0, 0, 0, 0, 0, a, b]);
        self.set(8, u32::from_ne_bytes([c, d, e, f]))?;
        self.set(0, first)
    }

    /// Writes a MAC and the IPv4 address behind it, as ARP has them.
    #[inline(always)]
    fn set_pair(&self, offset: usize, mac: MacWord, addr: u32) -> Option<()> {
        let [a, b, c, d] = addr.to_ne_bytes();
        self.set(offset + 8, u16::from_ne_bytes([c, d]))?;
        self.set(offset, mac.get() | u64::from_ne_bytes([0, 0, 0, 0, 0, 0, a, b]))
    }
}

/// A packet of the kernel, which can also be read at any offset and be rewritten.
pub trait Packet: Frame {
    /// Memory for a loop over options.
    type Cursor: Cursor;

    /// Payload of one segment of a super-packet, bytes; 0 for a plain packet.
    fn gso_size(&self) -> u32;

    /// Copies bytes from anywhere in the packet, also from page fragments and at a variable
    /// offset: for the rare paths. Fails past the end.
    fn load<T: FromBytes + IntoBytes + Default>(&self, offset: usize) -> Option<T>;

    /// Copies the first `len` bytes from `offset` on into `to`. Fails past the end.
    fn load_part<const N: usize>(&self, offset: usize, to: &mut [u8; N], len: Part<N>) -> Option<()>;

    /// Resizes the frame to `len` bytes, of which the caller then writes everything behind
    /// the Ethernet header. A super-packet becomes a plain one, and no checksum is left for
    /// the device to finish.
    fn renew(&self, len: usize) -> Option<()>;

    /// Writes bytes at `offset`, also into page fragments. Fails past the end.
    #[inline(always)]
    fn store<const N: usize>(&self, offset: usize, from: &[u8; N]) -> Option<()> {
        self.store_behind::<N, 0>(offset, from)
    }

    /// Writes all of `from` but its first `SKIP` bytes at `offset`. Fails past the end.
    fn store_behind<const N: usize, const SKIP: usize>(&self, offset: usize, from: &[u8; N]) -> Option<()>;

    /// Writes the first `len` bytes of `from` at `offset`. Fails past the end.
    fn store_part<const N: usize>(&self, offset: usize, from: &[u8; N], len: Part<N>) -> Option<()>;

    /// The one's complement sum of four-byte words, not folded (RFC 1071), of a multiple of
    /// four bytes, at most 512.
    fn sum<const N: usize>(&self, bytes: &[u8; N]) -> u32;

    /// A cursor of two numbers: 0 and `end`.
    fn cursor(&self, end: u32) -> Option<Self::Cursor>;

    /// Steps over `len` bytes of IPv4 options. Programs do it in a global function.
    #[inline(always)]
    fn options(&self, len: u32) -> Walked
    where
        Self: Sized,
    {
        walk::options(self, len)
    }

    /// Steps over the IPv6 extension headers, of which `first` is the first. Programs do it in a
    /// global function.
    #[inline(always)]
    fn extensions(&self, first: u8) -> Walked
    where
        Self: Sized,
    {
        walk::extensions(self, first)
    }
}

/// Two numbers in memory whose content the verifier does not track. A loop that keeps its
/// state here has one state for the verifier, not one for each path through all its rounds.
pub trait Cursor {
    /// Moves on to a place.
    fn set(&self, at: u32);

    /// The place.
    fn at(&self) -> u32;

    /// The end.
    fn end(&self) -> u32;
}

/// How many of `N` bytes: 1 to `N`, which is a power of two.
#[derive(Clone, Copy, Debug)]
pub struct Part<const N: usize>(u32);

impl<const N: usize> Part<N> {
    const POWER: () = assert!(N.is_power_of_two());

    /// As many as there are, but `N` at most. The bound is arithmetic and not a comparison:
    /// the compiler would fold a comparison into a form from which verifiers before 6.12 learn
    /// nothing about the length itself.
    #[inline(always)]
    pub fn of(len: u32) -> Self {
        const { Self::POWER };
        let len = if len > N as u32 { N as u32 } else { len };
        let last = core::hint::black_box(len.wrapping_sub(1)) & (N as u32 - 1);
        Self(last + 1)
    }

    /// In bytes.
    #[inline(always)]
    pub const fn get(self) -> u32 {
        self.0
    }
}

/// Two addresses as they lie in a header of IPv4.
#[inline(always)]
pub(crate) fn mapped(words: [u32; 2]) -> [Addr; 2] {
    words.map(Addr::from_v4_word)
}
