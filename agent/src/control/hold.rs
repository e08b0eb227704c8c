//! What may change, and what stays although nothing asks for it.

use std::collections::BTreeSet;

use margay_common::{maps::Doubt, route};

use super::State;
use crate::{
    desired,
    model::{
        key,
        membership::{Loss, Trust},
        network::net,
    },
    problem::Problem,
    reconcile::Change,
    tables::{Entry, Key, Tables},
};

impl State {
    /// Whether a change may be made now. While the store is not to be believed
    /// whole, this node's own endpoints come and go, what is missing is added,
    /// and nothing else changes.
    pub fn permits(&self, change: &Change, actual: &Tables, blind: &BTreeSet<key::Key>) -> bool {
        match change {
            Change::Remove(key) if self.released.contains(key) || key.doubt() == Doubt::Free => true,
            Change::Remove(key) => self.trust == Trust::Whole && !self.holds(key, actual, blind),
            Change::Put(entry) => self.may_put(entry, actual),
        }
    }

    fn may_put(&self, entry: &Entry, actual: &Tables) -> bool {
        if self.trust == Trust::Whole {
            return true;
        }
        let there = actual.get(&entry.key());
        match entry.key().doubt() {
            Doubt::Free | Doubt::Replaced => true,
            // Another object's programs may read maps that were only just filled, by a store
            // that lost something.
            Doubt::Followed if there.as_ref().is_some_and(|there| !there.is_current()) => false,
            Doubt::Followed => self.follows_host() || there.is_none(),
            Doubt::Added => there.is_none(),
            Doubt::Own => match (there, entry) {
                (None, _) => true,
                (Some(Entry::Workload(_, found)), Entry::Workload(_, wanted)) => found.may_become(wanted),
                (Some(Entry::Endpoint(_, found)), Entry::Endpoint(_, wanted)) => found.may_become(wanted),
                (Some(_), _) => false,
            },
        }
    }

    /// Whether what the host says of itself counts already.
    fn follows_host(&self) -> bool {
        matches!(self.trust, Trust::Whole | Trust::Lossy(_))
    }

    /// Whether an entry stays although nothing asks for it: an interface that
    /// is just coming, an endpoint of ours whose network is not to be seen, and
    /// what hangs on a value that cannot be read and never was.
    fn holds(&self, key: &Key, actual: &Tables, blind: &BTreeSet<key::Key>) -> bool {
        let endpoints = || self.facts.endpoints.values();
        let orphans =
            || endpoints().filter(|e| e.lost.is_none() && !self.snapshot.networks.contains_key(&e.network));
        let index = |name: &String| self.facts.interfaces.get(name);
        let network = |id: u32| blind.contains(&key::Key::Network(id));
        match key {
            Key::Interface(name) => {
                self.coming.contains(name) || endpoints().any(|e| e.host_interface == *name)
            }
            Key::Attachment(name) => orphans().any(|e| e.host_interface == *name),
            Key::Workload(found) => orphans().any(|e| index(&e.host_interface) == Some(found)),
            Key::Endpoint(addr) => orphans().any(|e| e.addresses.iter().any(|own| *addr == (*own).into())),
            Key::Route(key) => {
                let v4 = if key.addr.is_v4() { 96 } else { 0 };
                let cidr = net(key.addr.into(), key.prefix_len().saturating_sub(v4) as u8);
                let claim = self.snapshot.claims.get(&(key.network(), cidr));
                let claim = claim.or_else(|| self.snapshot.borrowed.get(&(key.network(), cidr.addr())));
                network(key.network())
                    || blind.contains(&key::Key::Route(key.network(), cidr))
                    || claim.is_some_and(|claim| blind.contains(&key::Key::Node(claim.node.clone())))
            }
            Key::Prefix(key) => actual.prefixes.get(key).is_some_and(|found| match found.kind {
                route::SUBNET => network(found.network),
                _ => blind.iter().any(|key| matches!(key, key::Key::Node(_))),
            }),
            // Which network a route of the host belongs to, only its value says.
            Key::HostRoute(_) | Key::Firewall(()) | Key::Accept(_) | Key::Sysctl(_) => {
                blind.iter().any(|key| matches!(key, key::Key::Network(_)))
            }
            Key::Denied(key) => blind
                .iter()
                .any(|blind| matches!(blind, key::Key::Denied(cidr) if desired::prefix_key(*cidr) == *key)),
            // No single value of the store leads to the others.
            _ => false,
        }
    }

    /// Why nothing new can be given out or agreed upon, if so.
    pub fn refusal(&self) -> Option<Problem> {
        if let Some(away) = self.store.unusable() {
            return Some(away.to_problem());
        }
        match &self.trust {
            Trust::Whole => None,
            Trust::Unseen => {
                Some(Problem::new("the store has not been read yet", "wait, the agent is reading it"))
            }
            doubt => Some(describe(doubt)),
        }
    }
}

/// What is wrong with a store, and what can be done.
pub fn describe(trust: &Trust) -> Problem {
    let adopt = "to go on with this store as it is: margay store adopt";
    match trust {
        Trust::Whole => Problem::new("the store is whole", "nothing has to be done"),
        Trust::Unseen => Problem::new("the store has not been read yet", "wait, the agent is reading it"),
        Trust::Other { found, expected } => Problem::new(
            format!(
                "the store is of another cluster ({found}, this node is of {expected}): this node ignores \
                 what it says"
            ),
            format!("correct --store; or, {adopt}"),
        ),
        Trust::Lossy(Loss::Awaiting(nodes)) => {
            let names: Vec<&str> = nodes.iter().take(10).map(String::as_str).collect();
            let more = nodes.len().saturating_sub(names.len());
            let more = if more > 0 { format!(" and {more} more") } else { String::new() };
            let names = names.join(", ");
            Problem::new(
                format!(
                    "the store lost data, and every node writes its own part again; still awaited: \
                     {names}{more}; until then no node removes anything"
                ),
                format!("start the agents of {names}{more}; or, {adopt}"),
            )
        }
        Trust::Lossy(loss) => {
            let what = match loss {
                Loss::Older { found, seen } => {
                    format!("is at revision {found}, below {seen}, which this node saw before")
                }
                Loss::Forgotten => "no longer has what this node wrote".into(),
                _ => "was emptied".into(),
            };
            let what = format!(
                "the store {what}: no node removes anything, and every node writes its own part again"
            );
            Problem::new(what, adopt)
        }
    }
}
