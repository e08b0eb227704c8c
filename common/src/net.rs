//! Addresses as the maps carry them.

use core::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// An Ethernet address.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// The MAC as the maps carry it.
    #[inline(always)]
    pub const fn word(self) -> MacWord {
        let [a, b, c, d, e, f] = self.0;
        MacWord(u64::from_ne_bytes([a, b, c, d, e, f, 0, 0]))
    }
}

/// A MAC as the maps carry it: its six bytes as they lie in a frame, then two of zero. The
/// programs compare and write it at once.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(transparent)]
pub struct MacWord(u64);

impl MacWord {
    /// The six bytes that belong to the MAC.
    const SIX: u64 = Mac([0xff; 6]).word().0;

    /// The first six bytes of eight.
    #[inline(always)]
    pub const fn first_of(bytes: u64) -> Self {
        Self(bytes & Self::SIX)
    }

    /// All eight bytes.
    #[inline(always)]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The six bytes.
    #[inline(always)]
    pub const fn mac(self) -> Mac {
        let [a, b, c, d, e, f, ..] = self.0.to_ne_bytes();
        Mac([a, b, c, d, e, f])
    }
}

/// The MAC of `margay0` and of the host side of every container's interface, the
/// same on every node, so that nothing has to be rewritten on the way up to
/// the host. Locally administered, unicast.
pub const GATEWAY_MAC: Mac = Mac([0xee; 6]);

/// What Margay's nftables table sets in the mark of replies to masqueraded
/// flows, under [`REPLY_MASK`]: by it the host's stack may forward them to
/// containers.
pub const REPLY_MARK: u32 = 0x4d00_0000;
/// The bits of the mark that are Margay's.
pub const REPLY_MASK: u32 = 0xff00_0000;

/// The family of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Family {
    /// IPv4, RFC 791.
    V4,
    /// IPv6, RFC 8200.
    V6,
}

/// An IPv4 or IPv6 address as 16 bytes in network byte order, IPv4 as the
/// IPv4-mapped form `::ffff:a.b.c.d` (RFC 4291 section 2.5.5.2).
///
/// Two integers instead of sixteen bytes give the alignment that lets the
/// programs load, mask and compare eight bytes at a time.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct Addr(pub [u64; 2]);

/// What stands before the IPv4 address in the second half of every mapped one.
const MAPPED: u64 = 0x0000_ffff_0000_0000_u64.to_be();
const MAPPED_MASK: u64 = 0xffff_ffff_0000_0000_u64.to_be();

impl Addr {
    /// `::`, which no endpoint and no node has.
    pub const UNSPECIFIED: Self = Self([0; 2]);

    /// An IPv4 address from its four bytes as they lie in a packet.
    #[inline(always)]
    pub const fn from_v4_word(word: u32) -> Self {
        let [a, b, c, d] = word.to_ne_bytes();
        Self([0, MAPPED | u64::from_ne_bytes([0, 0, 0, 0, a, b, c, d])])
    }

    /// The IPv4 address as it lies in a packet. Meaningless for IPv6.
    #[inline(always)]
    pub const fn v4_word(&self) -> u32 {
        let [.., a, b, c, d] = self.0[1].to_ne_bytes();
        u32::from_ne_bytes([a, b, c, d])
    }

    /// Whether this is an IPv6 multicast address, `ff00::/8`.
    #[inline(always)]
    pub const fn is_multicast_v6(&self) -> bool {
        self.0[0] & 0xff00_0000_0000_0000_u64.to_be() == 0xff00_0000_0000_0000_u64.to_be()
    }

    /// Whether this is an IPv4-mapped address.
    #[inline(always)]
    pub const fn is_v4(&self) -> bool {
        self.0[0] == 0 && self.0[1] & MAPPED_MASK == MAPPED
    }

    /// Whether this is `::`.
    #[inline(always)]
    pub const fn is_unspecified(&self) -> bool {
        self.0[0] | self.0[1] == 0
    }

    /// The bits of this address that `mask` keeps.
    #[inline(always)]
    pub const fn masked(&self, mask: &Self) -> Self {
        let (a, m) = (&self.0, &mask.0);
        Self([a[0] & m[0], a[1] & m[1]])
    }

    /// Whether both addresses agree in every bit that `mask` keeps.
    #[inline(always)]
    pub const fn matches(&self, other: &Self, mask: &Self) -> bool {
        let (a, b, m) = (&self.0, &other.0, &mask.0);
        ((a[0] ^ b[0]) & m[0]) | ((a[1] ^ b[1]) & m[1]) == 0
    }

    /// Whether every bit that `mask` clears is set: the directed broadcast
    /// address of an IPv4 subnet.
    #[inline(always)]
    pub const fn is_last(&self, mask: &Self) -> bool {
        let (a, m) = (&self.0, &mask.0);
        (a[0] | m[0]) & (a[1] | m[1]) == u64::MAX
    }

    /// The mask that keeps the first `len` of the 128 bits; above 128 as 128.
    pub const fn mask(len: u32) -> Self {
        let len = if len > 128 { 128 } else { len };
        let bits = if len == 0 { 0 } else { u128::MAX << (128 - len) };
        Self([((bits >> 64) as u64).to_be(), (bits as u64).to_be()])
    }

    /// IPv4 or IPv6.
    pub const fn family(&self) -> Family {
        if self.is_v4() { Family::V4 } else { Family::V6 }
    }

    /// The length, in the 128 bits of this type, of a prefix that is `len`
    /// bits long in its own family: 24 is 120 for IPv4.
    pub const fn mapped_len(&self, len: u8) -> u32 {
        if self.is_v4() { 96 + len as u32 } else { len as u32 }
    }
}

impl From<IpAddr> for Addr {
    fn from(addr: IpAddr) -> Self {
        let octets = match addr {
            IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
            IpAddr::V6(v6) => v6.octets(),
        };
        zerocopy::transmute!(octets)
    }
}

impl From<Addr> for IpAddr {
    fn from(addr: Addr) -> Self {
        if addr.is_v4() {
            return IpAddr::V4(Ipv4Addr::from(addr.v4_word().to_ne_bytes()));
        }
        let octets: [u8; 16] = zerocopy::transmute!(addr);
        IpAddr::V6(Ipv6Addr::from(octets))
    }
}

/// As it is written in its own family.
impl fmt::Display for Addr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        IpAddr::from(*self).fmt(f)
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use std::net::IpAddr;

    use proptest::prelude::*;

    use super::*;

    fn addr(text: &str) -> Addr {
        Addr::from(text.parse::<IpAddr>().expect("a literal"))
    }

    #[test]
    fn an_ipv4_address_is_mapped() {
        let a = addr("10.1.2.3");
        assert!(a.is_v4());
        assert_eq!(a, addr("::ffff:10.1.2.3"));
        assert_eq!(a.mapped_len(24), 120);
        assert_eq!(a.v4_word().to_ne_bytes(), [10, 1, 2, 3]);
    }

    #[test]
    fn masks_cut_at_the_bit() {
        assert_eq!(addr("10.1.2.200").masked(&Addr::mask(96 + 26)), addr("10.1.2.192"));
        assert_eq!(addr("fd00::1:ffff").masked(&Addr::mask(112)), addr("fd00::1:0"));
        assert!(addr("10.1.2.255").is_last(&Addr::mask(96 + 24)));
        assert!(!addr("10.1.2.254").is_last(&Addr::mask(96 + 24)));
        assert_eq!(addr("fd00::1").masked(&Addr::mask(0)), Addr::UNSPECIFIED);
    }

    #[test]
    fn a_mac_is_the_first_six_bytes_of_its_word() {
        let mac = Mac([2, 3, 4, 5, 6, 7]);
        assert_eq!(mac.word().mac(), mac);
        assert_eq!(mac.word().get().to_ne_bytes(), [2, 3, 4, 5, 6, 7, 0, 0]);
        let followed = u64::from_ne_bytes([2, 3, 4, 5, 6, 7, 8, 0]);
        assert_eq!(MacWord::first_of(followed), mac.word());
    }

    proptest! {
        #[test]
        fn addresses_survive_the_round_trip(octets: [u8; 16]) {
            let ip = IpAddr::from(octets).to_canonical();
            prop_assert_eq!(IpAddr::from(Addr::from(ip)), ip);
        }

        #[test]
        fn matching_is_equality_under_the_mask(a: [u64; 2], b: [u64; 2], len in 0u32..=128) {
            let (a, b, mask) = (Addr(a), Addr(b), Addr::mask(len));
            prop_assert_eq!(a.matches(&b, &mask), a.masked(&mask) == b.masked(&mask));
        }
    }
}
