//! Where a packet goes from here: what `from_workload` and `from_host` decide about its
//! destination, told from the tables that they read, and in their order.

use std::net::IpAddr;

use anyhow::Result;
use ipnet::IpNet;
use margay_common::{
    endpoint::{BORROWED, INTERNAL, ROUTABLE, Side, Workload},
    net::Addr,
    route::{NODE, Prefix, RouteKey, SUBNET, THIS_NODE},
    verdict::{DropReason, Verdict},
};

use super::views::prefix;
use crate::{
    api::wire,
    control::State,
    model::endpoint::Endpoint,
    problem::{Problem, Rejection},
    tables::{HOST_INTERFACE, PrefixKey, Tables},
};

/// How the blocks of the destination's subnet are keyed.
struct Blocks {
    network: u32,
    len: u32,
    mask: Addr,
    borrowed: bool,
}

/// The way of a packet to `to`, from an endpoint of this node or from the host.
pub(super) fn way(state: &State, to: IpAddr, from: Option<&Endpoint>) -> Result<wire::Way> {
    let unread =
        || Rejection::Later(Problem::new("the kernel has not been read yet", "wait a moment, and ask again"));
    let tables = state.actual.as_ref().ok_or_else(unread)?;
    let teller = Teller { state, tables, to, dst: to.into(), from: from.map(|from| from.id.clone()) };
    let Some(from) = from else { return Ok(teller.of_host()) };
    let index = state.facts.interfaces.get(&from.host_interface);
    match index.and_then(|index| tables.workloads.get(index)) {
        Some(workload) => Ok(teller.of_workload(workload)),
        None => Ok(teller.dropped(DropReason::UnknownInterface)),
    }
}

struct Teller<'a> {
    state: &'a State,
    tables: &'a Tables,
    to: IpAddr,
    dst: Addr,
    from: Option<String>,
}

impl Teller<'_> {
    fn of_workload(&self, workload: &Workload) -> wire::Way {
        let side = workload.side(self.dst.family());
        if side.block_len == 0 {
            let why = "The endpoint has no address of this family, so it can send nothing there.";
            return wire::Way { why: why.into(), ..self.dropped(DropReason::SpoofedSource) };
        }
        if !self.dst.matches(&side.addr, &side.subnet_mask) {
            return self.leave(workload);
        }
        if self.dst == side.gateway {
            let why = "The gateway of the network: the program answers echo, and nothing else.";
            let network = self.network(workload.network);
            return wire::Way { network, why: why.into(), ..self.forwarded(Verdict::Answered) };
        }
        let found = self.within(workload, side);
        let known = wire::Way { network: self.network(workload.network), ..found };
        if known.verdict == DropReason::NoEndpoint.label()
            && self.dst.is_v4()
            && self.dst.is_last(&side.subnet_mask)
        {
            return wire::Way { network: known.network, ..self.dropped(DropReason::Broadcast) };
        }
        known
    }

    /// In the sender's own network: another block than its own is another node's
    /// first, unless single addresses are routed.
    fn within(&self, workload: &Workload, side: &Side) -> wire::Way {
        let borrowed = workload.flags & BORROWED != 0;
        let len = side.block_len as u32;
        let blocks = Blocks { network: workload.network, len, mask: side.block_mask, borrowed };
        let elsewhere = !borrowed && !self.dst.matches(&side.addr, &side.block_mask);
        let local = || self.local().filter(|(network, _)| *network == workload.network).map(|(_, way)| way);
        let found = match elsewhere {
            true => self.remote(&blocks).or_else(local),
            false => local().or_else(|| self.remote(&blocks)),
        };
        found.unwrap_or_else(|| self.nobody(&blocks))
    }

    fn leave(&self, workload: &Workload) -> wire::Way {
        if let Some(reason) = nobodys(self.to) {
            return self.dropped(reason);
        }
        match self.prefix() {
            Some((cidr, found)) if found.kind == THIS_NODE => wire::Way {
                prefix: Some(cidr),
                node: Some(self.state.facts.node.clone()),
                why: "An address of this host: handed to its own stack.".into(),
                ..self.by_host()
            },
            Some((cidr, found)) if found.kind == NODE => self.node(cidr, &found),
            Some((cidr, found)) => wire::Way {
                prefix: Some(cidr),
                network: self.network(found.network),
                why: "Isolated: the address is of another network, and networks do not reach each other."
                    .into(),
                ..self.dropped(DropReason::Isolated)
            },
            None if workload.flags & INTERNAL != 0 => wire::Way {
                why: "The sender's network is internal: nothing leaves it but to the cluster's nodes.".into(),
                ..self.dropped(DropReason::Internal)
            },
            None if workload.flags & ROUTABLE == 0 => wire::Way {
                why: "To the world: handed to the host's stack, which masquerades it if that is on.".into(),
                ..self.by_host()
            },
            None => wire::Way {
                interface: Some(self.state.facts.uplink.name.clone()),
                ..self.forwarded(Verdict::World)
            },
        }
    }

    fn of_host(&self) -> wire::Way {
        if let Some((network, way)) = self.local() {
            return wire::Way { network: self.network(network), ..way };
        }
        match self.prefix() {
            Some((_, subnet)) if subnet.kind == SUBNET => {
                let borrowed = subnet.flags & BORROWED != 0;
                let (network, len) = (subnet.network, subnet.block_len);
                let blocks = Blocks { network, len, mask: subnet.block_mask, borrowed };
                let way = self.remote(&blocks).unwrap_or_else(|| self.nobody(&blocks));
                wire::Way { network: self.network(network), ..way }
            }
            Some((cidr, found)) => {
                let (what, node) = match found.kind {
                    THIS_NODE => ("An address of this host.", Some(self.state.facts.node.clone())),
                    _ => {
                        ("A node of the cluster: the host's own routes lead there.", self.node_with(self.to))
                    }
                };
                wire::Way { prefix: Some(cidr), node, why: what.into(), ..self.forwarded(Verdict::Passed) }
            }
            None => wire::Way {
                why: "The world: of no network of the cluster, so the host's own routes decide.".into(),
                ..self.forwarded(Verdict::Passed)
            },
        }
    }

    /// An endpoint of this node, with the id of its network.
    fn local(&self) -> Option<(u32, wire::Way)> {
        let found = self.tables.endpoints.get(&self.dst)?;
        let facts = &self.state.facts;
        let endpoint = facts.endpoints.values().find(|endpoint| endpoint.addresses.contains(&self.to));
        let interface = facts.interfaces.iter().find(|(_, index)| **index == found.ifindex);
        let way = wire::Way {
            node: Some(facts.node.clone()),
            interface: interface.map(|(name, _)| name.clone()),
            endpoint: endpoint.map(|endpoint| endpoint.id.clone()),
            ..self.forwarded(Verdict::Local)
        };
        Some((found.network, way))
    }

    /// The route to the block, or to the address itself where that was borrowed.
    fn remote(&self, blocks: &Blocks) -> Option<wire::Way> {
        let single = blocks.borrowed.then(|| RouteKey::new(blocks.network, 128, self.dst));
        let block = RouteKey::new(blocks.network, blocks.len, self.dst.masked(&blocks.mask));
        let mut keys = single.into_iter().chain([block]);
        let (key, route) = keys.find_map(|key| Some((key, self.tables.routes.get(&key)?)))?;
        let cidr = prefix(key.prefix_len(), key.addr);
        let snapshot = &self.state.snapshot;
        let claim = snapshot.claims.get(&(blocks.network, cidr));
        let claim = claim.or_else(|| snapshot.borrowed.get(&(blocks.network, cidr.addr())));
        let way = match route.is_reachable() {
            true => wire::Way {
                next_hop: Some(route.next_hop.into()),
                interface: Some(self.state.facts.uplink.name.clone()),
                ..self.forwarded(Verdict::Remote)
            },
            false => self.dropped(DropReason::NodeUnreachable),
        };
        Some(wire::Way { prefix: Some(cidr), node: claim.map(|claim| claim.node.clone()), ..way })
    }

    fn node(&self, cidr: IpNet, found: &Prefix) -> wire::Way {
        let way = match found.via.is_unspecified() {
            true => self.dropped(DropReason::NodeUnreachable),
            false => wire::Way {
                next_hop: Some(found.via.into()),
                interface: Some(self.state.facts.uplink.name.clone()),
                ..self.forwarded(Verdict::Remote)
            },
        };
        wire::Way { prefix: Some(cidr), node: self.node_with(self.to), ..way }
    }

    fn nobody(&self, blocks: &Blocks) -> wire::Way {
        let block = prefix(blocks.len, self.dst.masked(&blocks.mask));
        wire::Way { prefix: Some(block), ..self.dropped(DropReason::NoEndpoint) }
    }

    fn by_host(&self) -> wire::Way {
        wire::Way { interface: Some(HOST_INTERFACE.into()), ..self.forwarded(Verdict::Host) }
    }

    fn forwarded(&self, verdict: Verdict) -> wire::Way {
        self.plain(verdict.label(), verdict.text(), false)
    }

    fn dropped(&self, reason: DropReason) -> wire::Way {
        self.plain(reason.label(), reason.text(), true)
    }

    fn plain(&self, verdict: &str, why: &str, dropped: bool) -> wire::Way {
        wire::Way {
            to: self.to,
            from: self.from.clone(),
            verdict: verdict.into(),
            dropped,
            why: why.into(),
            network: None,
            node: None,
            prefix: None,
            next_hop: None,
            interface: None,
            endpoint: None,
        }
    }

    /// The longest prefix that has the destination.
    fn prefix(&self) -> Option<(IpNet, Prefix)> {
        let has = |key: &&PrefixKey| self.dst.matches(&key.addr, &Addr::mask(key.len));
        let key = self.tables.prefixes.keys().filter(has).max_by_key(|key| key.len)?;
        Some((prefix(key.len, key.addr), *self.tables.prefixes.get(key)?))
    }

    fn network(&self, id: u32) -> Option<String> {
        self.state.snapshot.networks.get(&id).map(|network| network.name.clone())
    }

    fn node_with(&self, addr: IpAddr) -> Option<String> {
        let nodes = self.state.snapshot.nodes.values();
        nodes.into_iter().find(|node| node.addresses.contains(&addr)).map(|node| node.name.clone())
    }
}

/// Why no router forwards to an address, if none does.
fn nobodys(to: IpAddr) -> Option<DropReason> {
    match to {
        IpAddr::V4(v4) if v4.is_broadcast() => Some(DropReason::Broadcast),
        _ if to.is_multicast() => Some(DropReason::Multicast),
        IpAddr::V4(v4) if matches!(v4.octets()[0], 0 | 127 | 240..=255) => Some(DropReason::BadDestination),
        IpAddr::V6(v6) if v6.octets()[0] == 0 || v6.is_unicast_link_local() => {
            Some(DropReason::BadDestination)
        }
        _ => None,
    }
}

/// The endpoint that a packet is said to come from.
pub(super) fn sender(found: Option<Endpoint>, wanted: &str) -> Result<Endpoint, Rejection> {
    let missing =
        || Rejection::missing(format!("this node has no endpoint {wanted}"), "margay endpoint ls lists them");
    found.ok_or_else(missing)
}
