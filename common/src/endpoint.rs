//! Local endpoints: what the programs know of a container on this node.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::{
    maps::MAX_WORKLOADS,
    net::{Addr, Family, MacWord},
};

/// The network answers "prohibited" to whatever leaves it, except to the
/// cluster's nodes.
pub const INTERNAL: u32 = 1 << 0;
/// Any router may send to the network, and its endpoints answer by the uplink
/// without the host's stack.
pub const ROUTABLE: u32 = 1 << 1;
/// Some of the network's addresses are routed one by one, so an exact look-up
/// has to come before that of the block.
pub const BORROWED: u32 = 1 << 2;
/// The container sends by a netkit, so its packets are seen in its own context and
/// not at the ingress of a veth. Of a [`Workload`] alone.
pub const NETKIT: u32 = 1 << 3;

/// One family of a [`Workload`]. All zero where the network has no subnet of
/// that family: the unspecified address never passes for a source.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct Side {
    /// The endpoint's address.
    pub addr: Addr,
    /// The network's gateway, answered for by the programs.
    pub gateway: Addr,
    /// Mask of the network's subnet.
    pub subnet_mask: Addr,
    /// Mask of one block of the subnet.
    pub block_mask: Addr,
    /// Length of that mask, of 128 bits; zero only where there is no subnet. As wide as
    /// keeps the layout free of padding.
    pub block_len: u64,
}

impl Side {
    /// Whether the endpoint has this address. Where there is no subnet, it has none, also
    /// not the unspecified one.
    #[inline(always)]
    pub fn has(&self, addr: &Addr) -> bool {
        self.addr == *addr && self.block_len != 0
    }
}

/// What `from_workload` knows of the container behind an interface. The key is
/// the index of its host side.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct Workload {
    /// The container's own MAC, the only one it may send from.
    pub mac: MacWord,
    /// The network's id, 24 bits.
    pub network: u32,
    /// The container's number, as [`EndpointEntry::sandbox`]: endpoints of one container may
    /// send from each other's addresses. Zero while it is not known.
    pub sandbox: u32,
    /// [`INTERNAL`], [`ROUTABLE`], [`BORROWED`], [`NETKIT`].
    pub flags: u32,
    /// Keeps the layout free of padding; zero.
    pub reserved: u32,
    /// IPv4.
    pub v4: Side,
    /// IPv6.
    pub v6: Side,
}

/// A slot of the array of senders, which belongs to one interface at a time. An
/// array is read without a call, which a hash is not: most packets need no other
/// look-up to know their sender.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct WorkloadSlot {
    /// Index of the host side of the interface that has this slot; zero for none.
    pub ifindex: u32,
    /// Keeps the layout free of padding; zero.
    pub reserved: u32,
    /// The container behind it.
    pub workload: Workload,
}

const _: () = assert!(MAX_WORKLOADS.is_power_of_two(), "an index modulo it is a mask");

impl WorkloadSlot {
    /// A slot of an interface; of none where its index is zero.
    pub const fn new(ifindex: u32, workload: Workload) -> Self {
        Self { ifindex, reserved: 0, workload }
    }

    /// The slot of an interface. Those that are as many apart as there are slots
    /// share one; who comes second has to go elsewhere.
    #[inline(always)]
    pub const fn of(ifindex: u32) -> u32 {
        ifindex & (MAX_WORKLOADS - 1)
    }
}

impl Workload {
    /// Whether another differs from this only in what its node alone knows: whose container
    /// it is.
    pub fn may_become(&self, other: &Self) -> bool {
        Self { sandbox: other.sandbox, ..*self } == *other
    }

    /// Whether an endpoint is one of the same container.
    #[inline(always)]
    pub const fn shares_sandbox(&self, endpoint: &EndpointEntry) -> bool {
        self.sandbox != 0 && self.sandbox == endpoint.sandbox
    }

    /// The half of this sender that a packet of `family` concerns.
    #[inline(always)]
    pub const fn side(&self, family: Family) -> &Side {
        match family {
            Family::V4 => &self.v4,
            Family::V6 => &self.v6,
        }
    }
}

/// Where a local address lives. The key is the address.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct EndpointEntry {
    /// Index of the interface's host side.
    pub ifindex: u32,
    /// The network's id, 24 bits.
    pub network: u32,
    /// The container's number: the inode number of its network namespace, or one that
    /// the agent gave, below all of those. Zero while it is not known.
    pub sandbox: u32,
    /// The largest packet that the container takes, without the link header.
    pub mtu: u32,
    /// [`INTERNAL`], [`ROUTABLE`], [`BORROWED`].
    pub flags: u32,
    /// Keeps the layout free of padding; zero.
    pub reserved: u32,
    /// The container's MAC.
    pub mac: MacWord,
    /// Mask of the network's subnet: who shares it shares the network.
    pub subnet_mask: Addr,
}

impl EndpointEntry {
    /// The same as [`Workload::may_become`]; an address that has come to another interface
    /// of the node is the node's own affair, too.
    pub fn may_become(&self, other: &Self) -> bool {
        self.ifindex != other.ifindex || Self { sandbox: other.sandbox, ..*self } == *other
    }
}
