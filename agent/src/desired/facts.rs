//! What this host says of itself.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::{IpAddr, Ipv6Addr},
};

use ipnet::IpNet;
use margay_common::net::Mac;

use super::world::World;
use crate::{
    model::{endpoint::Endpoint, snapshot::Vital},
    shared::Shared,
};

/// The uplink's XDP program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Xdp {
    /// Run by the driver, if it takes it; what it came to is not known yet.
    Auto,
    /// Run by the driver.
    Native,
    /// Run behind it.
    Generic,
    /// There is none, for this reason.
    Off(String),
}

impl Default for Xdp {
    fn default() -> Self {
        Self::Off("off".into())
    }
}

impl fmt::Display for Xdp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto | Self::Native => "native",
            Self::Generic => "generic",
            Self::Off(why) => why,
        })
    }
}

/// The interface towards the other nodes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Uplink {
    /// Its name.
    pub name: String,
    /// Its index.
    pub ifindex: u32,
    /// Its MTU, without the link header.
    pub mtu: u32,
    /// The prefixes of its addresses, those of a single address apart.
    pub prefixes: Vec<IpNet>,
    /// Its link-local address.
    pub link_local: Option<Ipv6Addr>,
    /// The largest super-packet that it sends, bytes.
    pub super_packet: u32,
    /// Its MAC.
    pub mac: Mac,
}

/// What this host says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LocalFacts {
    /// The node's name.
    pub node: String,
    /// Its addresses on the underlay, at most one of each family.
    pub addresses: Vec<IpAddr>,
    /// Those that an operator named; without any they are the uplink's.
    pub given: Vec<IpAddr>,
    /// The interface towards the other nodes.
    pub uplink: Uplink,
    /// Why the uplink has no IPv6, where it is switched off.
    pub no_ipv6: Option<String>,
    /// Those addresses of other nodes that the kernel's routes place on the uplink's link.
    pub on_link: BTreeSet<IpAddr>,
    /// The interfaces that are ours, by name: their index.
    pub interfaces: Shared<String, u32>,
    /// Prefixes on links of this host that are not ours.
    pub occupied: Vec<IpNet>,
    /// Prefixes that this host has routes to which are not ours, as far as they overlap a
    /// pool or a network.
    pub routed: Vec<IpNet>,
    /// Where this host's Docker takes the subnets of its own networks from.
    pub runtime_pools: Vec<IpNet>,
    /// The gateways of this host's routes that lead everywhere or to the store.
    pub gateways: BTreeSet<IpAddr>,
    /// Addresses at which this node reaches the store, if that is elsewhere.
    pub store: BTreeSet<IpAddr>,
    /// All of the host's own addresses, except loopback and link-local ones.
    pub own: BTreeSet<IpAddr>,
    /// The largest super-packet that containers may send, bytes, where that is
    /// above the usual 64 KiB.
    pub super_packets: Option<u32>,
    /// Whether the uplink has an XDP program, and whether that is the driver's to
    /// run; or why it has none.
    pub xdp: Xdp,
    /// The way to the world.
    pub world: World,
    /// The endpoints of the journal, by id.
    pub endpoints: Shared<String, Endpoint>,
}

impl LocalFacts {
    /// This node's address of the same family.
    pub fn address_like(&self, addr: IpAddr) -> Option<IpAddr> {
        self.addresses.iter().copied().find(|own| own.is_ipv4() == addr.is_ipv4())
    }

    /// Whether an address is on the uplink's own link, as the kernel's routes say.
    pub fn is_on_link(&self, addr: IpAddr) -> bool {
        self.on_link.contains(&addr)
    }

    /// The addresses without which this node reaches nothing, each with what it is.
    pub fn vital(&self) -> BTreeMap<IpAddr, Vital> {
        let own = self.addresses.iter().map(|addr| (*addr, Vital::Own));
        let gateways = self.gateways.iter().map(|addr| (*addr, Vital::Gateway));
        // The last one counts: what is the store's is.
        own.chain(gateways).chain(self.store.iter().map(|addr| (*addr, Vital::Store))).collect()
    }

    /// The vital address that a prefix holds, and what it is.
    pub fn vital_in(&self, cidr: IpNet) -> Option<(IpAddr, Vital)> {
        self.vital().into_iter().find(|(addr, _)| cidr.contains(addr))
    }
}
