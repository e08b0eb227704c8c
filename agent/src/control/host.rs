//! What the host says of itself, as the loop follows it: interfaces and addresses. It is looked
//! at beside the loop.

use std::{collections::BTreeSet, net::IpAddr};

use anyhow::Result;
use tracing::{info, warn};

use super::{
    Loop, State,
    aside::{HostLook, Task},
};
use crate::{
    desired::{Dirty, Uplink},
    kernel::{
        Kernel, Netlink,
        facts::{self, Look},
        link,
        routes::Changed,
    },
    problem::Problem,
};

/// What to do about a fault of the uplink that does not say it.
const SEE: &str = "see what became of the interface: ip addr";

impl State {
    /// Judges the networks by what this host is now, and says what that changes.
    pub fn settle(&mut self) -> Dirty {
        let followed = self.snapshot.followed();
        self.snapshot.settle(&self.facts.vital(), &followed);
        if self.snapshot.followed() == followed { Dirty::Nothing } else { Dirty::Everything }
    }
}

impl<K: Kernel> Loop<K> {
    /// Notes that the host may be another. Gives the number of the look that will see it.
    pub(super) fn host_changed(&mut self) -> u64 {
        self.state.facts_stale = true;
        self.look_due = true;
        self.aside.looks() + 1
    }

    /// Has the host looked at if it may be another, one look at a time.
    pub(super) fn look_at_host(&mut self) {
        if !self.look_due || self.aside.is_at(Task::Host) || !self.aside.may_read() {
            return;
        }
        self.look_due = false;
        let facts = &self.state.facts;
        let expected = facts.endpoints.values().map(|endpoint| &endpoint.host_interface);
        let expected: BTreeSet<String> = expected.chain(facts.interfaces.keys()).cloned().collect();
        let (netlink, name, size) = (self.netlink.clone(), facts.uplink.name.clone(), facts.super_packets);
        let same = expected.clone();
        self.aside.look_at_host(expected, async move {
            let look = facts::look(&netlink, &name, same.iter()).await?;
            if let (Ok(uplink), Some(size)) = (&look.uplink, size) {
                raise(&netlink, uplink, size).await;
            }
            Ok(look)
        });
    }

    /// Takes over what the host says of itself. A lost uplink keeps what was known:
    /// the programs go on with it, should it return as it was.
    pub(super) fn host_looked_at(&mut self, begun: &HostLook, result: Result<Look>) {
        self.held = false;
        self.state.facts_stale = self.look_due;
        let Some(mut look) = self.has_read("cannot list the interfaces", result) else {
            // Nothing may be concluded from what was known before.
            self.host_changed();
            return;
        };
        self.looked = begun.number;
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
        self.take_uplink(look);
        self.newer.retain(|_, look| *look > begun.number);
        self.tell_vanished(begun);
    }

    /// Tells of endpoints whose interface a look has missed, those apart that came since it began.
    fn tell_vanished(&self, begun: &HostLook) {
        for (id, endpoint) in &self.state.facts.endpoints {
            let interface = &endpoint.host_interface;
            if !self.state.facts.interfaces.contains_key(interface)
                && begun.expected.contains(interface)
                && !self.newer.contains_key(id)
            {
                // A full channel is fine: the next look finds it again.
                drop(self.sources.vanished.try_send(id.clone()));
            }
        }
    }

    /// Takes over what the uplink and its addresses are now, or what is wrong with them.
    fn take_uplink(&mut self, look: Look) {
        let facts = &self.state.facts;
        let is_taken = |addr| self.state.snapshot.is_in_subnet(addr);
        let (name, given, now) = (&facts.uplink.name, &facts.given, &facts.addresses);
        let addresses = facts::node_addresses(&look, name, given, now, is_taken);
        let mut problem = None;
        match look.uplink {
            Ok(uplink) => self.uplink_is(uplink),
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

    fn uplink_is(&mut self, uplink: Uplink) {
        if uplink != self.state.facts.uplink {
            self.try_everything_again();
        }
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
}

/// Raises an uplink again that was reset: it would cut every super-packet of
/// the containers in software.
async fn raise(netlink: &Netlink, uplink: &Uplink, size: u32) {
    if uplink.super_packet >= size {
        return;
    }
    warn!(
        "something reset uplink {} to super-packets of {} bytes; raising them again",
        uplink.name, uplink.super_packet
    );
    if let Err(error) = link::set_super_packets(netlink, uplink.ifindex, size).await {
        warn!("--big-tcp on {}: {error:#}", uplink.name);
    }
}
