//! The resources that the store holds, their keys, and the snapshot of all of
//! them. Pure: no I/O, no clock.

pub mod block;
pub mod check;
pub mod denied;
pub mod endpoint;
pub mod key;
pub mod membership;
pub mod network;
pub mod node;
pub mod pick;
pub mod pool;
pub mod snapshot;

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use thiserror::Error;

/// The version of every value's format.
pub const VERSION: u32 = 1;

/// A value as the store holds it: JSON with a version. Fields that a newer
/// agent wrote stay in `unknown` of each resource and are written back.
#[derive(Serialize, Deserialize)]
struct Versioned<T> {
    v: u32,
    #[serde(flatten)]
    value: T,
}

/// Why a value cannot be used.
#[derive(Debug, Error)]
pub enum ValueError {
    /// Not JSON, or not of this shape.
    #[error("does not parse: {0}")]
    Parse(#[from] serde_json::Error),
    /// Written by an agent of another generation.
    #[error("has version {0}, this agent knows {VERSION}")]
    Version(u32),
    /// No agent would have written it there.
    #[error("{0}")]
    Strange(String),
}

/// Writes a resource as the store holds it.
pub fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    // Serialising our own types to memory fails only on a bug in them, which
    // the round-trip tests would show.
    serde_json::to_vec(&Versioned { v: VERSION, value }).unwrap_or_default()
}

/// Reads a resource from the store, and judges it ([`check::Value`]).
///
/// # Errors
///
/// The value cannot be used; the error's words follow the key's name.
pub fn decode<T: DeserializeOwned + check::Value>(key: &key::Key, bytes: &[u8]) -> Result<T, ValueError> {
    let value: T = parse(bytes)?;
    value.check(key).map_err(ValueError::Strange)?;
    Ok(value)
}

/// Reads a resource whatever it says: one of this node's own files.
///
/// # Errors
///
/// The value is not of the shape, or of another version.
pub fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ValueError> {
    #[derive(Deserialize)]
    struct Version {
        v: u32,
    }
    let Version { v } = serde_json::from_slice(bytes)?;
    if v != VERSION {
        return Err(ValueError::Version(v));
    }
    Ok(serde_json::from_slice::<Versioned<T>>(bytes)?.value)
}

/// Fields of a newer agent, kept for rewriting.
pub type Unknown = serde_json::Map<String, serde_json::Value>;
