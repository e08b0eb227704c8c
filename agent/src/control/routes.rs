//! The host's own routes, as the loop follows them: which nodes are on the uplink's link, what
//! is spoken for, and where the gateways are. The kernel is asked beside the loop.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use anyhow::Result;
use ipnet::IpNet;

use super::{
    Loop, State,
    aside::{RoutesLook, Task},
};
use crate::{
    desired::{Dirty, Source},
    kernel::{
        Kernel, Netlink,
        routes::{self, Changed, Spoken, Way},
    },
    model::network::{net, overlap},
    shared::Shared,
};

/// What is known of the host's own routes, and what of that is to be looked at again.
#[derive(Clone, Debug, Default)]
pub struct Routes {
    /// Those that may have changed, if any.
    pub stale: Option<Changed>,
    /// Addresses of other nodes, and whether each is on the uplink's link.
    nodes: Shared<IpAddr, bool>,
    /// The pools and subnets that the host's routes were compared with, once they were.
    among: Option<Vec<IpNet>>,
}

impl Routes {
    /// Notes that routes may have changed.
    pub fn changed(&mut self, changed: Changed) {
        self.stale = Some(match (self.stale.take(), changed) {
            (Some(Changed::To(mut before)), Changed::To(now)) => {
                before.extend(now);
                Changed::To(before)
            }
            (None, changed) => changed,
            _ => Changed::All,
        });
    }

    /// What has to be looked at for something new alone.
    pub(super) fn for_news(&self) -> Changed {
        if self.among.is_some() { Changed::To(BTreeSet::new()) } else { Changed::All }
    }
}

/// What a look at the host's routes found.
#[derive(Debug, Default)]
pub(super) struct Looked {
    /// Where the kernel sends packets for addresses of other nodes.
    ways: BTreeMap<IpAddr, Way>,
    /// The pools and subnets that the routes were compared with, and what they speak for.
    spoken: Option<(Vec<IpNet>, Spoken)>,
}

/// Looks at those of the host's own routes that may have changed, and at what is new in `state`.
///
/// # Errors
///
/// The kernel does not answer.
pub(super) async fn look(netlink: &Netlink, state: &State, changed: &Changed) -> Result<Looked> {
    let mut looked = Looked::default();
    // The kernel is asked about each by itself: what leads to an address are rules, tables and
    // routes that only it puts together.
    for addr in state.addresses_to_look_at(changed) {
        looked.ways.insert(addr, routes::way_to(netlink, addr).await?);
    }
    let among = state.prefixes_of_interest();
    if state.is_other_speech(&among, changed) {
        let own = state.facts.interfaces.values().copied().collect();
        let mut spoken = routes::spoken(netlink, &among, &own).await?;
        for addr in &state.facts.store {
            if let Way::By { gateway, .. } = routes::way_to(netlink, *addr).await? {
                spoken.gateways.extend(gateway);
            }
        }
        looked.spoken = Some((among, spoken));
    }
    Ok(looked)
}

impl State {
    /// The addresses of the other nodes.
    fn addresses_of_others(&self) -> BTreeSet<IpAddr> {
        let others = self.snapshot.nodes.values().filter(|node| node.name != self.facts.node);
        others.flat_map(|node| node.addresses.iter().copied()).collect()
    }

    /// Addresses of other nodes whose way may be another: new ones, and those that a change
    /// concerns.
    fn addresses_to_look_at(&self, changed: &Changed) -> Vec<IpAddr> {
        let known = &self.routes.nodes;
        let all = self.addresses_of_others().into_iter();
        all.filter(|addr| !known.contains_key(addr) || changed.concerns(*addr)).collect()
    }

    /// The pools and the networks' subnets.
    fn prefixes_of_interest(&self) -> Vec<IpNet> {
        let subnets = self.snapshot.networks.values().flat_map(|network| network.cidrs());
        let all: Vec<IpNet> = self.snapshot.pools.keys().copied().chain(subnets).collect();
        IpNet::aggregate(&all)
    }

    /// Whether what the host's routes speak for may be another.
    fn is_other_speech(&self, among: &Vec<IpNet>, changed: &Changed) -> bool {
        let default = [true, false].map(|v4| net(if v4 { [0; 4].into() } else { [0; 16].into() }, 0));
        self.routes.among.as_ref() != Some(among)
            || *changed == Changed::All
            || self.facts.store.iter().any(|addr| changed.concerns(*addr))
            || matches!(changed, Changed::To(prefixes) if default.iter().any(|all| prefixes.contains(all)))
            || among.iter().any(|cidr| changed.overlaps(*cidr))
    }

    /// Takes over what the host's routes speak for, and says what that changes.
    fn speaks_for(&mut self, (among, mut spoken): (Vec<IpNet>, Spoken)) -> Dirty {
        spoken.routed.retain(|cidr| !self.facts.occupied.contains(cidr));
        self.routes.among = Some(among);
        self.facts.routed = spoken.routed;
        if self.facts.gateways == spoken.gateways {
            return Dirty::Nothing;
        }
        self.facts.gateways = spoken.gateways;
        self.settle();
        Dirty::Everything
    }

    /// Takes over the ways to addresses of other nodes, forgets those of nodes that are gone,
    /// and says what that concerns.
    fn has_ways(&mut self, ways: BTreeMap<IpAddr, Way>) -> Dirty {
        let there = self.addresses_of_others();
        self.routes.nodes.retain(|addr, _| there.contains(addr));
        self.facts.on_link.retain(|addr| there.contains(addr));
        let mut changed = BTreeSet::new();
        for (addr, way) in ways.into_iter().filter(|(addr, _)| there.contains(addr)) {
            let uplink = &self.facts.uplink;
            let on_link = match way {
                Way::By { interface, gateway } => interface == uplink.ifindex && gateway.is_none(),
                Way::Nowhere => false,
                // Without any route, perhaps for a moment only, the uplink's prefixes decide.
                Way::Unsaid => uplink.prefixes.iter().any(|prefix| prefix.contains(&addr)),
            };
            if self.routes.nodes.get(&addr) == Some(&on_link) {
                continue;
            }
            self.routes.nodes.insert(addr, on_link);
            match on_link {
                true => self.facts.on_link.insert(addr),
                false => self.facts.on_link.remove(&addr),
            };
            changed.insert(addr);
        }
        let mut dirty = Dirty::Nothing;
        if !changed.is_empty() {
            let nodes = self.snapshot.nodes.values();
            for node in nodes.filter(|node| node.addresses.iter().any(|addr| changed.contains(addr))) {
                dirty.add(Source::Node(node.name.clone()).into());
            }
        }
        dirty
    }

    /// Takes over a look at the host's routes. What came in `between` counts with what they
    /// speak for, and the ways are those to its nodes.
    pub(super) fn has_looked(&mut self, looked: Looked, between: impl FnOnce(&mut Self) -> Dirty) -> Dirty {
        let mut dirty = looked.spoken.map_or(Dirty::Nothing, |spoken| self.speaks_for(spoken));
        dirty.add(between(self));
        dirty.add(self.has_ways(looked.ways));
        if self.routes.among.as_ref().is_some_and(|among| *among != self.prefixes_of_interest()) {
            self.routes.changed(Changed::To(BTreeSet::new()));
        }
        dirty
    }

    /// Prefixes that no network's subnet is to be taken from: the host has routes to them, or
    /// its Docker would give them to networks of its own.
    pub fn spoken_for(&self) -> Vec<IpNet> {
        let pools = self.snapshot.pools.keys();
        let docker = self.facts.runtime_pools.iter();
        let docker = docker.filter(|found| pools.clone().any(|pool| overlap(*pool, **found)));
        let all: BTreeSet<IpNet> = self.facts.routed.iter().chain(docker).copied().collect();
        all.into_iter().collect()
    }
}

impl<K: Kernel> Loop<K> {
    /// Has those of the host's own routes looked at that may have changed, one look at a time.
    pub(super) fn look_at_routes(&mut self) {
        if self.aside.is_at(Task::Routes) || !self.aside.may_read() {
            return;
        }
        let Some(changed) = self.state.routes.stale.take() else { return };
        let begun = RoutesLook { uplink: self.state.facts.uplink.clone(), changed: changed.clone() };
        let (netlink, state) = (self.netlink.clone(), self.state.clone());
        self.aside.look_at_routes(begun, async move { look(&netlink, &state, &changed).await });
    }

    /// Takes over what a look at the routes found, unless the uplink is another by now.
    pub(super) fn routes_looked_at(&mut self, begun: RoutesLook, result: Result<Looked>) {
        if begun.uplink != self.state.facts.uplink {
            self.state.routes.changed(begun.changed);
        } else if let Some(looked) = self.routes_read(begun.changed, result) {
            let dirty = self.state.has_looked(looked, |_| Dirty::Nothing);
            self.dirty.add(dirty);
        }
    }

    /// What was found; where nothing was, it is looked at again.
    pub(super) fn routes_read(&mut self, changed: Changed, result: Result<Looked>) -> Option<Looked> {
        let looked = self.has_read("cannot read the host's routes", result);
        if looked.is_none() {
            self.state.routes.changed(changed);
        }
        looked
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{desired::Uplink, model::snapshot::Event, store::Feed};

    /// What the store tells of a node and where that is count at once.
    #[test]
    fn new_node_and_the_way_to_it_take_effect_together() {
        let mut state = State::default();
        state.facts.uplink = Uplink { ifindex: 3, ..Uplink::default() };
        let node = |name: &str, addr: &str| Event::Put {
            key: format!("/margay/v1/nodes/{name}"),
            value: format!(r#"{{"v":1,"name":"{name}","addresses":["{addr}"]}}"#).into_bytes(),
            revision: 1,
        };
        let near = Way::By { interface: 3, gateway: None };
        let far = Way::By { interface: 3, gateway: Some([192, 0, 2, 1].into()) };
        let ways = |ways: &[(u8, Way)]| Looked {
            ways: ways.iter().map(|(last, way)| ([192, 0, 2, *last].into(), *way)).collect(),
            spoken: None,
        };
        let events = vec![node("h2", "192.0.2.2"), node("h3", "192.0.2.3")];
        let told = Feed::Events { revision: 1, whole: Vec::new(), events };
        let looked = ways(&[(2, near), (3, far), (4, near)]);
        state.has_looked(looked, |state| state.take(told));
        assert_eq!(state.facts.on_link, [[192, 0, 2, 2].into()].into(), "one that no node has is no matter");
        assert_eq!(state.addresses_to_look_at(&Changed::To(BTreeSet::new())), Vec::<IpAddr>::new());
        // A change concerns the node that has the address, and no change nobody.
        let dirty = state.has_looked(ways(&[(2, near), (3, near)]), |_| Dirty::Nothing);
        assert_eq!(dirty, Source::Node("h3".into()).into());
        // With its node an address is forgotten.
        let gone = Event::Delete { key: "/margay/v1/nodes/h2".into() };
        let told = Feed::Events { revision: 2, whole: Vec::new(), events: vec![gone] };
        state.has_looked(Looked::default(), |state| state.take(told));
        assert_eq!(state.facts.on_link, [[192, 0, 2, 3].into()].into());
        assert_eq!(state.routes.nodes.len(), 1);
    }

    /// A gateway is known before what would hold it is judged.
    #[test]
    fn network_that_contains_a_gateway_found_by_the_same_look_is_barred() {
        let value = r#"{"v":1,"id":1,"name":"blue","subnets":[
            {"cidr":"10.1.0.0/16","gateway":"10.1.0.1","block_len":26}]}"#;
        let network = Event::Put { key: "/margay/v1/networks/1".into(), value: value.into(), revision: 1 };
        let told = Feed::Events { revision: 1, whole: Vec::new(), events: vec![network] };
        let spoken = Spoken { gateways: [[10, 1, 0, 9].into()].into(), ..Spoken::default() };
        let looked = Looked { spoken: Some((Vec::new(), spoken)), ..Looked::default() };
        let mut state = State::default();
        state.has_looked(looked, |state| state.take(told));
        assert!(state.snapshot.networks.is_empty() && state.snapshot.barred.contains_key(&1));
    }
}
