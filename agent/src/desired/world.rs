//! The way to the world: what the host needs so that containers reach what is
//! outside of the cluster, masqueraded as the host.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;

use super::facts::LocalFacts;
use crate::{
    model::snapshot::Snapshot,
    tables::{Accept, Direction, Entry, Firewall, HOST_INTERFACE, SysctlKey},
};

/// How the host forwards, as far as that concerns containers on their way to
/// the world.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct World {
    /// Whether containers are masqueraded at all.
    pub masquerade: bool,
    /// The interfaces of the IPv4 and IPv6 default routes.
    pub interfaces: [BTreeSet<String>; 2],
    /// How IPv6 forwarding is switched.
    pub v6: V6Forwarding,
    /// Where iptables drops what is forwarded: the chain that lets exceptions
    /// in, for IPv4 and IPv6.
    pub drops: BTreeMap<bool, String>,
}

/// How IPv6 forwarding is switched.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum V6Forwarding {
    /// For each interface (kernel 6.17).
    #[default]
    Each,
    /// For all at once.
    All {
        /// Whether it was on before we came.
        was_on: bool,
        /// Interfaces that take router advertisements, which forwarding would
        /// end.
        advertised: BTreeSet<String>,
    },
}

/// What the networks that are neither internal nor routable need.
pub(super) fn entries(snapshot: &Snapshot, facts: &LocalFacts) -> Vec<Entry> {
    let world = &facts.world;
    let networks = snapshot.networks.values().filter(|network| !network.internal && !network.routable);
    let subnets: BTreeSet<IpNet> =
        networks.flat_map(|n| n.subnets.iter().map(|subnet| subnet.cidr)).collect();
    if !world.masquerade || subnets.is_empty() {
        return Vec::new();
    }
    let has = |v4: bool| subnets.iter().any(|subnet| subnet.addr().is_ipv4() == v4);
    let (v4, v6) = (has(true), has(false));
    let mut entries = Vec::new();
    for direction in [Direction::In, Direction::Out] {
        for (v4, chain) in world.drops.iter().filter(|(v4, _)| has(**v4)) {
            entries.push(Entry::Accept(Accept { v4: *v4, chain: chain.clone(), direction }, ()));
        }
    }
    if v4 {
        let interfaces = world.interfaces[0].iter().map(String::as_str).chain([HOST_INTERFACE]);
        entries.extend(interfaces.map(|name| switch(1, format!("net/ipv4/conf/{name}/forwarding"), "1")));
    }
    let mut drop_forwarded_v6 = false;
    if v6 {
        match &world.v6 {
            V6Forwarding::Each => {
                let interfaces = world.interfaces[1].iter().map(String::as_str).chain([HOST_INTERFACE]);
                let path = |name| format!("net/ipv6/conf/{name}/force_forwarding");
                entries.extend(interfaces.map(|name| switch(1, path(name), "1")));
            }
            V6Forwarding::All { was_on, advertised } => {
                drop_forwarded_v6 = !was_on;
                let path = |name| format!("net/ipv6/conf/{name}/accept_ra");
                entries.extend(advertised.iter().map(|name| switch(0, path(name), "2")));
                entries.push(switch(1, "net/ipv6/conf/all/forwarding".into(), "1"));
            }
        }
    }
    entries.push(Entry::Firewall((), Firewall { subnets, drop_forwarded_v6 }));
    entries
}

fn switch(stage: u8, path: String, value: &str) -> Entry {
    Entry::Sysctl(SysctlKey { stage, path }, value.into())
}
