//! A node: one host with one agent.

use std::net::{IpAddr, Ipv6Addr};

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
