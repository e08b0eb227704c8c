//! What is wrong between this host, the other nodes and what the store says.

use ipnet::IpNet;

use super::add;
use crate::{
    api::wire::Problem,
    control::State,
    model::{
        key::Key,
        network::{Network, overlap},
    },
};

/// Everything of that.
pub(super) fn problems(state: &State, problems: &mut Vec<Problem>) {
    barred(state, problems);
    unheeded(state, problems);
    shadowed(state, problems);
    without_ipv6(state, problems);
    out_of_reach(state, problems);
}

/// Networks that this node must not follow.
fn barred(state: &State, problems: &mut Vec<Problem>) {
    for (network, reason) in state.snapshot.barred.values() {
        let what = format!("network {} is not served on this node: {reason}", network.name);
        // By its name the other one would be removed.
        let mend = match state.snapshot.network(&network.name) {
            Some(_) => format!("etcdctl del {}", Key::Network(network.id)),
            None => format!("margay network rm {}, and create it with another subnet", network.name),
        };
        add(problems, what, &mend);
    }
}

/// Prefixes of the deny list that would cut this node off.
fn unheeded(state: &State, problems: &mut Vec<Problem>) {
    for cidr in state.snapshot.denied.keys() {
        if let Some((addr, what)) = state.facts.vital_in(*cidr) {
            let what = format!(
                "this node does not deny prefix {cidr}, which is on the deny list: it holds {addr}, {what}"
            );
            add(problems, what, &format!("margay guard rm {cidr}, and deny smaller prefixes"));
        }
    }
}

/// Networks whose addresses routes of this host lead elsewhere, or that take addresses from
/// such a route that nobody meant them to take.
fn shadowed(state: &State, problems: &mut Vec<Problem>) {
    let shadows = |network: &Network, subnet: IpNet, route: IpNet| {
        subnet.contains(&route) || (network.pooled && overlap(subnet, route))
    };
    let facts = &state.facts;
    for network in state.snapshot.networks.values() {
        for subnet in network.cidrs() {
            let mut routes = facts.routed.iter().chain(&facts.occupied);
            if let Some(route) = routes.find(|route| shadows(network, subnet, **route)) {
                let what = format!(
                    "subnet {subnet} of network {} overlaps this host's route to {route}: this host sends packets \
                     for some of its addresses elsewhere",
                    network.name
                );
                let mend = format!(
                    "remove that route (ip route show {route}), or create the network with another subnet"
                );
                add(problems, what, &mend);
            }
        }
    }
}

/// Networks with IPv6 on a host without.
fn without_ipv6(state: &State, problems: &mut Vec<Problem>) {
    let Some(why) = &state.facts.no_ipv6 else { return };
    let has_ipv6 = |network: &&Network| network.cidrs().any(|cidr| cidr.addr().is_ipv6());
    let networks: Vec<&str> =
        state.snapshot.networks.values().filter(has_ipv6).map(|network| network.name.as_str()).collect();
    let Some(first) = networks.first() else { return };
    let more = if networks.len() > 1 { format!(" and {} more", networks.len() - 1) } else { String::new() };
    let what = format!(
        "IPv6 is switched off on uplink {} ({why}): containers of network {first}{more} reach no other host \
         by IPv6, nor this one",
        state.facts.uplink.name
    );
    let mend = match why.split_once(" is 1") {
        Some((switch, _)) => format!("sysctl -w {switch}=0, or use networks of IPv4 alone"),
        None => "start this host without ipv6.disable=1, or use networks of IPv4 alone".into(),
    };
    add(problems, what, &mend);
}

/// Nodes that packets cannot be sent to.
fn out_of_reach(state: &State, problems: &mut Vec<Problem>) {
    let uplink = &state.facts.uplink.name;
    for node in state.snapshot.nodes.values().filter(|node| node.name != state.facts.node) {
        if node.addresses.is_empty() {
            let what = format!(
                "another host took the address of node {}: its containers are unreachable",
                node.name
            );
            add(
                problems,
                what,
                &format!("start its agent again, or remove it: margay node rm {}", node.name),
            );
        } else if !node.addresses.iter().any(|addr| state.facts.is_on_link(*addr)) {
            let addr = node.addresses[0];
            let what = format!(
                "node {} is not on the link of {uplink}, as `ip route get {addr}` says: its containers are \
                 unreachable from here",
                node.name
            );
            let mend = format!(
                "give this host a route to {addr} without a gateway (ip route add PREFIX dev {uplink}), or \
                 remove the node: margay node rm {}",
                node.name
            );
            add(problems, what, &mend);
        }
    }
}
