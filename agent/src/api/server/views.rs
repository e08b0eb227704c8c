//! The state of the control loop as the wire tells it.

use std::{collections::BTreeMap, net::IpAddr};

use anyhow::Result;
use ipnet::IpNet;
use margay_common::{net::Addr, route};

use super::problems::problems;
use crate::{
    api::wire,
    control::State,
    kernel::{attach::TcMode, maps, pins::Pins},
    model::{
        self,
        block::Allocations,
        denied::Denied,
        endpoint::{Device, Endpoint, mac_text},
        key::Key,
        network::{max_len, net},
        snapshot::Event,
    },
    network::pool::usage,
    store::Listing,
};

pub(crate) fn endpoint(endpoint: Endpoint) -> wire::EndpointView {
    wire::EndpointView {
        mac: mac_text::format(&endpoint.mac),
        id: endpoint.id,
        name: endpoint.name,
        network: endpoint.network_name,
        addresses: endpoint.addresses,
        mtu: endpoint.mtu,
        netns: endpoint.netns,
        ifname: endpoint.ifname,
        host_interface: endpoint.host_interface,
        lost: endpoint.lost,
    }
}

/// Endpoints, by the names that their networks have now.
pub(crate) fn endpoints(
    state: &State,
    endpoints: std::collections::BTreeMap<String, Endpoint>,
) -> Vec<wire::EndpointView> {
    let named = endpoints.into_values().map(|found| match state.snapshot.networks.get(&found.network) {
        Some(network) => Endpoint { network_name: network.name.clone(), ..found },
        None => found,
    });
    named.map(endpoint).collect()
}

pub(crate) fn networks(state: &State) -> Vec<wire::Network> {
    let networks = state.snapshot.networks.values();
    networks
        .map(|network| wire::Network {
            id: network.id,
            name: network.name.clone(),
            unnamed: network.unnamed,
            subnets: network
                .subnets
                .iter()
                .map(|subnet| wire::Subnet {
                    cidr: subnet.cidr,
                    gateway: subnet.gateway,
                    range: subnet.range,
                    aux: subnet.aux.clone(),
                    block_prefix: subnet.block_len,
                    block_size: 1 << (max_len(subnet.gateway) - subnet.block_len),
                })
                .collect(),
            mtu: network.mtu,
            internal: network.internal,
            routable: network.routable,
            blocks: state
                .snapshot
                .owners(network.id)
                .map(|(cidr, claim)| wire::Block { cidr, node: claim.node.clone() })
                .collect(),
            local_endpoints: state.facts.endpoints.values().filter(|e| e.network == network.id).count(),
        })
        .collect()
}

pub(crate) fn nodes(state: &State) -> Vec<wire::Node> {
    let nodes = state.snapshot.nodes.values();
    nodes
        .map(|node| {
            let alive = state.snapshot.alive.get(&node.name);
            let this = node.name == state.facts.node;
            wire::Node {
                name: node.name.clone(),
                addresses: node.addresses.clone(),
                healthy: alive.is_some(),
                since: alive.map(|alive| alive.since).or_else(|| state.lost.get(&node.name).copied()),
                super_packets: node.super_packets,
                reachable: (!this).then(|| node.addresses.iter().any(|addr| state.facts.is_on_link(*addr))),
                blocks: state.snapshot.claims.values().filter(|claim| claim.node == node.name).count(),
            }
        })
        .collect()
}

/// What the datapath holds, as the kernel last said it.
pub(crate) fn routes(state: &State) -> Vec<wire::Route> {
    let none = crate::tables::Tables::default();
    let actual = state.actual.as_ref().unwrap_or(&none);
    let name = |id: u32| state.snapshot.networks.get(&id).map(|network| network.name.clone());
    let hop = |addr: Addr| (!addr.is_unspecified()).then(|| IpAddr::from(addr));
    let uplink =
        |ifindex: u32| (ifindex == state.facts.uplink.ifindex).then(|| state.facts.uplink.name.clone());
    let interface = |ifindex: u32| {
        let own = state.facts.interfaces.iter().find(|(_, index)| **index == ifindex);
        own.map(|(name, _)| name.clone()).or_else(|| uplink(ifindex))
    };
    let owner = |network: u32, prefix: ipnet::IpNet| {
        let borrowed = state.snapshot.borrowed.get(&(network, prefix.addr()));
        let claim = state.snapshot.claims.get(&(network, prefix)).or(borrowed);
        claim.map(|claim| claim.node.clone())
    };
    let endpoints = actual.endpoints.iter().map(|(addr, endpoint)| wire::Route {
        prefix: prefix(128, *addr),
        kind: "local".into(),
        network: name(endpoint.network),
        node: Some(state.facts.node.clone()),
        next_hop: None,
        interface: interface(endpoint.ifindex),
    });
    let routes = actual.routes.iter().map(|(key, found)| {
        let prefix = prefix(key.prefix_len(), key.addr);
        wire::Route {
            prefix,
            kind: if found.is_reachable() { "remote" } else { "unreachable" }.into(),
            network: name(key.network()),
            node: owner(key.network(), prefix),
            next_hop: hop(found.next_hop),
            interface: actual.node.get(&()).and_then(|node| uplink(node.uplink_ifindex)),
        }
    });
    let prefixes = actual.prefixes.iter().map(|(key, found)| {
        let prefix = prefix(key.len, key.addr);
        let owner = |node: &&crate::model::node::Node| node.addresses.contains(&prefix.addr());
        wire::Route {
            prefix,
            kind: match found.kind {
                route::SUBNET => "subnet",
                route::THIS_NODE => "this_node",
                _ if found.via.is_unspecified() => "unreachable",
                _ => "node",
            }
            .into(),
            network: name(found.network),
            node: state.snapshot.nodes.values().find(owner).map(|node| node.name.clone()),
            next_hop: if found.kind == route::NODE { hop(found.via) } else { None },
            interface: interface(found.ifindex),
        }
    });
    let mut all: Vec<_> = endpoints.chain(routes).chain(prefixes).collect();
    all.sort_by_key(|route| (route.prefix, route.kind.clone()));
    all
}

/// A prefix in the length of its own family.
pub(crate) fn prefix(len: u32, addr: Addr) -> ipnet::IpNet {
    let len = if addr.is_v4() { len.saturating_sub(96) } else { len };
    net(addr.into(), len as u8)
}

fn world(actual: &crate::tables::Tables) -> wire::World {
    let exceptions = actual.accepts.keys().map(|accept| {
        let program = if accept.v4 { "iptables" } else { "ip6tables" };
        format!("{program} {}", accept.chain)
    });
    let exceptions: std::collections::BTreeSet<String> = exceptions.collect();
    wire::World {
        masqueraded: actual.firewall.values().flat_map(|firewall| firewall.subnets.iter().copied()).collect(),
        switches: actual.sysctls.iter().map(|(key, value)| (key.path.clone(), value.clone())).collect(),
        exceptions: exceptions.into_iter().collect(),
    }
}

pub(crate) fn denied(state: &State) -> Vec<wire::Denied> {
    let denied = state.snapshot.denied.iter();
    let view = |(cidr, found): (&IpNet, &Denied)| wire::Denied {
        cidr: *cidr,
        comment: found.comment.clone(),
        since: found.since,
    };
    denied.map(view).collect()
}

pub(crate) fn pools(state: &State) -> Vec<wire::Pool> {
    let pools = usage(&state.snapshot).into_iter();
    pools
        .map(|found| wire::Pool {
            cidr: found.pool.cidr,
            network_prefix: found.pool.network_len,
            network_size: found.pool.network_len,
            networks: found.networks,
        })
        .collect()
}

/// How the store stands.
pub(crate) fn store(state: &State, at: &str) -> wire::Store {
    wire::Store {
        at: at.into(),
        in_sync: state.in_sync() && state.store.away.is_none(),
        revision: state.revision,
        events: state.events.total(),
        away: state.store.away.as_ref().map(|(away, _)| away.problem.clone()),
        away_since: state.store.away.as_ref().map(|(_, since)| *since),
        unwritable: state.store.unwritable.as_ref().map(|(why, _)| why.problem.clone()),
        unwritable_since: state.store.unwritable.as_ref().map(|(_, since)| *since),
        unreadable: state.snapshot.unreadable.clone().into(),
    }
}

/// Who has which address by the allocations of a listing, by the names that
/// networks have now.
pub(crate) fn holders(state: &State, listing: &Listing) -> Vec<wire::Holder> {
    let mut all: BTreeMap<(u32, String), wire::Holder> = BTreeMap::new();
    for entry in &listing.entries {
        let Event::Put { key, value, .. } = entry else { continue };
        let Some(key @ Key::Ipam(id, _)) = Key::parse(key) else { continue };
        // One that cannot be read is told by status.
        let Ok(Allocations { node: owner, addresses, .. }) = model::decode(&key, value) else { continue };
        for (addr, holder) in addresses {
            let named = state.snapshot.networks.get(&id).map(|network| network.name.clone());
            let entry = all.entry((id, holder.endpoint.clone())).or_insert_with(|| wire::Holder {
                addresses: Vec::new(),
                id: holder.endpoint,
                name: holder.name,
                network: named.unwrap_or_else(|| format!("number {id}")),
                node: holder.node.unwrap_or_else(|| owner.clone()),
            });
            entry.addresses.push(addr);
        }
    }
    let mut all: Vec<wire::Holder> = all.into_values().collect();
    all.iter_mut().for_each(|holder| holder.addresses.sort());
    all.sort_by(|a, b| (&a.network, &a.addresses).cmp(&(&b.network, &b.addresses)));
    all
}

pub(crate) fn status(
    state: &State,
    (mode, device): (TcMode, Device),
    pins: &Pins,
    store_at: &str,
) -> Result<wire::Status> {
    let none = crate::tables::Tables::default();
    let actual = state.actual.as_ref().unwrap_or(&none);
    let attachments = actual.attachments.iter().map(|(interface, attachment)| wire::Attachment {
        interface: interface.clone(),
        program: attachment.program.label().into(),
        current: attachment.current,
    });
    let pending = state.retry.pending().iter().map(|(key, pending)| wire::Pending {
        change: key.to_string(),
        reason: pending.reason.problem.clone(),
        failures: pending.failures,
    });
    let maps = maps::usage(pins, actual)?.into_iter();
    Ok(wire::Status {
        node: state.facts.node.clone(),
        version: crate::version().into(),
        uplink: state.facts.uplink.name.clone(),
        addresses: state.facts.addresses.clone(),
        tc_mode: format!("{mode:?}").to_lowercase(),
        container_device: format!("{device:?}").to_lowercase(),
        xdp: state.xdp(),
        store: store(state, store_at),
        endpoints: state.facts.endpoints.len(),
        attachments: attachments.collect(),
        maps: maps.map(|(name, used, capacity)| wire::Map { name: name.into(), used, capacity }).collect(),
        world: world(actual),
        pending: pending.collect(),
        problems: problems(state),
        notices: Vec::new(),
    })
}
