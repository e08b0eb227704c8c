//! The host's own part: `margay0`, the uplink's program, the kernel's routes.

use ipnet::IpNet;
use margay_common::{net::Addr, route, verdict::Program};

use super::{
    facts::{LocalFacts, Xdp},
    prefixes,
};
use crate::{
    model::{
        denied::holds_mapped,
        network::{Network, Subnet},
        snapshot::Snapshot,
    },
    tables::{Attachment, Entry, HOST_INTERFACE, HostRoute, Interface, XdpAttachment},
};

/// What every node has, whatever the store says.
pub(super) fn entries(snapshot: &Snapshot, facts: &LocalFacts) -> Vec<Entry> {
    let attached = |program| Attachment { program, current: true };
    let own = |v4: bool| facts.addresses.iter().find(|addr| addr.is_ipv4() == v4);
    let node = route::Node {
        host_ifindex: facts.interfaces.get(HOST_INTERFACE).copied().unwrap_or_default(),
        uplink_ifindex: facts.uplink.ifindex,
        uplink_mtu: facts.uplink.mtu,
        uplink_mac: facts.uplink.mac.word(),
        reserved: 0,
        v4: own(true).copied().map(Addr::from).unwrap_or_default(),
        v6: own(false).copied().map(Addr::from).unwrap_or_default(),
    };
    let native = match facts.xdp {
        Xdp::Auto | Xdp::Native => Some(true),
        Xdp::Generic => Some(false),
        Xdp::Off(_) => None,
    };
    let xdp =
        native.map(|native| Entry::Xdp(facts.uplink.name.clone(), XdpAttachment { native, current: true }));
    let mut entries = vec![
        Entry::Interface(HOST_INTERFACE.into(), Interface::Host { mtu: facts.uplink.mtu }),
        Entry::Node((), node),
        Entry::Attachment(HOST_INTERFACE.into(), attached(Program::FromHost)),
        Entry::Attachment(facts.uplink.name.clone(), attached(Program::FromNetwork)),
    ];
    entries.extend(xdp);
    // A prefix that would cut this node off from the store is not denied: the node could not
    // learn of its removal.
    let vital = facts.vital();
    let harmless = |cidr: &IpNet| !holds_mapped(*cidr) && !vital.keys().any(|addr| cidr.contains(addr));
    let denied = snapshot.denied.keys().filter(|cidr| harmless(cidr));
    entries.extend(denied.map(|cidr| Entry::Denied(prefixes::key(*cidr), ())));
    entries.extend(facts.own.iter().map(|addr| Entry::OwnAddress(Addr::from(*addr), ())));
    entries
}

/// The kernel's one route to each subnet of a network.
pub(super) fn routes(network: &Network, facts: &LocalFacts) -> impl Iterator<Item = Entry> {
    let mtu = container_mtu(network, facts);
    // The kernel takes no route of a family that is switched off.
    let there = |subnet: &&Subnet| facts.no_ipv6.is_none() || subnet.cidr.addr().is_ipv4();
    network.subnets.iter().filter(there).map(move |subnet| {
        let (gateway, source) = (subnet.gateway, facts.address_like(subnet.gateway));
        Entry::HostRoute(subnet.cidr, HostRoute { gateway, source, mtu })
    })
}

/// The MTU of a network's containers on this node: the network's, but no more
/// than the uplink carries unless the network says so.
pub fn container_mtu(network: &Network, facts: &LocalFacts) -> u32 {
    network.mtu.unwrap_or(facts.uplink.mtu)
}
