//! What the host says of itself, as the loop follows it: interfaces, addresses, its own
//! routes, how it forwards.

use std::{collections::BTreeSet, net::IpAddr};

use anyhow::Result;
use ipnet::IpNet;
use tokio::time::Instant;
use tracing::{info, warn};

use super::{Loop, State};
use crate::{
    desired::{Dirty, Source, Uplink},
    kernel::{
        Kernel,
        facts::{self, Look},
        link,
        routes::{self, Changed, Way},
    },
    model::network::{net, overlap},
    problem::Problem,
    shared::Shared,
};

/// What mends an uplink whose fault says nothing of a mend.
const SEE: &str = "see what became of the interface: ip addr";

/// What is known of the host's own routes, and what of that is to be looked at again.
#[derive(Clone, Debug, Default)]
pub struct Routes {
    /// Those that may have changed, if any.
    pub stale: Option<Changed>,
    /// Addresses of other nodes, and whether each is on the uplink's link.
    nodes: Shared<IpAddr, bool>,
    /// The pools and subnets that the host's routes were compared with.
    among: Vec<IpNet>,
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
}

impl State {
    /// Addresses of other nodes whose way may be another: new ones, and those that a change
    /// concerns. Forgets those of nodes that are gone.
    fn addresses_to_look_at(&mut self, changed: &Changed) -> Vec<IpAddr> {
        let others = self.snapshot.nodes.values().filter(|node| node.name != self.facts.node);
        let there: BTreeSet<IpAddr> = others.flat_map(|node| node.addresses.iter().copied()).collect();
        self.routes.nodes.retain(|addr, _| there.contains(addr));
        self.facts.on_link.retain(|addr| there.contains(addr));
        let known = &self.routes.nodes;
        there.into_iter().filter(|addr| !known.contains_key(addr) || changed.concerns(*addr)).collect()
    }

    /// Takes over whether an address of other nodes is on the link, and says what that
    /// concerns.
    fn is_on_link(&mut self, addr: IpAddr, on_link: bool) -> Dirty {
        if self.routes.nodes.insert(addr, on_link) == Some(on_link) {
            return Dirty::Nothing;
        }
        match on_link {
            true => self.facts.on_link.insert(addr),
            false => self.facts.on_link.remove(&addr),
        };
        let mut dirty = Dirty::Nothing;
        for node in self.snapshot.nodes.values().filter(|node| node.addresses.contains(&addr)) {
            dirty.add(Source::Node(node.name.clone()).into());
        }
        dirty
    }

    /// The pools and the networks' subnets.
    fn prefixes_of_interest(&self) -> Vec<IpNet> {
        let subnets = self.snapshot.networks.values().flat_map(|network| network.cidrs());
        let all: Vec<IpNet> = self.snapshot.pools.keys().copied().chain(subnets).collect();
        IpNet::aggregate(&all)
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

    /// Judges the networks by what this host is now, and says what that changes.
    pub fn settle(&mut self) -> Dirty {
        let followed = self.snapshot.followed();
        self.snapshot.settle(&self.facts.vital(), &followed);
        if self.snapshot.followed() == followed { Dirty::Nothing } else { Dirty::Everything }
    }
}

impl<K: Kernel> Loop<K> {
    /// Reads what the host says of itself. A lost uplink keeps what was known:
    /// the programs go on with it, should it return as it was.
    pub(super) async fn look_at_host(&mut self) {
        self.state.facts_stale = false;
        let facts = &self.state.facts;
        let expected = facts.endpoints.values().map(|endpoint| &endpoint.host_interface);
        let expected = expected.chain(facts.interfaces.keys());
        let mut look = match facts::look(&self.netlink, &facts.uplink.name, expected).await {
            Ok(look) => look,
            Err(error) => {
                // Nothing may be concluded from what was known before.
                self.state.facts_stale = true;
                let failure = format!("cannot list the interfaces: {error:#}");
                self.read_due = Instant::now() + self.readings.failed(&failure);
                return;
            }
        };
        self.readings.succeeded();
        let dirty = self.state.has_interfaces(std::mem::take(&mut look.interfaces));
        self.dirty.add(dirty);
        let dirty = self.state.has_down(&look.down);
        self.dirty.add(dirty);
        self.state.facts.occupied.clone_from(&look.occupied);
        let dirty = self.state.has_addresses(std::mem::take(&mut look.own));
        self.dirty.add(dirty);
        if self.state.facts.no_ipv6 != look.no_ipv6 {
            self.state.facts.no_ipv6.clone_from(&look.no_ipv6);
            self.state.retry.forget_all();
            self.dirty = Dirty::Everything;
        }
        self.take_uplink(look).await;
        for (id, endpoint) in &self.state.facts.endpoints {
            if !self.state.facts.interfaces.contains_key(&endpoint.host_interface) {
                // A full channel is fine: the next look finds it again.
                drop(self.sources.vanished.try_send(id.clone()));
            }
        }
    }

    /// Takes over what the uplink and its addresses are now, or what is wrong with them.
    async fn take_uplink(&mut self, look: Look) {
        let facts = &self.state.facts;
        let is_taken = |addr| self.state.snapshot.is_in_subnet(addr);
        let (name, given, now) = (&facts.uplink.name, &facts.given, &facts.addresses);
        let addresses = facts::node_addresses(&look, name, given, now, is_taken);
        let mut problem = None;
        match look.uplink {
            Ok(uplink) => self.uplink_is(uplink).await,
            Err(error) => problem = Some(Problem::of(&error, SEE)),
        }
        match addresses {
            Ok(addresses) => self.addresses_are(addresses),
            Err(error) if problem.is_none() => problem = Some(Problem::of(&error, SEE)),
            Err(_) => {}
        }
        let before = std::mem::replace(&mut self.state.uplink_problem, problem);
        match &self.state.uplink_problem {
            Some(problem) if before.as_ref() != Some(problem) => warn!("{problem}"),
            None if before.is_some() => {
                info!("uplink {} is back", self.state.facts.uplink.name);
                self.try_everything_again();
            }
            _ => {}
        }
    }

    async fn uplink_is(&mut self, uplink: Uplink) {
        if uplink != self.state.facts.uplink {
            self.try_everything_again();
        }
        self.raise(&uplink).await;
        self.state.facts.uplink = uplink;
    }

    fn addresses_are(&mut self, addresses: Vec<IpAddr>) {
        if addresses == self.state.facts.addresses {
            return;
        }
        let list = |list: &[IpAddr]| list.iter().map(IpAddr::to_string).collect::<Vec<_>>().join(" and ");
        info!(
            "this node's addresses are now {}, no longer {}",
            list(&addresses),
            list(&self.state.facts.addresses)
        );
        self.state.facts.addresses = addresses;
        self.state.settle();
        self.try_everything_again();
    }

    /// The kernel drops routes with their source address and filters with their interface:
    /// looks again, and tries everything again.
    fn try_everything_again(&mut self) {
        self.state.doubts += 1;
        self.state.retry.forget_all();
        self.state.routes.changed(Changed::All);
        self.dirty = Dirty::Everything;
    }

    /// Looks again at those of the host's own routes that may have changed: which nodes are
    /// on the uplink's link, what is spoken for, and where the gateways are.
    pub(super) async fn look_at_routes(&mut self) {
        let Some(changed) = self.state.routes.stale.take() else { return };
        let looked = async {
            self.look_at_nodes(&changed).await?;
            self.look_at_spoken(&changed).await
        };
        if let Err(error) = looked.await {
            self.state.routes.changed(changed);
            let failure = format!("cannot read the host's routes: {error:#}");
            self.read_due = Instant::now() + self.readings.failed(&failure);
        }
    }

    /// Which nodes are on the link. The kernel is asked about each by itself: what leads to
    /// an address are rules, tables and routes that only it puts together.
    async fn look_at_nodes(&mut self, changed: &Changed) -> Result<()> {
        for addr in self.state.addresses_to_look_at(changed) {
            let uplink = &self.state.facts.uplink;
            let on_link = match routes::way_to(&self.netlink, addr).await? {
                Way::By { interface, gateway } => interface == uplink.ifindex && gateway.is_none(),
                Way::Nowhere => false,
                // Whoever takes all routes away for a moment does not move the other hosts.
                Way::Unsaid => uplink.prefixes.iter().any(|prefix| prefix.contains(&addr)),
            };
            let dirty = self.state.is_on_link(addr, on_link);
            self.dirty.add(dirty);
        }
        Ok(())
    }

    /// What the host's routes speak for of the pools and networks.
    async fn look_at_spoken(&mut self, changed: &Changed) -> Result<()> {
        let among = self.state.prefixes_of_interest();
        let default = [true, false].map(|v4| net(if v4 { [0; 4].into() } else { [0; 16].into() }, 0));
        let gateways = self.state.facts.store.iter().any(|addr| changed.concerns(*addr))
            || matches!(changed, Changed::To(prefixes) if default.iter().any(|all| prefixes.contains(all)));
        let again = among != self.state.routes.among;
        if !again
            && !gateways
            && !among.iter().any(|cidr| changed.overlaps(*cidr))
            && *changed != Changed::All
        {
            return Ok(());
        }
        let own = self.state.facts.interfaces.values().copied().collect();
        let mut spoken = routes::spoken(&self.netlink, &among, &own).await?;
        for addr in self.state.facts.store.clone() {
            if let Way::By { gateway, .. } = routes::way_to(&self.netlink, addr).await? {
                spoken.gateways.extend(gateway);
            }
        }
        spoken.routed.retain(|cidr| !self.state.facts.occupied.contains(cidr));
        self.state.routes.among = among;
        self.state.facts.routed = spoken.routed;
        if self.state.facts.gateways != spoken.gateways {
            self.state.facts.gateways = spoken.gateways;
            self.state.settle();
            self.dirty = Dirty::Everything;
        }
        Ok(())
    }

    /// Raises an uplink again that was reset: it would cut every super-packet of
    /// the containers in software.
    async fn raise(&self, uplink: &Uplink) {
        let Some(size) = self.state.facts.super_packets.filter(|size| uplink.super_packet < *size) else {
            return;
        };
        warn!(
            "something reset uplink {} to super-packets of {} bytes; raising them again",
            uplink.name, uplink.super_packet
        );
        if let Err(error) = link::set_super_packets(&self.netlink, uplink.ifindex, size).await {
            warn!("--big-tcp on {}: {error:#}", uplink.name);
        }
    }
}
