//! A request to create a network, and what it leaves open.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::{
    Dressing, Network, NetworkError, Subnet, check_name, max_len, nth,
    subnet::{AUX_NAME, AUX_NAME_MAX, MIN_BLOCK, block_len, check_cidr, check_families, max_block},
};
use crate::{model::Unknown, words};

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

impl NetworkRequest {
    /// Checks the request and fills in what it leaves open.
    pub fn into_network(self, id: u32) -> Result<Network, NetworkError> {
        check_new_name(&self.name)?;
        for (name, _) in &self.aux {
            words::check(AUX_NAME, name, AUX_NAME_MAX)?;
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

/// What a network may be called that is to be created.
pub fn check_new_name(name: &str) -> Result<(), NetworkError> {
    check_name(name)?;
    if PREDEFINED.contains(&name) { Err(NetworkError::Predefined(name.into())) } else { Ok(()) }
}

/// Networks and modes that a runtime has built in.
const PREDEFINED: [&str; 4] = ["bridge", "default", "host", "none"];

/// Whether the length of a block's prefix is IPv4's: no block of IPv6 is as large.
fn is_v4(len: u8) -> bool {
    len <= 32
}
