//! The network driver.

use std::{path::PathBuf, sync::Arc};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::{
    Docker, RUNTIME,
    ipam::ADDRESS_SPACE,
    options::{self, IFACE_PREFIX},
    pool::{address, cidr},
    wire::{
        CreateEndpoint, CreateNetwork, InterfaceName, IpamData, Joined, OfEndpoint, OfNetwork, StaticRoute,
    },
};
use crate::{
    control::now,
    endpoints::{Create, staged::inside_name},
    journal::RuntimeNetwork,
    model::{
        endpoint::{Endpoint, Handle, mac_text},
        network::{Network, NetworkRequest, max_len},
    },
};

/// What interfaces in containers are called, unless the network says otherwise.
const IFACE: &str = "eth";
/// The option that holds the ports to publish.
const PORTMAP: &str = "com.docker.network.portmap";

/// Makes a network of the cluster, or joins the one that it is.
pub(super) async fn create_network(docker: &Docker, request: CreateNetwork) -> Result<Value> {
    let plain = request.network_id.bytes().all(|b| b.is_ascii_alphanumeric());
    if request.network_id.len() < 12 || !plain {
        bail!("{:?} is not a network id", request.network_id);
    }
    docker.agreed().await?;
    let mut wanted = NetworkRequest {
        name: format!("docker-{}", &request.network_id[..12]),
        unnamed: true,
        ..NetworkRequest::default()
    };
    options::apply(&request.options, &mut wanted)?;
    for data in request.v4.iter().chain(&request.v6) {
        add_subnet(docker, data, &mut wanted)?;
    }
    let asked = (!wanted.unnamed).then(|| wanted.name.clone());
    // What a user has removed must not be found.
    docker.finish_removals().await;
    let (node, ordered) = (docker.node().await?, docker.ordered().clone());
    // Another's create may come in between; ours says what it is by its subnets.
    let subnets = wanted.subnets.iter().copied().collect();
    let ordered = ordered.filter(|ordered| ordered.subnets == subnets).map(|ordered| ordered.network);
    let (network, revision) = docker.endpoints.networks.establish(&node, &wanted, ordered).await?;
    docker.endpoints.control.revision(revision).await?;
    // A name that came with the subnet counts as asked for.
    let wanted_name = asked.or_else(|| (network.pooled && !network.unnamed).then(|| network.name.clone()));
    let made = RuntimeNetwork {
        id: request.network_id,
        network: network.id,
        wanted: wanted_name,
        since: now(),
        chosen: wanted.subnets.iter().any(|cidr| docker.making.is_kept(*cidr)),
        removed: false,
    };
    docker.register.put(made)?;
    wanted.subnets.iter().for_each(|cidr| docker.making.end(*cidr));
    docker.asked();
    Ok(json!({}))
}

fn add_subnet(docker: &Docker, data: &IpamData, wanted: &mut NetworkRequest) -> Result<()> {
    if data.address_space != ADDRESS_SPACE {
        bail!(
            "Docker's own IPAM gives the same addresses on every host; create the network with \
             --ipam-driver margay"
        );
    }
    let subnet = cidr(&data.pool)?;
    wanted.ranges.extend(docker.making.range_of(subnet));
    wanted.subnets.push(subnet);
    wanted.gateways.extend(address(&data.gateway)?);
    for (name, addr) in &data.aux_addresses {
        let addr = address(addr)?.with_context(|| format!("auxiliary address {name} is empty"))?;
        wanted.aux.push((name.clone(), addr));
    }
    Ok(())
}

/// Notes that a network is to go. Docker forgets it whatever is answered; the
/// others follow unless somebody is still on it.
pub(super) async fn delete_network(docker: &Docker, request: &OfNetwork) -> Result<Value> {
    docker.register.removed(&request.network_id, &mut docker.ordered())?;
    docker.asked();
    Ok(json!({}))
}

/// Makes an endpoint of addresses that were handed out before.
pub(super) async fn create_endpoint(docker: &Docker, request: CreateEndpoint) -> Result<Value> {
    if request.endpoint_id.is_empty() {
        bail!("an endpoint needs an id");
    }
    let interface = &request.interface;
    let mac = match &*interface.mac_address {
        "" => None,
        text => match mac_text::parse(text) {
            Some(mac) if mac.0[0] & 1 == 0 => Some(mac),
            _ => bail!("--mac-address {text}: use a unicast address like 02:00:00:00:00:01"),
        },
    };
    let addresses = [address(&interface.address)?, address(&interface.address_v6)?];
    let (id, network) = (request.endpoint_id, request.network_id);
    let runtime = RUNTIME.into();
    let handle = Handle { runtime, id, network, since: now(), container: None, asked: false };
    let create = Create { handle, addresses: addresses.into_iter().flatten().collect(), mac };
    let made = docker.endpoints.create(create).await?;
    // What was given must not be given back.
    let interface = match mac {
        Some(_) => json!({}),
        None => json!({"MacAddress": mac_text::format(&made.mac)}),
    };
    Ok(json!({"Interface": interface}))
}

/// Removes an endpoint; its addresses are given up by calls of their own.
pub(super) async fn delete_endpoint(docker: &Docker, request: &OfEndpoint) -> Result<Value> {
    docker.endpoints.delete(&request.endpoint_id).await?;
    docker.asked();
    Ok(json!({}))
}

/// Makes the interface, served from this moment on, and says what Docker is to
/// do with it.
pub(super) async fn join(docker: &Arc<Docker>, request: &OfEndpoint) -> Result<Value> {
    let netns = PathBuf::from(&request.sandbox_key);
    let (endpoint, network) = docker.endpoints.plug(&request.endpoint_id, netns).await?;
    docker.find_container(request.network_id.clone(), request.endpoint_id.clone());
    docker.asked();
    Ok(serde_json::to_value(joined(&endpoint, &network))?)
}

/// Ports are not published yet, and a container whose ports lead nowhere would
/// be found out late.
pub(super) fn publish(request: &OfEndpoint) -> Result<Value> {
    let ports = request.options.get(PORTMAP).and_then(Value::as_array);
    if ports.is_some_and(|ports| !ports.is_empty()) {
        bail!(
            "Margay does not publish ports yet: run the container without -p; \
             everybody on the network reaches it by its address"
        );
    }
    Ok(json!({}))
}

fn joined(endpoint: &Endpoint, network: &Network) -> Joined {
    let mut answer = Joined {
        interface_name: InterfaceName {
            src_name: inside_name(endpoint),
            dst_prefix: network.runtime.options.get(IFACE_PREFIX).cloned().unwrap_or_else(|| IFACE.into()),
        },
        gateway: String::new(),
        gateway_v6: String::new(),
        static_routes: Vec::new(),
        disable_gateway_service: true,
    };
    for subnet in endpoint.addresses.iter().filter_map(|addr| network.subnet_of(*addr)) {
        let gateway = subnet.gateway.to_string();
        answer.static_routes.push(StaticRoute {
            destination: format!("{gateway}/{}", max_len(subnet.gateway)),
            route_type: 1,
            next_hop: String::new(),
        });
        answer.static_routes.push(StaticRoute {
            destination: subnet.cidr.to_string(),
            route_type: 0,
            next_hop: gateway.clone(),
        });
        match subnet.gateway.is_ipv4() {
            true => answer.gateway = gateway,
            false => answer.gateway_v6 = gateway,
        }
    }
    answer
}
