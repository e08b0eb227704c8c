//! Where an address lives that is not on this node.

use core::fmt;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::net::{Addr, Family, MacWord};

/// The highest id that a network may have: 24 bits.
pub const NETWORK_MAX: u32 = (1 << 24) - 1;

/// The key of a route: a block of a network, or with 128 bits a single address.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct RouteKey {
    /// The network's id, 24 bits, and below it in 8 bits the length of the prefix,
    /// of 128 bits; the upper half is zero and keeps the layout free of padding. With the network in the key no packet finds another network's
    /// route; with the length, a block and its own first address are two routes.
    pub scope: u64,
    /// The address, masked to that length.
    pub addr: Addr,
}

impl RouteKey {
    /// The key of a prefix of a network: its id, 24 bits, and the length, of 128
    /// bits, to which the address is masked.
    #[inline(always)]
    pub const fn new(network: u32, len: u32, addr: Addr) -> Self {
        Self { scope: (network << 8 | len) as u64, addr }
    }

    /// The network's id, 24 bits.
    pub const fn network(&self) -> u32 {
        (self.scope >> 8) as u32
    }

    /// Length of the prefix, of 128 bits.
    pub const fn prefix_len(&self) -> u32 {
        self.scope as u32 & 0xff
    }
}

/// The address, without the length.
impl fmt::Display for RouteKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.addr.fmt(f)
    }
}

/// A prefix in a trie, whose longest match counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PrefixKey {
    /// Length of the prefix, of 128 bits.
    pub len: u32,
    /// The address, masked to that length.
    pub addr: Addr,
}

/// The address, without the length.
impl fmt::Display for PrefixKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.addr.fmt(f)
    }
}

/// Where a block lives that another node has. The way there begins at the uplink,
/// which [`Node`] describes: a million routes do not repeat it.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct Route {
    /// The other node's address on the link, or unspecified where it has none
    /// there. An IPv4 packet may have an IPv6 next hop, the reverse is beyond the
    /// kernel.
    pub next_hop: Addr,
    /// Another layout.
    #[cfg(feature = "other-layout")]
    pub reserved: u64,
}

impl Route {
    /// A route by the other node's address on the link, or unspecified.
    pub const fn new(next_hop: Addr) -> Self {
        Self {
            next_hop,
            #[cfg(feature = "other-layout")]
            reserved: 0,
        }
    }

    /// Whether the other node has an address on the link.
    #[inline(always)]
    pub const fn is_reachable(&self) -> bool {
        !self.next_hop.is_unspecified()
    }
}

/// The prefix is the subnet of a network.
pub const SUBNET: u32 = 1;
/// The prefix is the address of another node of the cluster.
pub const NODE: u32 = 2;
/// The prefix is an address of this node.
pub const THIS_NODE: u32 = 3;

/// What a prefix means that is not a block: a subnet or a node. The key is
/// the prefix, matched longest first.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct Prefix {
    /// [`SUBNET`], [`NODE`] or [`THIS_NODE`].
    pub kind: u32,
    /// The network's id for a subnet, else zero.
    pub network: u32,
    /// As in [`crate::endpoint::Workload::flags`], for a subnet.
    pub flags: u32,
    /// Length of one block, of 128 bits, for a subnet.
    pub block_len: u32,
    /// Mask of one block, for a subnet.
    pub block_mask: Addr,
    /// For a subnet its gateway, the source of errors about it; for a node how
    /// to get there, or unspecified where it is not on-link.
    pub via: Addr,
    /// For a node the interface that leads there.
    pub ifindex: u32,
    /// For a node the largest packet that fits on the way.
    pub mtu: u32,
}

/// A next hop as the agent last saw it in the kernel's table of neighbours:
/// what XDP needs to send a frame there itself. The key is its address.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct Neighbour {
    /// Until when this is fresh, nanoseconds of the monotonic clock. The
    /// agent renews it; what it does not renew is left to the kernel.
    pub until: u64,
    /// Its MAC.
    pub mac: MacWord,
    /// The uplink's own.
    pub own: MacWord,
}

/// What the programs know of this node, the only entry of its table.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct Node {
    /// Index of `margay0`, zero where there is none.
    pub host_ifindex: u32,
    /// Index of the uplink, zero in an entry that was never written.
    pub uplink_ifindex: u32,
    /// The largest packet that fits on the uplink, without the link header.
    pub uplink_mtu: u32,
    /// Keeps the layout free of padding; zero.
    pub reserved: u32,
    /// MAC of the uplink.
    pub uplink_mac: MacWord,
    /// The node's IPv4 address, or unspecified.
    pub v4: Addr,
    /// The node's IPv6 address, or unspecified.
    pub v6: Addr,
}

impl Node {
    /// Its address of a family, or unspecified.
    #[inline(always)]
    pub const fn address(&self, family: Family) -> &Addr {
        match family {
            Family::V4 => &self.v4,
            Family::V6 => &self.v6,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_routes_key_holds_the_highest_network_and_the_longest_prefix() {
        for (network, len) in [(1, 0), (1, 128), (NETWORK_MAX, 0), (NETWORK_MAX, 128)] {
            let key = RouteKey::new(network, len, Addr::UNSPECIFIED);
            assert_eq!((key.network(), key.prefix_len()), (network, len));
        }
    }
}
