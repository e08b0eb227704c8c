//! Blocks: who owns them, and who has which address in them.

use std::{collections::BTreeMap, net::IpAddr};

use serde::{Deserialize, Serialize};

use super::Unknown;

/// Who owns a block; the value of a route's key, watched by all.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// The node that owns the block.
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
    /// The address given out last: the next one is sought behind it, so that
    /// a freed address rests as long as possible.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<IpAddr>,
    /// The endpoint that has an address.
    pub addresses: BTreeMap<IpAddr, Holder>,
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
}
