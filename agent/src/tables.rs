//! Everything that the kernel holds for us, as one value: what it should hold
//! and what it does hold are both [`Tables`].

use std::{collections::BTreeSet, fmt, net::IpAddr};

use ipnet::IpNet;
use margay_common::{
    endpoint::{Endpoint, Workload},
    net::Addr,
    route::{Node, Prefix, Route, RouteKey},
    verdict::Program,
};

use crate::shared::Shared;

/// Name of the host's own interface into the networks.
pub const HOST_INTERFACE: &str = "margay0";
/// Prefix of the names of the host side of every endpoint.
pub const ENDPOINT_PREFIX: &str = "mgy";

/// The host side of an endpoint.
pub fn host_interface(endpoint: &str) -> String {
    format!("{ENDPOINT_PREFIX}{}", endpoint.get(..12).unwrap_or(endpoint))
}

/// An interface that is ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Interface {
    /// `margay0`, with its MTU.
    Host {
        /// The largest packet without the link header.
        mtu: u32,
    },
    /// The host side of an endpoint. Attaching makes it; the
    /// tables only know that it is wanted.
    Endpoint,
}

/// A program at its hook on an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Attachment {
    /// The program, which knows its hook.
    pub program: Program,
    /// Whether it is the one of this agent's object, not of an earlier one.
    pub current: bool,
}

/// The XDP program at an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct XdpAttachment {
    /// Whether the driver runs it.
    pub native: bool,
    /// Whether it is the one of this agent's object, not of an earlier one.
    pub current: bool,
}

/// A subnet or a node in the trie of prefixes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PrefixKey {
    /// Length of the prefix, of 128 bits.
    pub len: u32,
    /// The address, masked to that length.
    pub addr: Addr,
}

/// The host's own route to a subnet, by `margay0`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct HostRoute {
    /// The subnet's gateway: one neighbour entry serves the whole subnet.
    pub gateway: IpAddr,
    /// The address that the host speaks from.
    pub source: Option<IpAddr>,
    /// The largest packet that every endpoint of the subnet takes.
    pub mtu: u32,
}

/// Our nftables table: who is masqueraded.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Firewall {
    /// Whose addresses the world does not see.
    pub subnets: BTreeSet<IpNet>,
    /// Whether IPv6 forwarding that has nothing to do with containers is
    /// dropped, since it was off before.
    pub guard_v6: bool,
}

/// Which way a packet passes `margay0`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Direction {
    /// From a container.
    In,
    /// To a container.
    Out,
}

/// An exception in a chain of iptables that drops what is forwarded.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Accept {
    /// Whether it is of IPv4.
    pub v4: bool,
    /// The chain.
    pub chain: String,
    /// The direction.
    pub direction: Direction,
}

/// A switch of the kernel.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SysctlKey {
    /// Switches of a lower stage are set before those of a higher one.
    pub stage: u8,
    /// Its path below /proc/sys.
    pub path: String,
}

/// Declares the tables in the order of reference: an entry may refer to
/// entries of earlier tables only.
macro_rules! tables {
    ($($(#[$meta:meta])* $field:ident: $variant:ident($key:ty => $value:ty);)*) => {
        /// What the kernel holds for us, or should.
        #[derive(Clone, Debug, Default, PartialEq, Eq)]
        pub struct Tables { $($(#[$meta])* pub $field: Shared<$key, $value>,)* }

        /// Names one entry. The order is that of the tables.
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Key { $($(#[$meta])* $variant($key),)* }

        /// One entry.
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub enum Entry { $($(#[$meta])* $variant($key, $value),)* }

        impl Entry {
            /// The entry's name.
            pub fn key(&self) -> Key {
                match self { $(Self::$variant(key, _) => Key::$variant(key.clone()),)* }
            }
        }

        impl Tables {
            /// Adds or replaces an entry.
            pub fn put(&mut self, entry: Entry) {
                match entry { $(Entry::$variant(key, value) => { self.$field.insert(key, value); })* }
            }

            /// Removes an entry.
            pub fn remove(&mut self, key: &Key) {
                match key { $(Key::$variant(key) => { self.$field.remove(key); })* }
            }

            /// The entry of that name.
            pub fn get(&self, key: &Key) -> Option<Entry> {
                match key {
                    $(Key::$variant(key) => {
                        self.$field.get(key).map(|value| Entry::$variant(key.clone(), value.clone()))
                    })*
                }
            }

            /// All entries, in the order of the tables.
            pub fn entries(&self) -> impl Iterator<Item = Entry> {
                let all = std::iter::empty();
                $(let all = all.chain(
                    self.$field.iter().map(|(k, v)| Entry::$variant(k.clone(), v.clone())),
                );)*
                all
            }

            /// The entries of `self` that `other` lacks or holds differently,
            /// and the keys of `other` that `self` lacks, each in the order of
            /// the tables.
            pub fn difference(&self, other: &Self) -> (Vec<Entry>, Vec<Key>) {
                let (mut put, mut remove) = (Vec::new(), Vec::new());
                $(
                    for (key, value) in &self.$field {
                        if other.$field.get(key) != Some(value) {
                            put.push(Entry::$variant(key.clone(), value.clone()));
                        }
                    }
                    for key in other.$field.keys() {
                        if !self.$field.contains_key(key) {
                            remove.push(Key::$variant(key.clone()));
                        }
                    }
                )*
                (put, remove)
            }
        }
    };
}

tables! {
    /// Interfaces by name.
    interfaces: Interface(String => Interface);
    /// The node's own entry.
    node: Node(() => Node);
    /// Containers by the index of their host side.
    workloads: Workload(u32 => Workload);
    /// Programs by the interface that they are attached to.
    attachments: Attachment(String => Attachment);
    /// Blocks of other nodes.
    routes: Route(RouteKey => Route);
    /// Subnets and nodes.
    prefixes: Prefix(PrefixKey => Prefix);
    /// Prefixes that are blocked.
    guards: Guard(PrefixKey => ());
    /// Addresses of this host itself, on all of its interfaces.
    own_addresses: OwnAddress(Addr => ());
    /// Local addresses.
    endpoints: Endpoint(Addr => Endpoint);
    /// XDP programs by interface.
    xdp: Xdp(String => XdpAttachment);
    /// The host's routes to our subnets.
    host_routes: HostRoute(IpNet => HostRoute);
    /// Our nftables table.
    firewall: Firewall(() => Firewall);
    /// Exceptions in iptables' chains.
    accepts: Accept(Accept => ());
    /// Switches of the host that we set.
    sysctls: Sysctl(SysctlKey => String);
}

/// An entry of the kernel in words.
impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Interface(name) => write!(f, "interface {name}"),
            Self::Node(()) => write!(f, "this node's own entry"),
            Self::Workload(index) => write!(f, "the container behind interface {index}"),
            Self::Attachment(name) => write!(f, "the program on {name}"),
            Self::Route(key) => write!(f, "the route to {}", IpAddr::from(key.addr)),
            Self::Prefix(key) => write!(f, "the prefix {}", IpAddr::from(key.addr)),
            Self::Guard(key) => write!(f, "denied prefix {}", IpAddr::from(key.addr)),
            Self::OwnAddress(addr) => write!(f, "this host's own address {}", IpAddr::from(*addr)),
            Self::Xdp(name) => write!(f, "the XDP program on {name}"),
            Self::Endpoint(addr) => write!(f, "the endpoint {}", IpAddr::from(*addr)),
            Self::HostRoute(dst) => write!(f, "the host's route to {dst}"),
            Self::Firewall(()) => write!(f, "masquerading"),
            Self::Accept(accept) => write!(f, "the exception in iptables' chain {}", accept.chain),
            Self::Sysctl(key) => write!(f, "the kernel's switch {}", key.path),
        }
    }
}
