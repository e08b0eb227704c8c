//! What one step of an endpoint's life changes in the journal, written together or not
//! at all.

use super::entry::{Changes, Member, Record, RuntimeNetwork, Table, kept_key};
use crate::model::endpoint::{Endpoint, Kept};

/// One step. What comes later in it counts.
#[derive(Clone, Debug, Default)]
pub struct Step(Changes);

impl Step {
    /// An endpoint is as this says.
    pub fn endpoint(self, endpoint: &Endpoint) -> Self {
        self.put(Record::Endpoint(endpoint.clone()))
    }

    /// An endpoint is gone.
    pub fn without_endpoint(self, id: &str) -> Self {
        self.remove(Table::Endpoints, id.to_owned())
    }

    /// This node has something of a network.
    pub fn network(self, member: &Member) -> Self {
        self.put(Record::Network(member.clone()))
    }

    /// This node has nothing of a network any more.
    pub fn without_network(self, id: u32) -> Self {
        self.remove(Table::Networks, id.to_string())
    }

    /// A runtime has a network of ours.
    pub fn runtime_network(self, network: &RuntimeNetwork) -> Self {
        self.put(Record::RuntimeNetwork(network.clone()))
    }

    /// A runtime has a network no more, by the runtime's id of it.
    pub fn without_runtime_network(self, id: &str) -> Self {
        self.remove(Table::RuntimeNetworks, id.to_owned())
    }

    /// A container keeps these addresses.
    pub fn kept(self, kept: &Kept) -> Self {
        self.put(Record::Kept(kept.clone()))
    }

    /// A container keeps nothing on a network.
    pub fn without_kept(self, container: &str, network: u32) -> Self {
        self.remove(Table::Kept, kept_key(container, network))
    }

    pub(super) fn put(mut self, record: Record) -> Self {
        self.0.insert(record.place(), Some(record));
        self
    }

    pub(super) fn remove(mut self, table: Table, key: String) -> Self {
        self.0.insert((table, key), None);
        self
    }

    pub(super) fn into_changes(self) -> Changes {
        self.0
    }
}
