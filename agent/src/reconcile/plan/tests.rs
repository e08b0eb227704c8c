use std::collections::BTreeSet;

use margay_common::{
    endpoint::{EndpointEntry, Workload},
    net::Addr,
    route::{Node, Prefix, Route, RouteKey, SUBNET},
    verdict::Program,
};
use proptest::prelude::*;

use super::*;
use crate::tables::{Attachment, HOST_INTERFACE, HostRoute, Interface, PrefixKey, Table};

/// A kernel that refuses what refers to something it does not hold, and to
/// remove what something still refers to.
#[derive(Default)]
struct FakeKernel {
    tables: Tables,
    refuse: BTreeSet<Key>,
}

/// The tables with interface index 1 for `a` and 2 for `b`.
fn ifindex(name: &str) -> u32 {
    if name == "a" { 1 } else { 2 }
}

fn interface(index: u32) -> String {
    if index == 1 { "a".into() } else { "b".into() }
}

fn references(entry: &Entry) -> Vec<Key> {
    let referents = entry.key().table().referents().iter();
    referents.filter_map(|table| reference(entry, *table)).collect()
}

/// The entry of a table that an entry of a table after it refers to, if this one does.
fn reference(entry: &Entry, table: Table) -> Option<Key> {
    let of_workload = |a: &Attachment| a.program == Program::FromWorkload;
    match (table, entry) {
        (Table::node, Entry::Attachment(_, a)) => (!of_workload(a)).then_some(Key::Node(())),
        (Table::node, _) => Some(Key::Node(())),
        (Table::firewall, _) => Some(Key::Firewall(())),
        (Table::interfaces, Entry::Workload(index, _)) => Some(Key::Interface(interface(*index))),
        (Table::interfaces, Entry::Attachment(name, _)) => Some(Key::Interface(name.clone())),
        (Table::interfaces, _) => Some(Key::Interface(HOST_INTERFACE.into())),
        (Table::workloads, Entry::Attachment(name, a)) => {
            of_workload(a).then_some(Key::Workload(ifindex(name)))
        }
        (Table::workloads, Entry::Endpoint(_, e)) => Some(Key::Workload(e.ifindex)),
        (Table::attachments, Entry::Endpoint(_, e)) => Some(Key::Attachment(interface(e.ifindex))),
        (Table::attachments, _) => Some(Key::Attachment(HOST_INTERFACE.into())),
        _ => panic!("which of {table:?} does {entry:?} refer to?"),
    }
}

impl FakeKernel {
    fn apply(&mut self, change: &Change) -> Result<(), String> {
        if self.refuse.contains(&change.key()) {
            return Err("refused".into());
        }
        match change {
            Change::Put(entry) => {
                for key in references(entry) {
                    assert!(
                        self.tables.get(&key).is_some(),
                        "{entry:?} refers to {key:?}, which is not there"
                    );
                }
                self.tables.put(entry.clone());
            }
            Change::Remove(key) => {
                for entry in self.tables.entries().filter(|entry| entry.key() != *key) {
                    assert!(!references(&entry).contains(key), "{entry:?} still refers to {key:?}");
                }
                self.tables.remove(key);
            }
        }
        Ok(())
    }

    fn converge(&mut self, desired: &Tables) -> usize {
        let changes = plan(desired, &self.tables);
        changes.iter().filter(|change| self.apply(change).is_err()).count()
    }
}

/// A state of which each bit is one part, all of its references included.
fn state(bits: u16) -> Tables {
    let bit = |n: u16| bits & (1 << n) != 0;
    let mut t = Tables::default();
    if bit(0) {
        t.put(Entry::Interface(HOST_INTERFACE.into(), Interface::Host { mtu: 1500 }));
        t.put(Entry::Node((), Node { uplink_mtu: 1400 + u32::from(bit(1)), ..Node::default() }));
        let attachment = Attachment { program: Program::FromHost, current: bit(2) };
        t.put(Entry::Attachment(HOST_INTERFACE.into(), attachment));
        if bit(3) {
            let cidr = "10.0.0.0/24".parse().expect("a literal");
            let gateway = "10.0.0.1".parse().expect("a literal");
            t.put(Entry::HostRoute(cidr, HostRoute { gateway, source: None, mtu: 1500 }));
        }
        if bit(4) {
            let next_hop = Addr([0, 1 + u64::from(bit(5))]);
            t.put(Entry::Route(RouteKey::default(), Route { next_hop }));
            let key = PrefixKey { len: 0, addr: Addr::default() };
            t.put(Entry::Prefix(key, Prefix { kind: SUBNET, ..Prefix::default() }));
        }
    }
    for (name, on, moved) in [("a", bit(6), false), ("b", bit(7), bit(8))] {
        if on {
            let index = ifindex(name);
            t.put(Entry::Interface(name.into(), Interface::Endpoint));
            t.put(Entry::Workload(index, Workload { network: 1, ..Workload::default() }));
            t.put(Entry::Attachment(
                name.into(),
                Attachment { program: Program::FromWorkload, current: true },
            ));
            // With `moved` both claim one address, and the later has it.
            let addr = Addr([0, if moved { 1 } else { index.into() }]);
            t.put(Entry::Endpoint(addr, EndpointEntry { ifindex: index, ..EndpointEntry::default() }));
        }
    }
    t
}

#[test]
fn program_is_replaced_after_the_tables_are_filled() {
    // The host's old program is there, routes and an endpoint are not.
    let (from, to) = (state(0b1), state(0b0101_0101));
    let changes = plan(&to, &from);
    let position = |key: &Key| changes.iter().position(|change| change.key() == *key).expect("it changes");
    let replaced = position(&Key::Attachment(HOST_INTERFACE.into()));
    let new = position(&Key::Attachment("a".into()));
    let endpoint = position(&Key::Endpoint(Addr([0, ifindex("a").into()])));
    assert!(replaced > position(&Key::Route(RouteKey::default())) && replaced > endpoint);
    assert!(new < endpoint, "a new program is there before its endpoint");
}

#[test]
fn every_state_leads_to_every_other() {
    let states: Vec<Tables> = (0..512).map(state).collect();
    for (from, begun) in states.iter().enumerate() {
        let mut kernel = FakeKernel::default();
        kernel.converge(begun);
        assert_eq!(kernel.tables, *begun);
        for (to, wanted) in states.iter().enumerate() {
            let mut kernel = FakeKernel { tables: begun.clone(), ..FakeKernel::default() };
            kernel.converge(wanted);
            assert_eq!(kernel.tables, *wanted, "{from} -> {to}");
        }
    }
}

#[test]
fn equal_tables_need_no_change() {
    for bits in 0..512 {
        assert_eq!(plan(&state(bits), &state(bits)), []);
    }
}

proptest! {
    /// Whatever history the kernel has had, refusals included, it ends where
    /// it should once nothing is refused, and unrelated changes never wait.
    #[test]
    fn histories_converge(history in prop::collection::vec((0u16..512, 0u16..512), 1..12), last in 0u16..512) {
        let mut kernel = FakeKernel::default();
        for (target, refused) in history {
            let target = state(target);
            // Leaves only: refusing what others refer to is the retry's affair.
            let leaves = state(refused).endpoints;
            kernel.refuse = leaves.keys().copied().map(Key::Endpoint).collect();
            let refusals = kernel.refuse.len();
            let before = kernel.tables.clone();
            let mut survivors = target.clone();
            for key in &kernel.refuse {
                // A leaf that cannot be removed keeps its references: skip
                // such targets, the kernel would rightly complain.
                if before.endpoints.keys().any(|a| Key::Endpoint(*a) == *key) {
                    survivors = before.clone();
                }
            }
            if survivors == target {
                let failed = kernel.converge(&target);
                prop_assert!(failed <= refusals);
            }
        }
        kernel.refuse.clear();
        kernel.converge(&state(last));
        prop_assert_eq!(kernel.tables, state(last));
    }
}
