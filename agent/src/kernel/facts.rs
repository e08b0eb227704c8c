//! What this host says of itself, read by netlink.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use anyhow::{Context, Result, bail};
use ipnet::IpNet;
use rtnetlink::Handle;

use super::link;
use crate::{
    desired::Uplink,
    tables::{HOST_INTERFACE, VETH_PREFIX},
};

/// The uplink as it is now, or what is wrong with it.
pub async fn uplink(netlink: &Handle, name: &str) -> Result<Uplink> {
    let Some(found) = link::find(netlink, name).await? else {
        bail!("uplink {name} is not there; name the interface towards the other nodes with --uplink");
    };
    if !found.ethernet {
        bail!("uplink {name} is not Ethernet, and Margay knows no other link yet");
    }
    if !found.up {
        bail!("uplink {name} is down: ip link set {name} up");
    }
    let addresses = link::addresses(netlink, found.index).await?;
    let on_link = addresses.iter().map(IpNet::trunc).filter(|net| !is_link_local(net)).collect();
    Ok(Uplink {
        name: name.into(),
        ifindex: found.index,
        mtu: found.mtu,
        on_link,
        link_local: link::link_local(&addresses),
    })
}

/// The interface towards the other nodes where nobody names it, and why it is
/// that: the one of the default route, or the only one with an address.
pub async fn find_uplink(netlink: &Handle) -> Result<(String, &'static str)> {
    let links = link::list(netlink).await?;
    let name = |index: u32| links.iter().find(|link| link.index == index).map(|link| link.name.clone());
    if let Some(name) = link::default_interfaces(netlink).await?.into_iter().find_map(name) {
        return Ok((name, "which has the default route"));
    }
    let mut candidates = Vec::new();
    for link in links.iter().filter(|link| link.ethernet && link.up && !is_own(&link.name)) {
        let addresses = link::addresses(netlink, link.index).await?;
        if addresses.iter().any(|net| !is_link_local(net)) {
            candidates.push(link.name.clone());
        }
    }
    match &candidates[..] {
        [only] => Ok((only.clone(), "the only one with an address")),
        [] => bail!("no interface has an address; name the one towards the other nodes with --uplink"),
        several => bail!(
            "no default route tells which of {} leads to the other nodes; name it with --uplink",
            several.join(", ")
        ),
    }
}

/// The prefixes on this host's links, ours and the loopback's apart.
pub async fn occupied(netlink: &Handle, own: &BTreeMap<String, u32>) -> Result<Vec<IpNet>> {
    let found = link::all_addresses(netlink).await?;
    let others = found.into_iter().filter(|(index, net)| {
        !own.values().any(|own| own == index) && !net.addr().is_loopback() && !is_link_local(net)
    });
    let prefixes: BTreeSet<IpNet> = others.map(|(_, net)| net.trunc()).collect();
    Ok(prefixes.into_iter().collect())
}

/// Checks that the node's addresses are on the uplink, or takes them from it.
pub async fn node_addresses(netlink: &Handle, uplink: &Uplink, given: &[IpAddr]) -> Result<Vec<IpAddr>> {
    let there: Vec<IpAddr> =
        link::addresses(netlink, uplink.ifindex).await?.iter().map(IpNet::addr).collect();
    for addr in given {
        if !there.contains(addr) {
            bail!(
                "node address {addr} is not on uplink {}, which has {}",
                uplink.name,
                there.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
            );
        }
    }
    if let [a, b, ..] = given
        && a.is_ipv4() == b.is_ipv4()
    {
        bail!("a node has at most one address of each family, {a} and {b} are of one");
    }
    if !given.is_empty() {
        return Ok(given.to_vec());
    }
    let first =
        |v4: bool| there.iter().copied().find(|a| a.is_ipv4() == v4 && !is_link_local(&IpNet::from(*a)));
    let found: Vec<IpAddr> = [first(true), first(false)].into_iter().flatten().collect();
    if found.is_empty() {
        bail!("uplink {} has no address; name the node's with --node-ip", uplink.name);
    }
    Ok(found)
}

/// The interfaces that are ours, by name. Those that are expected are asked for
/// singly where the listing lacks them: the kernel leaves some out while others
/// come and go.
pub async fn own_interfaces(
    netlink: &Handle,
    expected: impl Iterator<Item = &String> + Send,
) -> Result<BTreeMap<String, u32>> {
    let links = link::list(netlink).await.context("list interfaces")?;
    let own = links.into_iter().filter(|link| is_own(&link.name));
    let mut own: BTreeMap<String, u32> = own.map(|link| (link.name, link.index)).collect();
    for name in expected {
        if !own.contains_key(name)
            && let Some(index) = link::index(netlink, name).await?
        {
            own.insert(name.clone(), index);
        }
    }
    Ok(own)
}

/// Our interfaces that somebody has set down.
pub async fn down_interfaces(netlink: &Handle) -> Result<BTreeSet<String>> {
    let links = link::list(netlink).await.context("list interfaces")?;
    let down = links.into_iter().filter(|link| is_own(&link.name) && !link.up);
    Ok(down.map(|link| link.name).collect())
}

/// Whether a name is one that we give.
pub fn is_own(name: &str) -> bool {
    let veth = name.strip_prefix(VETH_PREFIX);
    name == HOST_INTERFACE
        || veth.is_some_and(|id| id.len() == 12 && id.bytes().all(|b| b.is_ascii_hexdigit()))
}

fn is_link_local(net: &IpNet) -> bool {
    matches!(net.addr(), IpAddr::V6(v6) if v6.is_unicast_link_local())
}
