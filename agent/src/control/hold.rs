//! Which changes the agent may make now: what it leaves alone while it does not trust the store,
//! and which entries it keeps although the desired state does not have them.

use std::collections::BTreeSet;

use margay_common::{
    maps::{Doubt, Held},
    route,
};

use super::State;
use crate::{
    desired::{endpoint_keys, prefix_key},
    model::{
        endpoint::Endpoint,
        key,
        membership::{Loss, Trust},
        network::net,
    },
    problem::Problem,
    reconcile::Change,
    tables::{Entry, Key, Singly, Tables},
};

impl State {
    /// Whether the agent may make a change now. While it does not trust the store, it adds
    /// missing entries, serves and releases this node's own endpoints, and makes only those other
    /// changes that the table's [`Doubt`] permits. `blind` has the keys of values in the store
    /// that cannot be read and have no last good value.
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
            // A new program may read new maps, which the agent filled from a store that lost
            // data. So the program of another object stays at its hook.
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

    /// Whether the agent follows the host's state: it has read a store of its own cluster.
    fn follows_host(&self) -> bool {
        matches!(self.trust, Trust::Whole | Trust::Lossy(_))
    }

    /// Whether the agent keeps an entry although the desired state does not have it, as the
    /// entry's table declares.
    fn holds(&self, key: &Key, actual: &Tables, blind: &BTreeSet<key::Key>) -> bool {
        match key.held() {
            Held::Never => false,
            Held::Together => blind.iter().any(|key| matches!(key, key::Key::Network(_))),
            Held::WithEndpoint => {
                self.orphans().any(|e| endpoint_keys(e, &self.facts).any(|own| own == *key))
            }
            Held::Singly(key) => self.holds_singly(key, actual, blind),
        }
    }

    /// This node's endpoints whose network is not in the store or cannot be read.
    fn orphans(&self) -> impl Iterator<Item = &Endpoint> {
        let endpoints = self.facts.endpoints.values().filter(|e| e.lost.is_none());
        endpoints.filter(|e| !self.snapshot.networks.contains_key(&e.network))
    }

    /// Whether the agent keeps an entry of a table that is held singly: the interface of an
    /// attach in progress or of an endpoint, or an entry that depends on a value that cannot be
    /// read.
    fn holds_singly(&self, key: Singly<'_>, actual: &Tables, blind: &BTreeSet<key::Key>) -> bool {
        let network = |id: u32| blind.contains(&key::Key::Network(id));
        match key {
            Singly::Interface(name) => {
                let mut endpoints = self.facts.endpoints.values();
                self.coming.contains(name) || endpoints.any(|e| e.host_interface == *name)
            }
            Singly::Route(key) => {
                let v4 = if key.addr.is_v4() { 96 } else { 0 };
                let cidr = net(key.addr.into(), key.prefix_len().saturating_sub(v4) as u8);
                let claim = self.snapshot.claims.get(&(key.network(), cidr));
                let claim = claim.or_else(|| self.snapshot.borrowed.get(&(key.network(), cidr.addr())));
                network(key.network())
                    || blind.contains(&key::Key::Route(key.network(), cidr))
                    || claim.is_some_and(|claim| blind.contains(&key::Key::Node(claim.node.clone())))
            }
            Singly::Prefix(key) => actual.prefixes.get(key).is_some_and(|found| match found.kind {
                route::SUBNET => network(found.network),
                _ => blind.iter().any(|key| matches!(key, key::Key::Node(_))),
            }),
            Singly::Denied(key) => {
                blind.iter().any(|blind| matches!(blind, key::Key::Denied(cidr) if prefix_key(*cidr) == *key))
            }
        }
    }

    /// Why the agent allocates no address and creates no network now, if it cannot.
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

/// Describes for operators what is wrong with the store, and what they can do.
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

#[cfg(test)]
mod tests {
    use margay_common::{net::Addr, route::RouteKey};

    use super::*;
    use crate::tables::{Accept, Direction, PrefixKey, SysctlKey};

    /// One key of every table. Keys of endpoints are those of `e1`.
    fn keys() -> Vec<Key> {
        let addr = Addr::from(std::net::IpAddr::from([10, 1, 0, 2]));
        let prefix = PrefixKey { len: 128, addr };
        vec![
            Key::Interface("mgy1".into()),
            Key::Node(()),
            Key::Workload(9),
            Key::Route(RouteKey::new(1, 128, addr)),
            Key::Prefix(prefix),
            Key::Denied(prefix),
            Key::OwnAddress(addr),
            Key::Attachment("mgy1".into()),
            Key::Endpoint(addr),
            Key::Xdp("up0".into()),
            Key::HostRoute("10.1.0.0/24".parse().expect("a literal")),
            Key::Firewall(()),
            Key::Accept(Accept { v4: true, chain: "FORWARD".into(), direction: Direction::In }),
            Key::Sysctl(SysctlKey { stage: 0, path: "net/ipv4/ip_forward".into() }),
        ]
    }

    /// Those of the keys that the agent keeps, in words.
    fn held(state: &State, blind: &[key::Key]) -> Vec<String> {
        let blind = blind.iter().cloned().collect();
        let mut actual = Tables::default();
        let addr = Addr::from(std::net::IpAddr::from([10, 1, 0, 2]));
        let subnet = route::Prefix { kind: route::SUBNET, network: 1, ..route::Prefix::default() };
        actual.put(Entry::Prefix(PrefixKey { len: 128, addr }, subnet));
        let held = |key: &Key| !state.permits(&Change::Remove(key.clone()), &actual, &blind);
        keys().iter().filter(|key| held(key)).map(Key::to_string).collect()
    }

    fn with_endpoint() -> State {
        let value = r#"{"v":1,"id":"e1","network":1,"network_name":"n1","addresses":["10.1.0.2"],
            "mac":"02:00:00:00:00:01","netns":"/n","sandbox":1,"ifname":"eth0","host_interface":"mgy1",
            "mtu":1500,"ready":true}"#;
        let endpoint: Endpoint = crate::model::parse(value.as_bytes()).expect("an endpoint");
        let mut state = State { trust: Trust::Whole, ..State::default() };
        state.facts.interfaces.insert("mgy1".into(), 9);
        state.facts.endpoints.insert(endpoint.id.clone(), endpoint);
        state
    }

    #[test]
    fn entries_of_an_endpoint_stay_while_its_network_is_missing() {
        let own = [
            "interface mgy1",
            "the container behind interface 9",
            "the program on mgy1",
            "the endpoint 10.1.0.2",
        ];
        assert_eq!(held(&with_endpoint(), &[]), own);
        assert!(held(&State { trust: Trust::Whole, ..State::default() }, &[]).is_empty());
    }

    #[test]
    fn entries_stay_while_the_value_that_they_depend_on_cannot_be_read() {
        let state = State { trust: Trust::Whole, ..State::default() };
        let of_network = [
            "the route to 10.1.0.2",
            "the prefix 10.1.0.2",
            "the host's route to 10.1.0.0/24",
            "masquerading",
            "the exception in iptables' chain FORWARD",
            "the kernel's switch net/ipv4/ip_forward",
        ];
        assert_eq!(held(&state, &[key::Key::Network(1)]), of_network);
        assert_eq!(held(&state, &[key::Key::Network(2)]), of_network[2..]);
        let denied = key::Key::Denied("10.1.0.2/32".parse().expect("a literal"));
        assert_eq!(held(&state, &[denied]), ["denied prefix 10.1.0.2"]);
    }
}
