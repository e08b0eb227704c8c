//! A network: what containers join.

mod error;
mod prefix;
mod request;
mod subnet;

use std::{collections::BTreeMap, net::IpAddr};

use ipnet::IpNet;
use margay_common::route::NETWORK_MAX;
use serde::{Deserialize, Serialize};

use self::subnet::check_families;
pub(super) use self::subnet::{BLOCK_BITS, check_cidr};
pub use self::{
    error::NetworkError,
    prefix::{bits, max_len, net, nth, offset, overlap},
    request::{NetworkRequest, check_new_name},
    subnet::Subnet,
};
use super::{Unknown, snapshot::single};

/// The least MTU that IPv6 works with (RFC 8200 section 5).
const MIN_MTU_V6: u32 = 1280;
/// The least MTU that IPv4 works with (RFC 791 section 3.2).
const MIN_MTU_V4: u32 = 576;
/// The greatest MTU of a veth.
const MAX_MTU: u32 = 65_535;

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

    /// Whether the other network behaves the same. `compared` names the runtime's options that
    /// change what containers get: both networks have the same values of them.
    pub fn same_options(&self, other: &Self, compared: &[&str]) -> bool {
        self.subnets == other.subnets && self.same_but_subnets(other, compared)
    }

    fn same_but_subnets(&self, other: &Self, compared: &[&str]) -> bool {
        let of = |n: &Self| (n.mtu, n.internal, n.routable);
        let [own, others] = [self, other].map(|n| &n.runtime.options);
        of(self) == of(other) && compared.iter().all(|option| own.get(*option) == others.get(*option))
    }

    /// Whether the other can replace this one, whose subnets nobody chose. `compared` is that of
    /// [`Self::same_options`].
    pub fn gives_way_to(&self, other: &Self, compared: &[&str]) -> bool {
        let families = |n: &Self| n.subnets.iter().map(|s| s.cidr.addr().is_ipv4()).collect::<Vec<_>>();
        self.pooled && families(self) == families(other) && self.same_but_subnets(other, compared)
    }
}

/// What a network may be called.
pub fn check_name(name: &str) -> Result<(), NetworkError> {
    let starts = name.starts_with(|c: char| c.is_ascii_alphanumeric());
    let rest = name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
    if starts && rest && name.len() <= 63 { Ok(()) } else { Err(NetworkError::Name(name.into())) }
}

fn is_false(value: &bool) -> bool {
    !value
}

#[cfg(test)]
mod tests;
