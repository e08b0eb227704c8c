//! A network: what containers join.

use std::{collections::BTreeMap, net::IpAddr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use margay_common::{net::Addr, route::NETWORK_MAX};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::{Unknown, snapshot::single};
use crate::words::{self, Unseemly};

/// Addresses in a block unless the subnet is small.
const DEFAULT_BLOCK: u32 = 64;
/// Blocks that a small subnet should still hold.
const BLOCKS_WANTED: u32 = 64;
/// The smallest block.
const MIN_BLOCK: u32 = 4;
/// The largest block.
const MAX_BLOCK: u32 = 4096;
/// Bits of an address within a block, from the smallest to the largest.
pub(super) const BLOCK_BITS: std::ops::RangeInclusive<u32> = MIN_BLOCK.ilog2()..=MAX_BLOCK.ilog2();
/// Auxiliary addresses of one subnet.
const AUX_MAX: usize = 1024;
/// The option that names interfaces in containers.
pub const IFACE_PREFIX: &str = "com.docker.network.container_iface_prefix";

/// The least MTU that IPv6 works with (RFC 8200 section 5).
const MIN_MTU_V6: u32 = 1280;
/// The least MTU that IPv4 works with (RFC 791 section 3.2).
const MIN_MTU_V4: u32 = 576;
/// The longest name of an auxiliary address, characters.
const AUX_NAME_MAX: usize = 255;
/// The greatest MTU of a veth.
const MAX_MTU: u32 = 65_535;

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

/// A network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    /// 1 to 2^24-1, never given to another network.
    pub id: u32,
    /// Unique in the cluster.
    pub name: String,
    /// One subnet of either family, or one of each.
    pub subnets: Vec<Subnet>,
    /// The containers' MTU; without it they take the uplink's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    /// Nothing leaves the network except to the cluster's nodes.
    #[serde(default)]
    pub internal: bool,
    /// Any router may send to the network.
    #[serde(default)]
    pub routable: bool,
    /// Whether a runtime made it and has not told its name yet: until then it is
    /// that host's alone, under a name of our own.
    #[serde(default, skip_serializing_if = "is_false")]
    pub unnamed: bool,
    /// Whether a subnet was taken from a pool.
    #[serde(default, skip_serializing_if = "is_false")]
    pub pooled: bool,
    /// What a runtime shows of it on every host.
    #[serde(rename = "docker", default, skip_serializing_if = "Dressing::is_plain")]
    pub runtime: Dressing,
    /// Fields of a newer agent.
    #[serde(flatten)]
    pub unknown: Unknown,
}

/// What belongs to a network in a runtime's eyes alone.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dressing {
    /// The options that it was created with (`-o`), as they were given.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub options: BTreeMap<String, String>,
    /// Its labels.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}

impl Dressing {
    fn is_plain(&self) -> bool {
        self.options.is_empty() && self.labels.is_empty()
    }
}

/// What a user asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkRequest {
    /// Unique in the cluster.
    pub name: String,
    /// One subnet of either family, or one of each.
    pub subnets: Vec<IpNet>,
    /// Gateways other than the first address of their subnet.
    #[serde(default)]
    pub gateways: Vec<IpAddr>,
    /// The containers' MTU.
    #[serde(default)]
    pub mtu: Option<u32>,
    /// Nothing leaves the network except to the cluster's nodes.
    #[serde(default)]
    pub internal: bool,
    /// Any router may send to the network.
    #[serde(default)]
    pub routable: bool,
    /// Lengths of the blocks' prefixes, at most one of each family: IPv4's are at most 32,
    /// IPv6's above that. A family without one has as many addresses in a block as the other.
    #[serde(default)]
    pub block_prefixes: Vec<u8>,
    /// Addresses in one block of either family, instead of prefixes.
    #[serde(default)]
    pub block_size: Option<u32>,
    /// Without subnets: also one of an IPv6 pool.
    #[serde(default)]
    pub ipv6: bool,
    /// The ranges for automatic allocation, each within a subnet.
    #[serde(default)]
    pub ranges: Vec<IpNet>,
    /// Addresses that are never given to an endpoint, by what has them.
    #[serde(default)]
    pub aux: Vec<(String, IpAddr)>,
    /// Whether a runtime asks that has not told the name yet.
    #[serde(skip)]
    pub unnamed: bool,
    /// Whether a subnet was taken from a pool.
    #[serde(skip)]
    pub pooled: bool,
    /// What a runtime shows of it.
    #[serde(skip)]
    pub runtime: Dressing,
}

/// What is wrong with a request, in the words of the user.
#[derive(Debug, Error, PartialEq, Eq)]
#[expect(missing_docs, reason = "the message of each says it")]
pub enum NetworkError {
    #[error("network name {0:?}: use 1 to 63 letters, digits, '-', '_' and '.', the first a letter or digit")]
    Name(String),
    #[error("network name {0:?} is one of Docker's own; choose another")]
    Predefined(String),
    #[error("a network needs a subnet")]
    NoSubnet,
    #[error("subnets {0} and {1} are of one family; use at most one subnet of each family")]
    SameFamily(IpNet, IpNet),
    #[error("subnet {0} has bits set behind its prefix; did you mean {1}?")]
    HostBits(IpNet, IpNet),
    #[error(
        "subnet {0} is too small for a gateway and a block of {MIN_BLOCK} addresses; use a shorter prefix"
    )]
    TooSmall(IpNet),
    #[error("subnet {0} cannot be used for containers: it overlaps {1}, which is {2}")]
    NotUnicast(IpNet, &'static str, &'static str),
    #[error("gateway {0} is outside the network's subnets; use an address of a subnet")]
    GatewayOutside(IpAddr),
    #[error("gateway {0} is the subnet's first or last address; use another")]
    GatewayReserved(IpAddr),
    #[error("gateways {0} and {1} are in one subnet; use one gateway for each subnet")]
    TwoGateways(IpAddr, IpAddr),
    #[error("range {0} is outside the network's subnets; use a part of a subnet")]
    RangeOutside(IpNet),
    #[error("ranges {0} and {1} are in one subnet; use one range for each subnet")]
    TwoRanges(IpNet, IpNet),
    #[error("auxiliary address {0} is outside the network's subnets; use an address of a subnet")]
    AuxOutside(IpAddr),
    #[error("auxiliary address {0} is the gateway; use another")]
    AuxGateway(IpAddr),
    #[error("block size {size} does not fit subnet {subnet}: use a power of two from {MIN_BLOCK} to {max}")]
    BlockSize { size: u32, subnet: IpNet, max: u32 },
    #[error("block prefix /{len} does not fit subnet {subnet}: use a prefix length from {min} to {max}")]
    BlockPrefix { len: u8, subnet: IpNet, min: u8, max: u8 },
    #[error("block prefix /{0}: the network has no subnet of that family")]
    BlockPrefixOutside(u8),
    #[error("block prefixes /{0} and /{1} are of one family; use one for each")]
    TwoBlockPrefixes(u8, u8),
    #[error("a block prefix and a block size are two ways to say one thing; use one of them")]
    BlockTwice,
    #[error("MTU {0}: use {1} to {MAX_MTU}")]
    Mtu(u32, u32),
    #[error(transparent)]
    Text(#[from] Unseemly),
    #[error("a network is internal or routable; use one of the two, not both")]
    InternalRoutable,
    #[error("network id {0}: ids go from 1 to {NETWORK_MAX}")]
    Id(u32),
    #[error("blocks of /{block_len} do not fit subnet {subnet}")]
    BlockLength { subnet: IpNet, block_len: u8 },
    #[error("range {0} has bits set behind its prefix")]
    RangeBits(IpNet),
    #[error("subnet {0} has {1} auxiliary addresses; use at most {AUX_MAX}")]
    TooManyAux(IpNet, usize),
    #[error("the network {0}")]
    Dressing(String),
}

impl NetworkRequest {
    /// Checks the request and fills in what it leaves open.
    pub fn into_network(self, id: u32) -> Result<Network, NetworkError> {
        check_new_name(&self.name)?;
        for (name, _) in &self.aux {
            words::check("the name of auxiliary address", name, AUX_NAME_MAX)?;
        }
        let subnets = self.subnets()?;
        let Self { name, mtu, internal, routable, unnamed, pooled, runtime, .. } = self;
        let unknown = Unknown::new();
        let network =
            Network { id, name, subnets, mtu, internal, routable, unnamed, pooled, runtime, unknown };
        network.check().map(|()| network)
    }

    fn subnets(&self) -> Result<Vec<Subnet>, NetworkError> {
        check_families(&self.subnets)?;
        self.check_gateways()?;
        self.check_ranges()?;
        self.check_blocks()?;
        self.subnets.iter().map(|cidr| self.subnet(*cidr)).collect()
    }

    fn check_gateways(&self) -> Result<(), NetworkError> {
        for gateway in &self.gateways {
            if !self.subnets.iter().any(|cidr| cidr.contains(gateway)) {
                return Err(NetworkError::GatewayOutside(*gateway));
            }
        }
        match self.gateways[..] {
            [a, b, ..] if a.is_ipv4() == b.is_ipv4() => Err(NetworkError::TwoGateways(a, b)),
            _ => Ok(()),
        }
    }

    fn check_ranges(&self) -> Result<(), NetworkError> {
        for (i, range) in self.ranges.iter().enumerate() {
            let Some(cidr) = self.subnets.iter().find(|cidr| cidr.contains(range)) else {
                return Err(NetworkError::RangeOutside(*range));
            };
            if let Some(other) = self.ranges[..i].iter().find(|other| cidr.contains(*other)) {
                return Err(NetworkError::TwoRanges(*other, *range));
            }
        }
        match self.aux.iter().find(|(_, addr)| !self.subnets.iter().any(|cidr| cidr.contains(addr))) {
            Some((_, addr)) => Err(NetworkError::AuxOutside(*addr)),
            None => Ok(()),
        }
    }

    fn check_blocks(&self) -> Result<(), NetworkError> {
        match self.block_prefixes[..] {
            [] => return Ok(()),
            _ if self.block_size.is_some() => return Err(NetworkError::BlockTwice),
            [a, b, ..] if is_v4(a) == is_v4(b) => return Err(NetworkError::TwoBlockPrefixes(a, b)),
            [a, b, c, ..] => {
                let twin = if is_v4(a) == is_v4(c) { a } else { b };
                return Err(NetworkError::TwoBlockPrefixes(twin, c));
            }
            _ => {}
        }
        let there = |len: &u8| self.subnets.iter().any(|cidr| is_v4(*len) == cidr.addr().is_ipv4());
        match self.block_prefixes.iter().find(|len| !there(len)) {
            Some(len) => Err(NetworkError::BlockPrefixOutside(*len)),
            None => Ok(()),
        }
    }

    /// The length of the prefix of a subnet's blocks.
    fn block_len(&self, cidr: IpNet) -> Result<u8, NetworkError> {
        let all = max_len(cidr.addr());
        let of_family = |len: &&u8| is_v4(**len) == cidr.addr().is_ipv4();
        if let Some(len) = self.block_prefixes.iter().find(of_family) {
            let (min, max) = (all - max_block(cidr).ilog2() as u8, all - MIN_BLOCK.ilog2() as u8);
            let fits = (min..=max).contains(len);
            return if fits {
                Ok(*len)
            } else {
                Err(NetworkError::BlockPrefix { len: *len, subnet: cidr, min, max })
            };
        }
        let other = |len: &u8| 1_u32.checked_shl(u32::from(if is_v4(*len) { 32 } else { 128 } - len));
        block_len(cidr, self.block_prefixes.first().and_then(other).or(self.block_size))
    }

    fn subnet(&self, cidr: IpNet) -> Result<Subnet, NetworkError> {
        check_cidr(cidr)?;
        let chosen = self.gateways.iter().copied().find(|gateway| cidr.contains(gateway));
        let gateway = chosen.unwrap_or_else(|| nth(cidr, 1));
        let range = self.ranges.iter().map(IpNet::trunc).find(|range| cidr.contains(range));
        let aux = self.aux.iter().filter(|(_, addr)| cidr.contains(addr)).cloned().collect();
        let block_len = self.block_len(cidr)?;
        Ok(Subnet { cidr, gateway, block_len, range, aux })
    }

    /// Fills in what it leaves open as a network has it.
    pub fn like(&mut self, found: &Network) {
        if self.subnets.is_empty() {
            self.subnets = found.subnets.iter().map(|subnet| subnet.cidr).collect();
        }
        for Subnet { cidr, gateway, block_len, .. } in &found.subnets {
            if !self.gateways.iter().any(|given| cidr.contains(given)) && self.subnets.contains(cidr) {
                self.gateways.push(*gateway);
            }
            let of_family = |len: &u8| is_v4(*len) == cidr.addr().is_ipv4();
            let has_family = self.subnets.iter().any(|own| own.addr().is_ipv4() == cidr.addr().is_ipv4());
            if self.block_size.is_none() && has_family && !self.block_prefixes.iter().any(of_family) {
                self.block_prefixes.push(*block_len);
            }
        }
    }
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
    fn check(&self) -> Result<(), NetworkError> {
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
            words::check("the name of auxiliary address", name, AUX_NAME_MAX)?;
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

impl Network {
    /// Whether it is one that a request could have led to.
    ///
    /// # Errors
    ///
    /// Says what no request would have led to.
    pub fn check(&self) -> Result<(), NetworkError> {
        check_name(&self.name)?;
        if !(1..=NETWORK_MAX).contains(&self.id) {
            return Err(NetworkError::Id(self.id));
        }
        let cidrs: Vec<IpNet> = self.cidrs().collect();
        check_families(&cidrs)?;
        self.subnets.iter().try_for_each(Subnet::check)?;
        if self.internal && self.routable {
            return Err(NetworkError::InternalRoutable);
        }
        let v6 = cidrs.iter().any(|cidr| cidr.addr().is_ipv6());
        let min_mtu = if v6 { MIN_MTU_V6 } else { MIN_MTU_V4 };
        if let Some(mtu) = self.mtu.filter(|mtu| !(min_mtu..=MAX_MTU).contains(mtu)) {
            return Err(NetworkError::Mtu(mtu, min_mtu));
        }
        self.runtime.check().map_err(NetworkError::Dressing)
    }

    /// Whether a prefix is one of its blocks, or a single address that one of its
    /// endpoints can have.
    pub fn has_block(&self, cidr: IpNet) -> bool {
        self.subnet_of(cidr.addr()).is_some_and(|subnet| match single(cidr) {
            Some(addr) => subnet.is_assignable(addr),
            None => cidr.prefix_len() == subnet.block_len,
        })
    }

    /// Its subnets' prefixes.
    pub fn cidrs(&self) -> impl Iterator<Item = IpNet> + '_ {
        self.subnets.iter().map(|subnet| subnet.cidr)
    }

    /// The subnet that contains an address.
    pub fn subnet_of(&self, addr: IpAddr) -> Option<&Subnet> {
        self.subnets.iter().find(|subnet| subnet.cidr.contains(&addr))
    }

    /// Whether the other network behaves the same.
    pub fn same_options(&self, other: &Self) -> bool {
        self.subnets == other.subnets && self.same_but_subnets(other)
    }

    /// The same, wherever their addresses lie.
    pub fn same_but_subnets(&self, other: &Self) -> bool {
        let of = |n: &Self| (n.mtu, n.internal, n.routable, n.runtime.options.get(IFACE_PREFIX).cloned());
        of(self) == of(other)
    }

    /// Whether the other can stand in for this one, whose subnets nobody chose.
    pub fn gives_way_to(&self, other: &Self) -> bool {
        let families = |n: &Self| n.subnets.iter().map(|s| s.cidr.addr().is_ipv4()).collect::<Vec<_>>();
        self.pooled && families(self) == families(other) && self.same_but_subnets(other)
    }
}

fn check_families(cidrs: &[IpNet]) -> Result<(), NetworkError> {
    match *cidrs {
        [] => Err(NetworkError::NoSubnet),
        [_] => Ok(()),
        [a, b] if a.addr().is_ipv4() != b.addr().is_ipv4() => Ok(()),
        [a, b, ..] => Err(NetworkError::SameFamily(a, b)),
    }
}

/// What a network may be called.
pub fn check_name(name: &str) -> Result<(), NetworkError> {
    let starts = name.starts_with(|c: char| c.is_ascii_alphanumeric());
    let rest = name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
    if starts && rest && name.len() <= 63 { Ok(()) } else { Err(NetworkError::Name(name.into())) }
}

/// What a network may be called that is to be created.
pub fn check_new_name(name: &str) -> Result<(), NetworkError> {
    check_name(name)?;
    if PREDEFINED.contains(&name) { Err(NetworkError::Predefined(name.into())) } else { Ok(()) }
}

/// Networks and modes that a runtime has built in.
const PREDEFINED: [&str; 4] = ["bridge", "default", "host", "none"];

pub(super) fn check_cidr(cidr: IpNet) -> Result<(), NetworkError> {
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
const SPECIAL: [(&str, &str); 8] = [
    ("0.0.0.0/8", "reserved"),
    ("127.0.0.0/8", "loopback"),
    ("169.254.0.0/16", "link-local"),
    ("224.0.0.0/4", "multicast"),
    ("240.0.0.0/4", "reserved"),
    ("::/64", "reserved, as are loopback and IPv4-mapped addresses in it"),
    ("fe80::/10", "link-local"),
    ("ff00::/8", "multicast"),
];

/// Whether two prefixes have an address in common.
pub fn overlap(a: IpNet, b: IpNet) -> bool {
    a.contains(&b) || b.contains(&a)
}

/// Whether the length of a block's prefix is IPv4's: no block of IPv6 is as large.
fn is_v4(len: u8) -> bool {
    len <= 32
}

/// The block length for a subnet: as asked, or by the rule of 64.
fn block_len(cidr: IpNet, size: Option<u32>) -> Result<u8, NetworkError> {
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
fn max_block(cidr: IpNet) -> u32 {
    if host_bits(cidr) > MAX_BLOCK.ilog2() { MAX_BLOCK } else { (1 << host_bits(cidr)) / 2 }
}

/// Bits of an address behind a prefix.
fn host_bits(cidr: IpNet) -> u32 {
    u32::from(max_len(cidr.addr()) - cidr.prefix_len())
}

/// Bits of an address of that family.
pub fn max_len(addr: IpAddr) -> u8 {
    if addr.is_ipv4() { 32 } else { 128 }
}

fn is_false(value: &bool) -> bool {
    !value
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

#[cfg(test)]
mod tests;
