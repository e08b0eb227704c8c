//! Blocks: who owns them, and who has which address in them.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use serde::{Deserialize, Serialize};

use super::Unknown;

/// Who owns a block, or has borrowed a single address; the value of a route's key, watched by all.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// The node.
    pub node: String,
    /// Fields of a newer agent.
    #[serde(flatten)]
    pub unknown: Unknown,
}

/// Who has which address in a block; written by compare-and-swap, watched by
/// nobody.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Allocations {
    /// The node that owns the block.
    pub node: String,
    /// The address given out last: the next one is sought behind it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<IpAddr>,
    /// The endpoint that has an address.
    pub addresses: BTreeMap<IpAddr, Holder>,
    /// Addresses that the owner alone may give out, also while the store is
    /// away.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub reserved: BTreeSet<IpAddr>,
    /// When an address was freed, seconds since 1970, until it is given again.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub freed: BTreeMap<IpAddr, u64>,
    /// Fields of a newer agent.
    #[serde(flatten)]
    pub unknown: Unknown,
}

/// Who has an address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// The endpoint's id.
    pub endpoint: String,
    /// The endpoint's name, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The node that borrowed the address, where it is not the block's owner.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// Fields of a newer agent.
    #[serde(flatten)]
    pub unknown: Unknown,
}
