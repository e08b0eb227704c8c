//! The kinds of entries, and where each stands in the database.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::check::Entry;
use crate::model::{
    self, ValueError,
    endpoint::{Endpoint, Kept},
    network::Network,
};

/// A network that this node has endpoints or a stash of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// The network as it was last seen.
    pub network: Network,
    /// Addresses of this node's stash.
    #[serde(default)]
    pub stash: BTreeSet<IpAddr>,
}

/// One of a runtime's networks on this host, and which network of ours it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuntimeNetwork {
    /// The runtime's id, on this host alone; 64 hexadecimal digits.
    pub id: String,
    /// The network's id in the cluster.
    pub network: u32,
    /// The name that its options ask for, whatever the runtime calls it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wanted: Option<String>,
    /// When it was made, in seconds since 1970.
    pub since: u64,
    /// Whether the runtime asked for subnets of our choice. Then it refuses addresses that
    /// a user names.
    #[serde(default)]
    pub chosen: bool,
    /// Whether the runtime has removed it, so that it is to go everywhere.
    #[serde(default)]
    pub removed: bool,
}

/// A table of the database.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Table {
    Endpoints,
    Kept,
    Networks,
    RuntimeNetworks,
}

impl Table {
    pub const ALL: [Self; 4] = [Self::Endpoints, Self::Kept, Self::Networks, Self::RuntimeNetworks];

    /// Its name in the database.
    pub fn name(self) -> &'static str {
        match self {
            Self::Endpoints => "endpoints",
            Self::Kept => "kept",
            Self::Networks => "networks",
            Self::RuntimeNetworks => "runtime-networks",
        }
    }
}

/// Where an entry stands: its table, and its key there.
pub(super) type Place = (Table, String);
/// Entries by place.
pub(super) type Records = BTreeMap<Place, Record>;
/// What becomes of entries; `None` for those that are to go.
pub(super) type Changes = BTreeMap<Place, Option<Record>>;

/// One entry, whatever its kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Record {
    Endpoint(Endpoint),
    Kept(Kept),
    Network(Member),
    RuntimeNetwork(RuntimeNetwork),
}

impl Record {
    pub fn place(&self) -> Place {
        match self {
            Self::Endpoint(endpoint) => (Table::Endpoints, endpoint.id.clone()),
            Self::Kept(kept) => (Table::Kept, kept_key(&kept.container, kept.network)),
            Self::Network(member) => (Table::Networks, member.network.id.to_string()),
            Self::RuntimeNetwork(network) => (Table::RuntimeNetworks, network.id.clone()),
        }
    }

    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Endpoint(endpoint) => model::encode(endpoint),
            Self::Kept(kept) => model::encode(kept),
            Self::Network(member) => model::encode(member),
            Self::RuntimeNetwork(network) => model::encode(network),
        }
    }
}

/// The key of what a container keeps. Ids of containers are hexadecimal; the first half of
/// one is enough.
pub(super) fn kept_key(container: &str, network: u32) -> String {
    let plain: String = container.chars().filter(char::is_ascii_alphanumeric).take(32).collect();
    format!("{plain}-{network}")
}

/// Why an entry is not used.
#[derive(Debug)]
pub(super) enum Fault {
    /// An agent of another generation wrote it: it is good, and this agent cannot do
    /// without it.
    Version(ValueError),
    /// It is broken, or somebody else's.
    Bad(String),
}

/// Reads an entry, and looks at each of its fields.
pub(super) fn parse((table, key): &Place, bytes: &[u8]) -> Result<Record, Fault> {
    match table {
        Table::Endpoints => read(key, bytes).map(Record::Endpoint),
        Table::Kept => read(key, bytes).map(Record::Kept),
        Table::Networks => read(key, bytes).map(Record::Network),
        Table::RuntimeNetworks => read(key, bytes).map(Record::RuntimeNetwork),
    }
}

/// The same for an entry whose kind is known.
pub(super) fn read<T: DeserializeOwned + Entry>(key: &str, bytes: &[u8]) -> Result<T, Fault> {
    let value: T = match model::parse(bytes) {
        Ok(value) => value,
        Err(error @ ValueError::Version(_)) => return Err(Fault::Version(error)),
        Err(error) => return Err(Fault::Bad(format!("it {error}"))),
    };
    match value.fault(key) {
        None => Ok(value),
        Some(fault) => Err(Fault::Bad(fault)),
    }
}
