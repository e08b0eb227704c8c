//! What goes over the socket, and what `-o json` prints: the names of the
//! fields are a contract.

use std::{net::IpAddr, path::PathBuf};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

pub use crate::{
    kernel::counters::{Counter, Kind},
    model::network::NetworkRequest,
    problem::Problem,
    store::transfer::Dump,
};

/// The header of a listing that is old: since when the store is away, in seconds since
/// 1970. The listing is as of then.
pub const AS_OF: &str = "margay-as-of";

/// A subnet of a network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subnet {
    /// The subnet.
    pub cidr: IpNet,
    /// Its gateway.
    pub gateway: IpAddr,
    /// Length of the prefix of one block.
    pub block_prefix: u8,
    /// Addresses in one block.
    pub block_size: u128,
    /// The range for automatic allocation; null for the whole subnet.
    pub range: Option<IpNet>,
    /// Addresses that endpoints never get, by what has them.
    pub aux: std::collections::BTreeMap<String, IpAddr>,
}

/// A network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    /// Its id.
    pub id: u32,
    /// Its name.
    pub name: String,
    /// Whether Docker has not told the name yet; until then it is one of ours.
    pub unnamed: bool,
    /// Its subnets.
    pub subnets: Vec<Subnet>,
    /// Its MTU; null where containers take the uplink's.
    pub mtu: Option<u32>,
    /// Whether nothing leaves it.
    pub internal: bool,
    /// Whether any router may send to it.
    pub routable: bool,
    /// The blocks of it, each with its owner.
    pub blocks: Vec<Block>,
    /// Endpoints on this node.
    pub local_endpoints: usize,
}

/// A pool.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pool {
    /// The pool's CIDR.
    pub cidr: IpNet,
    /// Length of the prefix of the subnets that are taken from it.
    pub network_prefix: u8,
    /// The same, under its earlier name.
    pub network_size: u8,
    /// Names of the networks with a subnet in it.
    pub networks: Vec<String>,
}

/// A request to add a pool.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PoolRequest {
    /// The pool's CIDR.
    pub cidr: IpNet,
    /// Length of the prefix of the subnets that are taken from it.
    #[serde(alias = "network_size")]
    pub network_prefix: Option<u8>,
}

/// A denied prefix.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Denied {
    /// The prefix.
    pub cidr: IpNet,
    /// Why, for people.
    pub comment: Option<String>,
    /// Since when, seconds since 1970.
    pub since: u64,
}

/// A request to block a prefix, or to block it no longer.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DenyRequest {
    /// The prefix.
    pub cidr: IpNet,
    /// Why, for people.
    pub comment: Option<String>,
}

/// A request to switch parts of the log.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LogRequest {
    /// Whether dropped packets are logged.
    pub drops: bool,
}

/// A request to remove a node.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct NodeRemoval {
    /// Its name.
    pub name: String,
    /// Also if it looks alive.
    pub yes: bool,
}

/// What removing a node freed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Freed {
    /// Blocks and borrowed addresses.
    pub blocks: usize,
}

/// A block and its owner.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Block {
    /// The block.
    pub cidr: IpNet,
    /// The node that owns it.
    pub node: String,
}

/// A request to attach a container.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AttachRequest {
    /// The network's name.
    pub network: String,
    /// The path of the container's network namespace.
    pub netns: PathBuf,
    /// The interface inside.
    pub ifname: String,
    /// A name for people.
    pub name: Option<String>,
    /// Addresses wanted.
    #[serde(default)]
    pub addresses: Vec<IpAddr>,
    /// The MAC wanted.
    pub mac: Option<String>,
}

/// A request to detach a container: by id, or by namespace and interface.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct DetachRequest {
    /// The endpoint's id or name.
    pub id: Option<String>,
    /// The path of the network namespace.
    pub netns: Option<PathBuf>,
    /// The interface inside.
    pub ifname: Option<String>,
}

/// An endpoint of this node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointView {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: Option<String>,
    /// The network's name.
    pub network: String,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// Its MAC.
    pub mac: String,
    /// Its MTU.
    pub mtu: u32,
    /// The network namespace.
    pub netns: PathBuf,
    /// The interface inside.
    pub ifname: String,
    /// The host side of that.
    pub host_interface: String,
    /// Why it is served no longer.
    pub lost: Option<String>,
}

/// Who has addresses, anywhere in the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// The addresses, on one network.
    pub addresses: Vec<IpAddr>,
    /// The endpoint's id.
    pub id: String,
    /// Its name.
    pub name: Option<String>,
    /// The network's name.
    pub network: String,
    /// The node that the endpoint is on.
    pub node: String,
}

/// A question for the way of a packet.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct WayRequest {
    /// Where to.
    pub to: IpAddr,
    /// The id or name of the endpoint that sends it; without one, the host does.
    pub from: Option<String>,
}

/// Where a packet goes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Way {
    /// Where to.
    pub to: IpAddr,
    /// The id of the endpoint that sends it; null for the host.
    pub from: Option<String>,
    /// What becomes of it: a verdict or the reason of a drop, as counters have them.
    pub verdict: String,
    /// Whether it is dropped.
    pub dropped: bool,
    /// Why, in a sentence.
    pub why: String,
    /// The network that the address is of.
    pub network: Option<String>,
    /// The node that it goes to.
    pub node: Option<String>,
    /// The block or other prefix that decides.
    pub prefix: Option<IpNet>,
    /// The next hop on the underlay.
    pub next_hop: Option<IpAddr>,
    /// The interface that it leaves by.
    pub interface: Option<String>,
    /// The endpoint on this node that it is delivered to.
    pub endpoint: Option<String>,
}

/// What the datapath knows of a prefix.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// The prefix.
    pub prefix: IpNet,
    /// `local`, `remote`, `unreachable`, `subnet`, `node` or `this_node`.
    pub kind: String,
    /// The network's name, for what belongs to one.
    pub network: Option<String>,
    /// The node that has it.
    pub node: Option<String>,
    /// The next hop, for what is elsewhere.
    pub next_hop: Option<IpAddr>,
    /// The interface that leads there.
    pub interface: Option<String>,
}

/// A node of the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// Its addresses on the underlay.
    pub addresses: Vec<IpAddr>,
    /// Whether its lease lives.
    pub healthy: bool,
    /// Since when, seconds since 1970: when its agent came, or when we learnt
    /// that it is gone.
    pub since: Option<u64>,
    /// The largest super-packet of its containers, bytes; null for the usual
    /// 64 KiB.
    pub super_packets: Option<u32>,
    /// Whether it is on-link; null for this node.
    pub reachable: Option<bool>,
    /// The blocks that it owns.
    pub blocks: usize,
}

/// How the store stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Store {
    /// Where it is.
    pub at: String,
    /// Whether what the agent knows is complete and current.
    pub in_sync: bool,
    /// The revision that it has seen.
    pub revision: i64,
    /// Changes of others that came in since the agent started.
    pub events: u64,
    /// Why the store does not answer.
    pub away: Option<String>,
    /// Since when not, seconds since 1970.
    pub away_since: Option<u64>,
    /// Why it can only be read.
    #[serde(default)]
    pub unwritable: Option<String>,
    /// Since when, seconds since 1970.
    #[serde(default)]
    pub unwritable_since: Option<u64>,
    /// Values that cannot be used, and why.
    pub unreadable: std::collections::BTreeMap<String, String>,
}

/// A program on an interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attachment {
    /// The interface.
    pub interface: String,
    /// The program.
    pub program: String,
    /// Whether it is of this agent's object.
    pub current: bool,
}

/// How full a map is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Map {
    /// Its name.
    pub name: String,
    /// Entries.
    pub used: usize,
    /// The most that it takes.
    pub capacity: u32,
}

/// A change that the kernel refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pending {
    /// What was to change.
    pub change: String,
    /// Why it did not.
    pub reason: String,
    /// How often it failed.
    pub failures: u32,
}

/// How the agent stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// This node's name.
    pub node: String,
    /// The agent's version.
    pub version: String,
    /// The uplink.
    pub uplink: String,
    /// This node's addresses.
    pub addresses: Vec<IpAddr>,
    /// How programs are attached: `tcx` or `clsact`.
    pub tc_mode: String,
    /// What interfaces new containers get: `veth` or `netkit`.
    pub container_device: String,
    /// How the uplink's XDP program is attached: `native`, `generic`, or `off`
    /// and why; in brackets what of it waits.
    pub xdp: String,
    /// The store.
    pub store: Store,
    /// Endpoints of this node.
    pub endpoints: usize,
    /// Programs at their hooks.
    pub attachments: Vec<Attachment>,
    /// The maps.
    pub maps: Vec<Map>,
    /// What was set up on the host for containers to reach the world.
    pub world: World,
    /// Changes that wait.
    pub pending: Vec<Pending>,
    /// What is wrong.
    pub problems: Vec<Problem>,
    /// What has happened lately and is worth knowing; nothing of it is wrong now.
    #[serde(default)]
    pub notices: Vec<Problem>,
}

/// What was set up on the host for containers to reach the world.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct World {
    /// Subnets that leave masqueraded as the host.
    pub masqueraded: Vec<IpNet>,
    /// Switches that were set: below /proc/sys, with their values.
    pub switches: std::collections::BTreeMap<String, String>,
    /// Chains of iptables that have an exception of ours, IPv4 and IPv6.
    pub exceptions: Vec<String>,
}

/// Why a request was refused.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Failure {
    /// The fields `problem` and `mend` in one line.
    pub error: String,
    /// What is wrong.
    #[serde(default)]
    pub problem: String,
    /// What to do about it.
    #[serde(default)]
    pub mend: String,
}
