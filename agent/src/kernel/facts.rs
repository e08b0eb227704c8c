//! What this host says of itself, read by netlink.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use anyhow::{Context, Result, bail};
use ipnet::IpNet;
use rtnetlink::Handle;

use super::{
    link::{self, Address, Link},
    sysctl,
};
use crate::{
    desired::Uplink,
    model::{check::is_underlay, snapshot::single},
    problem::Problem,
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
    /// All of the host's own addresses, except loopback and link-local ones.
    pub own: BTreeSet<IpAddr>,
    /// The uplink, or what is wrong with it.
    pub uplink: Result<Uplink>,
    /// The uplink's addresses.
    pub addresses: Vec<Address>,
    /// Why the uplink has no IPv6, where it is switched off.
    pub no_ipv6: Option<String>,
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
    let mut addresses = link::addresses(netlink).await.context("list addresses")?;
    let occupied = occupied(&addresses, &interfaces);
    let own = addresses.iter().map(|found| found.net.addr());
    let own = own.filter(|addr| !addr.is_loopback() && !is_link_local(&IpNet::from(*addr))).collect();
    let index = links.iter().find(|link| link.name == uplink).map(|link| link.index);
    addresses.retain(|found| Some(found.interface) == index);
    let no_ipv6 = no_ipv6(uplink);
    let uplink = uplink_of(&links, &addresses, uplink);
    Ok(Look { occupied, own, uplink, addresses, interfaces, down, no_ipv6 })
}

/// Why an interface has no IPv6, where it is switched off.
fn no_ipv6(name: &str) -> Option<String> {
    let path = |name: &str| format!("net/ipv6/conf/{name}/disable_ipv6");
    let off = |name: &str| sysctl::get(&path(name)).is_some_and(|value| value != "0");
    if sysctl::get(&path("all")).is_none() {
        return Some("the kernel was started with ipv6.disable=1".into());
    }
    let switch = if off("all") { "all" } else { name };
    (off(switch)).then(|| format!("net.ipv6.conf.{switch}.disable_ipv6 is 1"))
}

/// The uplink as it is now, or what is wrong with it.
fn uplink_of(links: &[Link], addresses: &[Address], name: &str) -> Result<Uplink> {
    let Some(found) = links.iter().find(|link| link.name == name) else {
        bail!(Problem::new(
            format!("uplink {name} is not there: containers here reach no other host"),
            "bring it back, or name the interface towards the other nodes with --uplink"
        ));
    };
    if !found.ethernet {
        bail!(Problem::new(
            format!("uplink {name} is not Ethernet: Margay supports no other link"),
            "name an Ethernet interface with --uplink"
        ));
    }
    if !found.up {
        bail!(Problem::new(
            format!("uplink {name} is down: containers here reach no other host"),
            format!("ip link set {name} up")
        ));
    }
    let link_local = addresses.iter().find_map(|found| match found.net.addr() {
        IpAddr::V6(v6) if v6.is_unicast_link_local() => Some(v6),
        _ => None,
    });
    let prefixes = addresses.iter().map(|found| found.net.trunc());
    let prefixes = prefixes.filter(|net| single(*net).is_none() && !is_link_local(net)).collect();
    Ok(Uplink {
        name: name.into(),
        ifindex: found.index,
        mtu: found.mtu,
        prefixes,
        link_local,
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
    let addresses = link::addresses(netlink).await?;
    let addressed = |link: &&Link| {
        addresses.iter().any(|found| found.interface == link.index && !is_link_local(&found.net))
    };
    let candidates = links.iter().filter(|link| link.ethernet && link.up && !is_own(&link.name));
    let candidates: Vec<String> = candidates.filter(addressed).map(|link| link.name.clone()).collect();
    match &candidates[..] {
        [only] => Ok((only.clone(), "the only one with an address")),
        [] => bail!("no interface has an address; name the one towards the other nodes with --uplink"),
        several => bail!(
            "no default route says which of {} leads to the other nodes; name it with --uplink",
            several.join(", ")
        ),
    }
}

fn occupied(found: &[Address], own: &BTreeMap<String, u32>) -> Vec<IpNet> {
    let others = found.iter().filter(|Address { interface, net, .. }| {
        !own.values().any(|own| own == interface) && !net.addr().is_loopback() && !is_link_local(net)
    });
    let prefixes: BTreeSet<IpNet> = others.map(|found| found.net.trunc()).collect();
    prefixes.into_iter().collect()
}

/// The node's addresses: those that were `given`, if the uplink has them, else one of each
/// family that it has. One that it has still is kept, since others know the node by it. One
/// that `is_taken`, as by a network that a neighbour's advertisements speak for, is nobody's.
///
/// # Errors
///
/// Says what the uplink lacks.
pub fn node_addresses(
    look: &Look,
    uplink: &str,
    given: &[IpAddr],
    now: &[IpAddr],
    is_taken: impl Fn(IpAddr) -> bool,
) -> Result<Vec<IpAddr>> {
    let there = || look.addresses.iter().map(|found| found.net.addr());
    if let Some(addr) = given.iter().find(|addr| !there().any(|found| found == **addr)) {
        let others: Vec<String> = there().map(|addr| addr.to_string()).collect();
        let others = if others.is_empty() { "none".into() } else { others.join(", ") };
        bail!("node address {addr} is not on uplink {uplink}, which has {others}; correct --node-ip");
    }
    if !given.is_empty() {
        return Ok(given.to_vec());
    }
    let usable = || {
        let lasting = look.addresses.iter().filter(|found| found.lasting);
        lasting.map(|found| found.net.addr()).filter(|addr| is_underlay(*addr) && !is_taken(*addr))
    };
    let of_family = |v4: bool| {
        let current = now.iter().copied().find(|addr| addr.is_ipv4() == v4);
        let kept = current.filter(|addr| usable().any(|found| found == *addr));
        let another = || usable().find(|addr| addr.is_ipv4() == v4);
        // One that runs out is better than none.
        kept.or_else(another).or_else(|| current.filter(|addr| there().any(|found| found == *addr)))
    };
    let found: Vec<IpAddr> = [of_family(true), of_family(false)].into_iter().flatten().collect();
    if found.is_empty() {
        bail!("uplink {uplink} has no permanent address; give it one, or name the node's with --node-ip");
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
