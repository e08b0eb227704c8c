//! A node: one host with one agent.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv6Addr},
};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::Unknown;

/// What a node tells the others of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Unique in the cluster.
    pub name: String,
    /// Its addresses on the underlay, at most one of each family.
    pub addresses: Vec<IpAddr>,
    /// The link-local address of its uplink, which carries IPv6 where the
    /// node has no other address for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link_local: Option<Ipv6Addr>,
    /// Names the agent's state folder: another agent that takes the same name
    /// has another.
    #[serde(default)]
    pub instance: String,
    /// Counts how often the node has written itself.
    #[serde(default)]
    pub generation: u64,
    /// When it joined, seconds since 1970.
    #[serde(default)]
    pub since: u64,
    /// The largest super-packet that its containers send, bytes, where that is
    /// above 64 KiB (BIG TCP).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub super_packets: Option<u32>,
    /// Prefixes on links of its host that are not ours: no network is put there.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub occupied: Vec<IpNet>,
    /// Prefixes that its host has routes to, or that its runtimes would give to networks of
    /// their own: no network is put there unless somebody names the subnet.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub routed: Vec<IpNet>,
    /// Addresses of its store and of its gateways, without which nothing reaches it: no
    /// network may hold them, and the deny list may not hold them.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub depends_on: BTreeSet<IpAddr>,
    /// Fields of a newer agent.
    #[serde(flatten)]
    pub unknown: Unknown,
}

/// The cluster, as its first node named it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cluster {
    /// Sixteen hexadecimal digits.
    pub id: String,
    /// Raised when an operator declares a changed store to be the right one.
    pub epoch: u64,
    /// While the store is not what it was: nodes that have not yet put back
    /// what is theirs. The store is whole again when none is left.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub awaiting: BTreeSet<String>,
    /// Ids of clusters that were moved to this store.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub formerly: BTreeSet<String>,
    /// Fields of a newer agent.
    #[serde(flatten)]
    pub unknown: Unknown,
}

/// A node that an operator removed, until it comes back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Removed {
    /// The instance of its agent.
    pub instance: String,
    /// When, seconds since 1970.
    pub since: u64,
}

/// The value of the key that a node's lease keeps.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Alive {
    /// When the agent came, seconds since 1970.
    pub since: u64,
}

/// The value of the key that says which node has an underlay address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddressHolder {
    /// The node's name.
    pub node: String,
}
