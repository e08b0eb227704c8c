//! Prefixes that the guard blocks.

use serde::{Deserialize, Serialize};

use super::Unknown;

/// The value of a blocked prefix.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Blocked {
    /// Why, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comment: Option<String>,
    /// Since when, seconds since 1970.
    pub since: u64,
    /// Fields of a newer agent.
    #[serde(flatten)]
    pub unknown: Unknown,
}
