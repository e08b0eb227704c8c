//! The container's side of an endpoint.

use anyhow::{Result, anyhow, bail};

use crate::{
    kernel::{link, netns::Netns, ready, sysctl},
    model::{endpoint::Endpoint, network::Network},
};

/// Gives the interface its addresses, its one neighbour and its routes. The
/// neighbour is permanent, so that the container never has to ask. What comes for its
/// addresses is delivered from here on.
pub(super) async fn configure(netns: &Netns, endpoint: &Endpoint, network: &Network) -> Result<()> {
    let netlink = netns.netlink().await?;
    let ifname = &endpoint.ifname;
    let index = link::index(&netlink, ifname).await?;
    let index = index.ok_or_else(|| anyhow!("interface {ifname} disappeared from the container"))?;
    if endpoint.addresses.iter().any(|addr| addr.is_ipv6()) {
        if sysctl::get("net/ipv6/conf/all/disable_ipv6").is_none() {
            bail!(
                "network {} has IPv6, which this host's kernel lacks (ipv6.disable=1); start the host without \
                 that, or use a network of IPv4 alone here",
                network.name
            );
        }
        // Containers often have IPv6 switched off by default.
        netns.sysctl("ipv6", ifname, "disable_ipv6", "0").await?;
        netns.sysctl("ipv6", ifname, "accept_ra", "0").await?;
    } else {
        netns.sysctl("ipv6", ifname, "disable_ipv6", "1").await?;
    }
    for addr in &endpoint.addresses {
        link::add_address(&netlink, index, *addr).await?;
    }
    link::set_up(&netlink, index).await?;
    for addr in &endpoint.addresses {
        let Some(subnet) = network.subnet_of(*addr) else { continue };
        link::add_gateway_neighbour(&netlink, index, subnet.gateway).await?;
        link::add_container_routes(&netlink, index, subnet.cidr, subnet.gateway).await?;
    }
    for addr in &endpoint.addresses {
        ready::address(&netlink, netns, *addr).await?;
    }
    Ok(())
}
