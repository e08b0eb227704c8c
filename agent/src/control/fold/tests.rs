use proptest::prelude::*;

use super::*;
use crate::{
    desired::Uplink,
    model::{endpoint::Endpoint, snapshot::Event},
    store::Feed,
};

/// Something that happens.
#[derive(Clone, Debug)]
enum Happening {
    /// A node claims a block of a network, or gives it up.
    Claim { network: u8, block: u8, node: Option<u8> },
    /// An endpoint comes with an address, or goes.
    Endpoint { id: u8, addr: Option<u8> },
    /// The interface of an endpoint comes with an index, or goes.
    Interface { id: u8, index: Option<u8> },
    /// A network comes or goes.
    Network { network: u8, there: bool },
    /// A node borrows a single address, or gives it up.
    Borrow { addr: u8, there: bool },
    /// A node comes with an address, or goes.
    Node { node: u8, addr: Option<u8> },
    /// What is written of a node cannot be read.
    Broken { node: u8 },
}

fn happening() -> impl Strategy<Value = Happening> {
    prop_oneof![
        (1..3_u8, 0..4_u8, proptest::option::of(1..4_u8))
            .prop_map(|(network, block, node)| Happening::Claim { network, block, node }),
        (0..3_u8, proptest::option::of(0..5_u8)).prop_map(|(id, addr)| Happening::Endpoint { id, addr }),
        (0..3_u8, proptest::option::of(10..13_u8)).prop_map(|(id, index)| Happening::Interface { id, index }),
        (1..3_u8, any::<bool>()).prop_map(|(network, there)| Happening::Network { network, there }),
        (0..4_u8, any::<bool>()).prop_map(|(addr, there)| Happening::Borrow { addr, there }),
        (1..4_u8, proptest::option::of(0..2_u8)).prop_map(|(node, addr)| Happening::Node { node, addr }),
        (1..4_u8).prop_map(|node| Happening::Broken { node }),
    ]
}

fn put(key: String, value: Option<String>) -> Event {
    let key = format!("/margay/v1/{key}");
    match value {
        Some(value) => Event::Put { key, value: value.into_bytes(), revision: 1 },
        None => Event::Delete { key },
    }
}

fn network(id: u8) -> String {
    format!(
        r#"{{"v":1,"id":{id},"name":"n{id}","subnets":[{{"cidr":"10.{id}.0.0/24","gateway":"10.{id}.0.1","block_len":26}}]}}"#
    )
}

fn interface(id: u8) -> String {
    format!("mgy{id:012x}")
}

fn endpoint(id: u8, addr: u8) -> Endpoint {
    let value = format!(
        r#"{{"v":1,"id":"e{id}","network":1,"network_name":"n1","addresses":["10.1.0.{}"],"mac":"02:00:00:00:00:01",
            "netns":"/n","sandbox":{id},"ifname":"eth0","host_interface":"{}","mtu":1500,"ready":true}}"#,
        10 + addr,
        interface(id)
    );
    crate::model::parse(value.as_bytes()).expect("an endpoint")
}

/// A node with two networks and two other nodes.
fn start() -> State {
    let mut state = State::default();
    state.facts.node = "h1".into();
    state.facts.uplink = Uplink { name: "up0".into(), ifindex: 3, mtu: 1500, ..Uplink::default() };
    state.facts.on_link = (0..=255).map(|last| [192, 0, 2, last].into()).collect();
    let mut events = vec![put("cluster".into(), Some(r#"{"v":1,"id":"c","epoch":0}"#.into()))];
    for id in 1..4 {
        let node = format!(r#"{{"v":1,"name":"h{id}","addresses":["192.0.2.{id}"]}}"#);
        events.push(put(format!("nodes/h{id}"), Some(node)));
    }
    events.extend([1, 2].map(|id| put(format!("networks/{id}"), Some(network(id)))));
    state.take(Feed::Events { revision: 1, whole: Snapshot::PREFIXES.into(), events });
    state
}

fn happen(state: &mut State, happening: &Happening) -> Dirty {
    let store = |state: &mut State, event: Event| {
        state.take(Feed::Events { revision: 2, whole: Vec::new(), events: vec![event] })
    };
    let claim = |node: u8| format!(r#"{{"v":1,"node":"h{node}"}}"#);
    match happening {
        Happening::Claim { network, block, node } => {
            let key = format!("routes/{network}/10.{network}.0.{}-26", 64 * block);
            store(state, put(key, node.map(claim)))
        }
        Happening::Network { network: id, there } => {
            store(state, put(format!("networks/{id}"), there.then(|| network(*id))))
        }
        Happening::Borrow { addr, there } => {
            store(state, put(format!("routes/1/10.1.0.{}-32", 70 + addr), there.then(|| claim(2))))
        }
        Happening::Node { node, addr } => {
            // No two nodes have one address at a time.
            let value = |addr: u8| {
                format!(r#"{{"v":1,"name":"h{node}","addresses":["192.0.2.{}"]}}"#, 10 * node + addr)
            };
            store(state, put(format!("nodes/h{node}"), addr.map(value)))
        }
        Happening::Broken { node } => store(state, put(format!("nodes/h{node}"), Some("{".into()))),
        Happening::Endpoint { id, addr: Some(addr) } => {
            // The addresses of an id never change: an endpoint that comes again was released
            // before.
            state.release(&format!("e{id}"));
            let endpoint = endpoint(*id, 5 * id + addr);
            state.facts.endpoints.insert(endpoint.id.clone(), endpoint);
            Source::Endpoint(format!("e{id}")).into()
        }
        Happening::Endpoint { id, addr: None } => {
            state.release(&format!("e{id}"));
            Source::Endpoint(format!("e{id}")).into()
        }
        Happening::Interface { id, index } => {
            let mut interfaces = state.facts.interfaces.clone();
            interfaces.remove(&interface(*id));
            interfaces.extend(index.map(|index| (interface(*id), 100 * u32::from(*id) + u32::from(index))));
            state.has_interfaces(interfaces.into())
        }
    }
}

fn apply(actual: &mut Tables, changes: Vec<Change>) {
    for change in changes {
        match change {
            Change::Put(entry) => actual.put(entry),
            Change::Remove(key) => actual.remove(&key),
        }
    }
}

proptest! {
    /// What is kept in step is what everything afresh would be, and so the
    /// kernel ends up with the same.
    #[test]
    fn fold_of_one_source_equals_the_whole_fold(history in proptest::collection::vec(happening(), 1..40)) {
        let mut state = start();
        let mut actual = Tables::default();
        apply(&mut actual, state.changes(&Dirty::Everything, false, &Tables::default()));
        for happening in &history {
            let dirty = happen(&mut state, happening);
            if dirty == Dirty::Nothing {
                continue;
            }
            let changes = state.changes(&dirty, false, &actual);
            apply(&mut actual, changes);
            prop_assert_eq!(&state.fold, &Fold::of(&state.snapshot, &state.facts), "{:?}", happening);
        }
        prop_assert_eq!(&state.trust, &crate::model::membership::Trust::Whole);
        let left = plan(&state.fold.tables, &actual);
        let blind = state.snapshot.blind();
        let left: Vec<_> = left.into_iter().filter(|change| state.permits(change, &actual, &blind)).collect();
        prop_assert!(left.is_empty(), "{:?}", left);
    }
}

/// A newer agent may write keys below a prefix that this one watches.
#[test]
fn unknown_key_is_reported_and_affects_nothing() {
    let mut state = start();
    let mut take = |event| state.take(Feed::Events { revision: 2, whole: Vec::new(), events: vec![event] });
    assert_eq!(take(put("nodes/h2/extra".into(), Some("{}".into()))), Dirty::Nothing);
    // What comes after it is judged as if it were not there.
    let node = r#"{"v":1,"name":"h2","addresses":["192.0.2.20"]}"#;
    assert_eq!(take(put("nodes/h2".into(), Some(node.into()))), Source::Node("h2".into()).into());
    let told = state.snapshot.unreadable.keys().map(String::as_str).collect::<Vec<_>>();
    assert_eq!(told, ["/margay/v1/nodes/h2/extra"]);
    let mut take = |event| state.take(Feed::Events { revision: 3, whole: Vec::new(), events: vec![event] });
    assert_eq!(take(put("nodes/h2/extra".into(), None)), Dirty::Nothing);
    assert!(state.snapshot.unreadable.is_empty());
}
