//! Arithmetic of addresses and prefixes, the same for both families.

use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// Whether two prefixes have an address in common.
pub fn overlap(a: IpNet, b: IpNet) -> bool {
    a.contains(&b) || b.contains(&a)
}

/// Bits of an address of that family.
pub fn max_len(addr: IpAddr) -> u8 {
    if addr.is_ipv4() { 32 } else { 128 }
}

/// A prefix with bits behind it allowed; `len` above the family's is cut.
pub fn net(addr: IpAddr, len: u8) -> IpNet {
    match addr {
        IpAddr::V4(v4) => IpNet::V4(Ipv4Net::new_assert(v4, len.min(32))),
        IpAddr::V6(v6) => IpNet::V6(Ipv6Net::new_assert(v6, len.min(128))),
    }
}

/// The address `n` behind another, wrapping at the end of the family.
pub fn offset(addr: IpAddr, n: u128) -> IpAddr {
    match addr {
        IpAddr::V4(v4) => IpAddr::V4(v4.to_bits().wrapping_add(n as u32).into()),
        IpAddr::V6(v6) => IpAddr::V6(v6.to_bits().wrapping_add(n).into()),
    }
}

/// An address as a number, of the bits of its family.
pub fn bits(addr: IpAddr) -> u128 {
    match addr {
        IpAddr::V4(v4) => u128::from(v4.to_bits()),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

/// The `n`th address of a prefix.
pub fn nth(cidr: IpNet, n: u128) -> IpAddr {
    offset(cidr.network(), n)
}
