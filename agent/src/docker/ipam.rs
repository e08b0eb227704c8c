//! The IPAM driver: pools are subnets of networks, or of networks to come.

use std::net::IpAddr;

use anyhow::{Context, Result, bail};
use ipnet::IpNet;
use serde_json::{Value, json};

use super::{
    Docker, options,
    pool::{PoolId, address, cidr},
    wire::{OfPool, Options, Pool, RequestPool},
};
use crate::{
    control::now,
    model::network::{Network, Subnet, max_len, nth},
};

/// What Docker calls the space that our addresses are of.
pub const ADDRESS_SPACE: &str = "margay";
/// What a request for an address says if it is for the gateway.
const GATEWAY: &str = "com.docker.network.gateway";

/// A subnet for a network: the one that is asked for, that of the network of
/// the cluster that is named, or a free one.
pub(super) async fn request_pool(docker: &Docker, request: &RequestPool) -> Result<Value> {
    let named = options::network_of(&request.options)?;
    let subnet = if request.pool.is_empty() {
        if !request.sub_pool.is_empty() {
            bail!("--ip-range {} needs --subnet, which contains it", request.sub_pool);
        }
        docker.agreed().await?;
        let node = docker.node().await?;
        docker.endpoints.networks.reserve(&node, !request.v6, named.as_deref(), now()).await?
    } else {
        cidr(&request.pool)?
    };
    let range = match &*request.sub_pool {
        "" => None,
        text => Some(cidr(text)?.trunc()),
    };
    if range.is_some_and(|range| !subnet.contains(&range)) {
        bail!("--ip-range {} is not within --subnet {subnet}", request.sub_pool);
    }
    let pool = PoolId { cidr: subnet, range };
    // What Docker does not like it asks for again, at once and for ever.
    if !docker.making.begin(pool, request.pool.is_empty()) {
        let name = named.unwrap_or_default();
        bail!(
            "Docker refuses {subnet}, the subnet of network {name}, since this host has a route or a \
             nameserver in it; remove that, or name the subnet with --subnet"
        );
    }
    let answer = Pool { pool_id: pool.to_string(), pool: subnet.to_string(), data: Options::new() };
    Ok(serde_json::to_value(answer)?)
}

/// Gives up a subnet that no network came to have.
pub(super) async fn release_pool(docker: &Docker, request: &OfPool) -> Result<Value> {
    let pool: PoolId = request.pool_id.parse()?;
    // Docker asks only once; what cannot be given up now is swept later, since
    // it is not ended.
    if docker.making.is_last_kept(pool.cidr) {
        let node = docker.node().await?;
        docker.endpoints.networks.unreserve(&node, Some(pool.cidr), u64::MAX).await?;
    }
    docker.making.end(pool.cidr);
    Ok(json!({}))
}

/// An address: the gateway's, which every host may ask for, one that nobody
/// gets, or an endpoint's.
pub(super) async fn request_address(docker: &Docker, request: &OfPool) -> Result<Value> {
    let pool: PoolId = request.pool_id.parse()?;
    let wanted = address(&request.address)?;
    if wanted.is_some_and(|addr| !pool.cidr.contains(&addr)) {
        bail!("address {} is outside subnet {}", request.address, pool.cidr);
    }
    let found = network_of(docker, pool.cidr).await?;
    let is_gateway = request.options.get("RequestAddressType").and_then(Value::as_str) == Some(GATEWAY);
    if is_gateway {
        docker.making.taken(pool.cidr);
    }
    let addr = match (&found, wanted) {
        (found, wanted) if is_gateway => gateway(found.as_ref(), pool.cidr, wanted),
        // What is asked for before there is a network is nobody's for good.
        (None, Some(addr)) => addr,
        (None, None) => bail!("there is no network with subnet {}", pool.cidr),
        (Some((_, subnet)), Some(addr)) if subnet.aux.values().any(|aux| *aux == addr) => addr,
        (Some((network, subnet)), wanted) => lease(docker, network, subnet, wanted).await?,
    };
    Ok(json!({"Address": format!("{addr}/{}", max_len(addr)), "Data": {}}))
}

/// The address that the request names, else the one that the container had before it was stopped
/// or reconnected, else any.
async fn lease(
    docker: &Docker,
    network: &Network,
    subnet: &Subnet,
    wanted: Option<IpAddr>,
) -> Result<IpAddr> {
    let endpoints = &docker.endpoints;
    docker.has_name(network).await?;
    if wanted.is_some() {
        return endpoints.reserve(network, subnet, wanted, true).await;
    }
    if let Some(kept) = docker.returning(network, subnet).await
        && let Ok(addr) = endpoints.reserve(network, subnet, Some(kept), false).await
    {
        docker.wishes().remove(&subnet.cidr);
        return Ok(addr);
    }
    // Nothing is known of who was connected before the journal was lost.
    let wish = docker.wishes().get(&subnet.cidr).map(|wish| (wish.container.clone(), wish.addr));
    if let Some((container, wish)) = wish
        && docker.is_starting(&container).await
        && let Ok(addr) = endpoints.reserve(network, subnet, Some(wish), false).await
    {
        docker.wishes().remove(&subnet.cidr);
        return Ok(addr);
    }
    endpoints.reserve(network, subnet, None, false).await
}

/// Takes an address back. Gateways and what nobody had are fine.
pub(super) async fn release_address(docker: &Docker, request: &OfPool) -> Result<Value> {
    let addr = address(&request.address)?.context("an address is needed")?;
    docker.endpoints.give_up(addr).await?;
    docker.asked();
    Ok(json!({}))
}

/// The gateway that is asked for, the network's own, or the first address.
fn gateway(found: Option<&(Network, Subnet)>, cidr: IpNet, wanted: Option<IpAddr>) -> IpAddr {
    let own = found.map(|(_, subnet)| subnet.gateway);
    wanted.or(own).unwrap_or_else(|| nth(cidr, 1))
}

async fn network_of(docker: &Docker, cidr: IpNet) -> Result<Option<(Network, Subnet)>> {
    let find = move |state: &crate::control::State| {
        state.snapshot.networks.values().find_map(|network| {
            let subnet = network.subnets.iter().find(|subnet| subnet.cidr == cidr)?;
            Some((network.clone(), subnet.clone()))
        })
    };
    docker.endpoints.control.look(find).await
}
