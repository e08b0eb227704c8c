//! A subnet of a network, and its blocks.

use std::{collections::BTreeMap, net::IpAddr};

use ipnet::IpNet;
use margay_common::net::Addr;
use serde::{Deserialize, Serialize};

use super::{NetworkError, bits, max_len, net, offset, overlap};
use crate::words;

/// Addresses in a block unless the subnet is small.
const DEFAULT_BLOCK: u32 = 64;
/// Blocks that a small subnet should still hold.
const BLOCKS_WANTED: u32 = 64;
/// The smallest block.
pub(super) const MIN_BLOCK: u32 = 4;
/// The largest block.
const MAX_BLOCK: u32 = 4096;
/// Bits of an address within a block, from the smallest to the largest.
pub(in crate::model) const BLOCK_BITS: std::ops::RangeInclusive<u32> = MIN_BLOCK.ilog2()..=MAX_BLOCK.ilog2();
/// Auxiliary addresses of one subnet.
pub(super) const AUX_MAX: usize = 1024;
/// The longest name of an auxiliary address, characters.
pub(super) const AUX_NAME_MAX: usize = 255;
/// What an error calls such a name.
pub(super) const AUX_NAME: &str = "the name of auxiliary address";

/// A network's subnet of one family.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subnet {
    /// The subnet.
    pub cidr: IpNet,
    /// The gateway, the same on every node and answered for by the programs.
    pub gateway: IpAddr,
    /// Length of the prefix of one block, in the subnet's own family.
    pub block_len: u8,
    /// The range for automatic allocation; without it, the subnet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub range: Option<IpNet>,
    /// Addresses that are never given to an endpoint, by what has them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub aux: BTreeMap<String, IpAddr>,
}

impl Subnet {
    /// Whether an address is the subnet's first or, for IPv4, last.
    pub fn is_edge(&self, addr: IpAddr) -> bool {
        addr == self.cidr.network() || (addr.is_ipv4() && addr == self.cidr.broadcast())
    }

    /// Whether an endpoint can have an address.
    pub fn is_assignable(&self, addr: IpAddr) -> bool {
        let aux = self.aux.values().any(|aux| *aux == addr);
        self.cidr.contains(&addr) && !self.is_edge(addr) && addr != self.gateway && !aux
    }

    /// Whether an endpoint can have an address that it did not ask for.
    pub fn is_offered(&self, addr: IpAddr) -> bool {
        self.is_assignable(addr) && self.range.is_none_or(|range| range.contains(&addr))
    }

    /// Whether it is one that a request could have led to.
    pub(super) fn check(&self) -> Result<(), NetworkError> {
        let Self { cidr, gateway, block_len, range, aux } = self;
        check_cidr(*cidr)?;
        if !cidr.contains(gateway) {
            return Err(NetworkError::GatewayOutside(*gateway));
        }
        if self.is_edge(*gateway) {
            return Err(NetworkError::GatewayReserved(*gateway));
        }
        let bits = max_len(*gateway).checked_sub(*block_len).map(u32::from);
        let size = bits.and_then(|bits| 1_u32.checked_shl(bits));
        if !size.is_some_and(|size| (MIN_BLOCK..=max_block(*cidr)).contains(&size)) {
            return Err(NetworkError::BlockLength { subnet: *cidr, block_len: *block_len });
        }
        match range {
            Some(range) if !cidr.contains(range) => return Err(NetworkError::RangeOutside(*range)),
            Some(range) if range.trunc() != *range => return Err(NetworkError::RangeBits(*range)),
            _ => {}
        }
        if aux.len() > AUX_MAX {
            return Err(NetworkError::TooManyAux(*cidr, aux.len()));
        }
        for name in aux.keys() {
            words::check(AUX_NAME, name, AUX_NAME_MAX)?;
        }
        match aux.values().find(|addr| !cidr.contains(*addr) || *addr == gateway) {
            Some(addr) if addr == gateway => Err(NetworkError::AuxGateway(*addr)),
            Some(addr) => Err(NetworkError::AuxOutside(*addr)),
            None => Ok(()),
        }
    }

    /// The block that contains an address of the subnet.
    pub fn block_of(&self, addr: IpAddr) -> IpNet {
        net(addr, self.block_len).trunc()
    }

    /// How many blocks there are.
    pub fn block_count(&self) -> u128 {
        1 << u32::from(self.block_len - self.cidr.prefix_len()).min(127)
    }

    /// The block of that number, from 0.
    pub fn block(&self, i: u128) -> IpNet {
        let (first, len) = (self.cidr.network(), self.block_len);
        net(offset(first, i << (max_len(first) - len)), len)
    }

    /// The number of the first block that has an address nobody has to ask for,
    /// and how many there are.
    pub fn offered_blocks(&self) -> (u128, u128) {
        let Some(range) = self.range else { return (0, self.block_count()) };
        let first = bits(range.network()).wrapping_sub(bits(self.cidr.network()));
        let block = u32::from(max_len(range.addr()) - self.block_len);
        (first >> block, 1 << u32::from(self.block_len.saturating_sub(range.prefix_len())).min(127))
    }

    /// Length of a block's prefix, of 128 bits.
    pub fn mapped_block_len(&self) -> u32 {
        Addr::from(self.cidr.addr()).mapped_len(self.block_len)
    }

    /// Length of the subnet's prefix, of 128 bits.
    pub fn mapped_len(&self) -> u32 {
        Addr::from(self.cidr.addr()).mapped_len(self.cidr.prefix_len())
    }
}

/// Whether there is one subnet, or one of each family.
pub(super) fn check_families(cidrs: &[IpNet]) -> Result<(), NetworkError> {
    match *cidrs {
        [] => Err(NetworkError::NoSubnet),
        [_] => Ok(()),
        [a, b] if a.addr().is_ipv4() != b.addr().is_ipv4() => Ok(()),
        [a, b, ..] => Err(NetworkError::SameFamily(a, b)),
    }
}

/// Whether containers can have addresses of a prefix.
pub(in crate::model) fn check_cidr(cidr: IpNet) -> Result<(), NetworkError> {
    if cidr.trunc() != cidr {
        return Err(NetworkError::HostBits(cidr, cidr.trunc()));
    }
    let special = SPECIAL.iter().find(|(range, _)| range.parse().is_ok_and(|range| overlap(range, cidr)));
    match special {
        Some((range, what)) => Err(NetworkError::NotUnicast(cidr, range, what)),
        None if max_len(cidr.addr()) - cidr.prefix_len() < 3 => Err(NetworkError::TooSmall(cidr)),
        None => Ok(()),
    }
}

/// What no subnet may have a part of (RFC 6890, RFC 4291): all that `check_destination` of
/// `from_workload` refuses, which does not look at destinations in the sender's subnet.
pub(super) const SPECIAL: [(&str, &str); 8] = [
    ("0.0.0.0/8", "reserved"),
    ("127.0.0.0/8", "loopback"),
    ("169.254.0.0/16", "link-local"),
    ("224.0.0.0/4", "multicast"),
    ("240.0.0.0/4", "reserved"),
    ("::/64", "reserved, as are loopback and IPv4-mapped addresses in it"),
    ("fe80::/10", "link-local"),
    ("ff00::/8", "multicast"),
];

/// The block length for a subnet: as asked, or by the rule of 64.
pub(super) fn block_len(cidr: IpNet, size: Option<u32>) -> Result<u8, NetworkError> {
    let (bits, max) = (host_bits(cidr), max_block(cidr));
    let size = match size {
        Some(size) if size.is_power_of_two() && (MIN_BLOCK..=max).contains(&size) => size,
        Some(size) => return Err(NetworkError::BlockSize { size, subnet: cidr, max }),
        None if bits >= (DEFAULT_BLOCK * BLOCKS_WANTED).ilog2() => DEFAULT_BLOCK,
        None => ((1 << bits) / BLOCKS_WANTED).max(MIN_BLOCK),
    };
    Ok(max_len(cidr.addr()) - size.ilog2() as u8)
}

/// The largest block of a subnet: half of it, so that no block is the subnet itself.
pub(super) fn max_block(cidr: IpNet) -> u32 {
    if host_bits(cidr) > MAX_BLOCK.ilog2() { MAX_BLOCK } else { (1 << host_bits(cidr)) / 2 }
}

/// Bits of an address behind a prefix.
fn host_bits(cidr: IpNet) -> u32 {
    u32::from(max_len(cidr.addr()) - cidr.prefix_len())
}
