//! The endpoints of this node.

use std::net::IpAddr;

use margay_common::{
    endpoint::{EndpointEntry, NETKIT, Side, Workload},
    net::Addr,
    verdict::Program,
};

use super::{facts::LocalFacts, prefixes};
use crate::{
    model::{
        endpoint::{Device, Endpoint},
        network::{Network, Subnet},
        snapshot::Snapshot,
    },
    tables::{Attachment, Entry, Interface, Key},
};

/// What the kernel holds for an endpoint; nothing while its interface is not
/// there. One that has lost its address keeps the interface, which is closed
/// without a program.
pub(super) fn entries(
    endpoint: &Endpoint,
    network: &Network,
    snapshot: &Snapshot,
    facts: &LocalFacts,
) -> Vec<Entry> {
    let Some(ifindex) = facts.interfaces.get(&endpoint.host_interface).copied() else {
        return Vec::new();
    };
    if endpoint.lost.is_some() {
        return vec![Entry::Interface(endpoint.host_interface.clone(), Interface::Endpoint)];
    }
    let flags = prefixes::flags(network, snapshot);
    let addressed = || {
        let of = |addr: &IpAddr| Some((*addr, network.subnet_of(*addr)?));
        endpoint.addresses.iter().filter_map(of)
    };
    let side = |v4: bool| {
        let found = addressed().find(|(addr, _)| addr.is_ipv4() == v4);
        found.map(|(addr, subnet)| side(addr, subnet)).unwrap_or_default()
    };
    let by_netkit = if endpoint.device == Device::Netkit { NETKIT } else { 0 };
    let workload = Workload {
        network: network.id,
        sandbox: endpoint.sandbox,
        flags: flags | by_netkit,
        mac: endpoint.mac.word(),
        reserved: 0,
        v4: side(true),
        v6: side(false),
    };
    let entry = |subnet: &Subnet| EndpointEntry {
        ifindex,
        network: network.id,
        sandbox: endpoint.sandbox,
        mtu: endpoint.mtu,
        flags,
        mac: endpoint.mac.word(),
        reserved: 0,
        subnet_mask: Addr::mask(subnet.mapped_len()),
    };
    let attachment = Attachment { program: Program::FromWorkload, current: true };
    let own = [
        Entry::Interface(endpoint.host_interface.clone(), Interface::Endpoint),
        Entry::Workload(ifindex, workload),
        Entry::Attachment(endpoint.host_interface.clone(), attachment),
    ];
    let addresses = addressed().map(|(addr, subnet)| Entry::Endpoint(Addr::from(addr), entry(subnet)));
    own.into_iter().chain(addresses).collect()
}

/// The keys of what is made for an endpoint besides its interface, whatever the store says of
/// its network.
pub fn keys(endpoint: &Endpoint, facts: &LocalFacts) -> impl Iterator<Item = Key> {
    let ifindex = facts.interfaces.get(&endpoint.host_interface).copied();
    let own = [ifindex.map(Key::Workload), Some(Key::Attachment(endpoint.host_interface.clone()))];
    let addresses = endpoint.addresses.iter().map(|addr| Key::Endpoint(Addr::from(*addr)));
    own.into_iter().flatten().chain(addresses)
}

fn side(addr: IpAddr, subnet: &Subnet) -> Side {
    Side {
        addr: Addr::from(addr),
        gateway: Addr::from(subnet.gateway),
        subnet_mask: Addr::mask(subnet.mapped_len()),
        block_mask: Addr::mask(subnet.mapped_block_len()),
        block_len: subnet.mapped_block_len().into(),
    }
}
