//! Docker's plugin protocol, version 1: what dockerd sends and is told. Fields
//! that are missing or null are empty, fields that nobody knows are ignored.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

/// The media type of every answer.
pub const CONTENT_TYPE: &str = "application/vnd.docker.plugins.v1.2+json";

/// Free-form options.
pub type Options = Map<String, Value>;

/// `NetworkDriver.CreateNetwork`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct CreateNetwork {
    /// Docker's id of the network.
    #[serde(rename = "NetworkID", deserialize_with = "nullable")]
    pub network_id: String,
    /// What the user asked for.
    #[serde(deserialize_with = "nullable")]
    pub options: Options,
    /// Subnets of IPv4.
    #[serde(rename = "IPv4Data", deserialize_with = "nullable")]
    pub v4: Vec<IpamData>,
    /// Subnets of IPv6.
    #[serde(rename = "IPv6Data", deserialize_with = "nullable")]
    pub v6: Vec<IpamData>,
}

/// A subnet, as the IPAM driver gave it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct IpamData {
    /// Which IPAM driver's it is.
    #[serde(deserialize_with = "nullable")]
    pub address_space: String,
    /// The subnet.
    #[serde(deserialize_with = "nullable")]
    pub pool: String,
    /// The gateway, with a prefix length.
    #[serde(deserialize_with = "nullable")]
    pub gateway: String,
    /// Addresses that others have, each with a prefix length.
    #[serde(deserialize_with = "nullable")]
    pub aux_addresses: BTreeMap<String, String>,
}

/// `NetworkDriver.DeleteNetwork`, and every other call that names a network and
/// nothing more that matters.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct OfNetwork {
    /// Docker's id of the network.
    #[serde(rename = "NetworkID", deserialize_with = "nullable")]
    pub network_id: String,
}

/// A call about an endpoint: `Join`, `Leave`, `DeleteEndpoint`,
/// `EndpointOperInfo`, `ProgramExternalConnectivity`, `RevokeExternalConnectivity`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct OfEndpoint {
    /// Docker's id of the network.
    #[serde(rename = "NetworkID", deserialize_with = "nullable")]
    pub network_id: String,
    /// Docker's id of the endpoint.
    #[serde(rename = "EndpointID", deserialize_with = "nullable")]
    pub endpoint_id: String,
    /// Where the container's namespace is or will be.
    #[serde(deserialize_with = "nullable")]
    pub sandbox_key: String,
    /// Options, ports among them.
    #[serde(deserialize_with = "nullable")]
    pub options: Options,
}

/// `NetworkDriver.CreateEndpoint`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct CreateEndpoint {
    /// Docker's id of the network.
    #[serde(rename = "NetworkID", deserialize_with = "nullable")]
    pub network_id: String,
    /// Docker's id of the endpoint.
    #[serde(rename = "EndpointID", deserialize_with = "nullable")]
    pub endpoint_id: String,
    /// What the IPAM driver gave and the user asked for.
    #[serde(deserialize_with = "nullable")]
    pub interface: Interface,
}

/// An interface to be.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Interface {
    /// IPv4 address with its prefix length; empty if none.
    #[serde(deserialize_with = "nullable")]
    pub address: String,
    /// IPv6 address with its prefix length; empty if none.
    #[serde(rename = "AddressIPv6", deserialize_with = "nullable")]
    pub address_v6: String,
    /// MAC; empty for the driver to choose.
    #[serde(deserialize_with = "nullable")]
    pub mac_address: String,
}

/// `IpamDriver.RequestPool`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct RequestPool {
    /// The subnet; empty for one of our choice.
    #[serde(deserialize_with = "nullable")]
    pub pool: String,
    /// The part of the subnet for automatic allocation.
    #[serde(deserialize_with = "nullable")]
    pub sub_pool: String,
    /// `--ipam-opt`.
    #[serde(deserialize_with = "nullable")]
    pub options: Options,
    /// Whether one of IPv6 is wanted.
    #[serde(deserialize_with = "nullable")]
    pub v6: bool,
}

/// `IpamDriver.RequestAddress`, `ReleaseAddress` and `ReleasePool`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct OfPool {
    /// What `RequestPool` was answered.
    #[serde(rename = "PoolID", deserialize_with = "nullable")]
    pub pool_id: String,
    /// An address without a prefix length; empty for one of our choice.
    #[serde(deserialize_with = "nullable")]
    pub address: String,
    /// What the address is for.
    #[serde(deserialize_with = "nullable")]
    pub options: Options,
}

/// The answer to `RequestPool`.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Pool {
    /// What later calls name it by.
    #[serde(rename = "PoolID")]
    pub pool_id: String,
    /// The subnet.
    pub pool: String,
    /// Nothing.
    pub data: Options,
}

/// The answer to `Join`.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Joined {
    /// The interface to move, and what to call it inside.
    pub interface_name: InterfaceName,
    /// The gateway of IPv4; empty if none.
    pub gateway: String,
    /// The gateway of IPv6; empty if none.
    #[serde(rename = "GatewayIPv6")]
    pub gateway_v6: String,
    /// Routes besides the default.
    pub static_routes: Vec<StaticRoute>,
    /// Docker's own bridge to the world is never needed.
    pub disable_gateway_service: bool,
}

/// The interface to move, and what to call it inside.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct InterfaceName {
    /// Its name on the host.
    pub src_name: String,
    /// What its name inside begins with; a number follows.
    pub dst_prefix: String,
}

/// A route inside the container.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct StaticRoute {
    /// Where to.
    pub destination: String,
    /// 0 by a next hop, 1 on the link.
    pub route_type: u8,
    /// The next hop; empty on the link.
    pub next_hop: String,
}

/// Null is nothing.
fn nullable<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(d: D) -> Result<T, D::Error> {
    Ok(Option::<T>::deserialize(d)?.unwrap_or_default())
}
