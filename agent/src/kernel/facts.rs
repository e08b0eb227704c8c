//! What this host says of itself, read by netlink.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use anyhow::{Context, Result, bail};
use ipnet::IpNet;
use rtnetlink::Handle;

use super::link::{self, Link};
use crate::{
    desired::Uplink,
    tables::{ENDPOINT_PREFIX, HOST_INTERFACE},
};

/// One look at the host.
#[derive(Debug)]
pub struct Look {
    /// The interfaces that are ours, by name.
    pub interfaces: BTreeMap<String, u32>,
    /// Those of them that somebody has set down.
    pub down: BTreeSet<String>,
    /// The prefixes on this host's links, ours and the loopback's apart.
    pub occupied: Vec<IpNet>,
    /// The uplink, or what is wrong with it.
    pub uplink: Result<Uplink>,
}

/// Looks at the host: one listing of interfaces and one of addresses, however
/// many containers it has. Interfaces that are expected and not listed are
/// asked for singly: the kernel leaves some out while others come and go.
pub async fn look(
    netlink: &Handle,
    uplink: &str,
    expected: impl Iterator<Item = &String> + Send,
) -> Result<Look> {
    let links = link::list(netlink).await.context("list interfaces")?;
    let own = || links.iter().filter(|link| is_own(&link.name));
    let down = own().filter(|link| !link.up).map(|link| link.name.clone()).collect();
    let mut interfaces: BTreeMap<String, u32> = own().map(|link| (link.name.clone(), link.index)).collect();
    for name in expected {
        if !interfaces.contains_key(name)
            && let Some(index) = link::index(netlink, name).await?
        {
            interfaces.insert(name.clone(), index);
        }
    }
    let addresses = link::all_addresses(netlink).await.context("list addresses")?;
    let occupied = occupied(&addresses, &interfaces);
    Ok(Look { occupied, uplink: uplink_of(&links, &addresses, uplink), interfaces, down })
}

/// The uplink as it is now, or what is wrong with it.
fn uplink_of(links: &[Link], addresses: &[(u32, IpNet)], name: &str) -> Result<Uplink> {
    let Some(found) = links.iter().find(|link| link.name == name) else {
        bail!("uplink {name} is not there; name the interface towards the other nodes with --uplink");
    };
    if !found.ethernet {
        bail!("uplink {name} is not Ethernet, and Margay knows no other link yet");
    }
    if !found.up {
        bail!("uplink {name} is down: ip link set {name} up");
    }
    let addresses = addresses.iter().filter(|(index, _)| *index == found.index);
    let addresses: Vec<IpNet> = addresses.map(|(_, net)| *net).collect();
    let on_link = addresses.iter().map(IpNet::trunc).filter(|net| !is_link_local(net)).collect();
    Ok(Uplink {
        name: name.into(),
        ifindex: found.index,
        mtu: found.mtu,
        on_link,
        link_local: link::link_local(&addresses),
        super_packet: found.super_packet,
        mac: found.mac.unwrap_or_default(),
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

fn occupied(found: &[(u32, IpNet)], own: &BTreeMap<String, u32>) -> Vec<IpNet> {
    let others = found.iter().filter(|(index, net)| {
        !own.values().any(|own| own == index) && !net.addr().is_loopback() && !is_link_local(net)
    });
    let prefixes: BTreeSet<IpNet> = others.map(|(_, net)| net.trunc()).collect();
    prefixes.into_iter().collect()
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

/// Whether a name is one that we give.
pub fn is_own(name: &str) -> bool {
    let veth = name.strip_prefix(ENDPOINT_PREFIX);
    name == HOST_INTERFACE
        || veth.is_some_and(|id| id.len() == 12 && id.bytes().all(|b| b.is_ascii_hexdigit()))
}

fn is_link_local(net: &IpNet) -> bool {
    matches!(net.addr(), IpAddr::V6(v6) if v6.is_unicast_link_local())
}
