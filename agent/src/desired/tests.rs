mod hostile;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use ipnet::IpNet;
use margay_common::{net::Addr, route};

use super::*;
use crate::{
    model::{
        endpoint::{Device, Endpoint, Owner, Stage},
        snapshot::Event,
    },
    tables::{HOST_INTERFACE, Key},
};

fn ip(text: &str) -> IpAddr {
    text.parse().expect("a literal")
}

fn cidr(text: &str) -> IpNet {
    text.parse().expect("a literal")
}

/// A cluster of three: h1 is this node, h2 on the link, h3 far away.
const CLUSTER: &[(&str, &str)] = &[
    ("nodes/h1", r#"{"v":1,"name":"h1","addresses":["192.0.2.1"]}"#),
    ("nodes/h2", r#"{"v":1,"name":"h2","addresses":["192.0.2.2"],"link_local":"fe80::2"}"#),
    ("nodes/h3", r#"{"v":1,"name":"h3","addresses":["198.51.100.3"],"link_local":"fe80::3"}"#),
    (
        "networks/1",
        r#"{"v":1,"id":1,"name":"blue","subnets":[
            {"cidr":"10.1.0.0/16","gateway":"10.1.0.1","block_len":26},
            {"cidr":"fd00:1::/64","gateway":"fd00:1::1","block_len":122}]}"#,
    ),
    (
        "networks/2",
        r#"{"v":1,"id":2,"name":"red","internal":true,"mtu":1400,"subnets":[
            {"cidr":"10.2.0.0/24","gateway":"10.2.0.1","block_len":30}]}"#,
    ),
    ("routes/1/10.1.0.0-26", r#"{"v":1,"node":"h1"}"#),
    ("routes/1/10.1.0.64-26", r#"{"v":1,"node":"h2"}"#),
    ("routes/1/fd00:1::40-122", r#"{"v":1,"node":"h2"}"#),
    ("routes/1/10.1.0.128-26", r#"{"v":1,"node":"h3"}"#),
    ("routes/2/10.2.0.4-30", r#"{"v":1,"node":"h2"}"#),
    ("routes/9/10.9.0.0-26", r#"{"v":1,"node":"h2"}"#),
];

fn events() -> Vec<Event> {
    let put = |(key, value): &(&str, &str)| Event::Put {
        key: format!("/margay/v1/{key}"),
        value: value.as_bytes().to_vec(),
        revision: 1,
    };
    CLUSTER.iter().map(put).collect()
}

fn snapshot() -> Snapshot {
    let mut snapshot = Snapshot::default();
    snapshot.replace(&events());
    assert!(snapshot.unreadable.is_empty(), "{:?}", snapshot.unreadable);
    snapshot
}

fn facts() -> LocalFacts {
    let endpoint = Endpoint {
        id: "e1".into(),
        name: None,
        network: 1,
        network_name: "blue".into(),
        addresses: vec![ip("10.1.0.2"), ip("fd00:1::2")],
        mac: margay_common::net::Mac([2, 0, 0, 0, 0, 1]),
        netns: "/run/netns/c1".into(),
        sandbox: 77,
        ifname: "eth0".into(),
        host_interface: "mgye1".into(),
        device: Device::Veth,
        mtu: 1500,
        stage: Stage::Joined,
        owner: Owner::Command,
        lost: None,
    };
    LocalFacts {
        node: "h1".into(),
        addresses: vec![ip("192.0.2.1")],
        uplink: Uplink {
            name: "up0".into(),
            ifindex: 3,
            mtu: 1500,
            prefixes: vec![cidr("192.0.2.0/24")],
            link_local: None,
            super_packet: 65_536,
            mac: margay_common::net::Mac([2, 0, 0, 0, 0, 1]),
        },
        on_link: [ip("192.0.2.2")].into(),
        own: [ip("192.0.2.1"), ip("172.17.0.1")].into(),
        interfaces: [(HOST_INTERFACE.to_owned(), 4), ("mgye1".to_owned(), 5)].into(),
        endpoints: [("e1".to_owned(), endpoint)].into(),
        ..LocalFacts::default()
    }
}

/// The next hop of a route to a prefix of a network: there is none, or it has none.
fn route(tables: &Tables, network: u32, prefix: &str) -> Option<Option<IpAddr>> {
    let found = tables.routes.get(&route_key(network, cidr(prefix)))?;
    Some(found.is_reachable().then(|| IpAddr::from(found.next_hop)))
}

#[test]
fn blocks_of_others_are_routed_and_own_ones_are_not() {
    let tables = desired(&snapshot(), &facts());
    assert_eq!(route(&tables, 1, "10.1.0.64/26"), Some(Some(ip("192.0.2.2"))));
    assert_eq!(route(&tables, 2, "10.2.0.4/30"), Some(Some(ip("192.0.2.2"))));
    assert_eq!(route(&tables, 2, "10.1.0.64/26"), None, "a block of another network");
    assert_eq!(route(&tables, 1, "10.1.0.0/26"), None);
    assert_eq!(route(&tables, 9, "10.9.0.0/26"), None, "a block of a network that is gone");
}

#[test]
fn ipv6_next_hop_is_link_local_where_the_node_has_no_other_address() {
    let tables = desired(&snapshot(), &facts());
    assert_eq!(route(&tables, 1, "fd00:1::40/122"), Some(Some(ip("fe80::2"))));
}

#[test]
fn a_node_that_is_not_on_link_is_unreachable() {
    let tables = desired(&snapshot(), &facts());
    assert_eq!(route(&tables, 1, "10.1.0.128/26"), Some(None));
}

#[test]
fn nodes_and_subnets_are_prefixes() {
    let tables = desired(&snapshot(), &facts());
    let kinds: Vec<_> = tables.prefixes.values().map(|prefix| prefix.kind).collect();
    let count = |kind| kinds.iter().filter(|k| **k == kind).count();
    assert_eq!((count(route::SUBNET), count(route::NODE), count(route::THIS_NODE)), (3, 2, 1));
}

#[test]
fn an_endpoint_is_served_only_while_its_interface_is_there() {
    let (snapshot, mut facts) = (snapshot(), facts());
    let tables = desired(&snapshot, &facts);
    assert_eq!(tables.endpoints.len(), 2);
    assert_eq!(tables.workloads[&5].v6.addr, Addr::from(ip("fd00:1::2")));
    assert!(tables.attachments.contains_key("mgye1"));
    facts.interfaces.remove("mgye1");
    let tables = desired(&snapshot, &facts);
    assert!(tables.endpoints.is_empty() && tables.workloads.is_empty());
    assert!(!tables.attachments.contains_key("mgye1"));
}

#[test]
fn the_host_has_one_route_for_each_subnet() {
    let tables = desired(&snapshot(), &facts());
    assert_eq!(tables.host_routes.len(), 3);
    let red = tables.host_routes[&cidr("10.2.0.0/24")];
    assert_eq!((red.gateway, red.source, red.mtu), (ip("10.2.0.1"), Some(ip("192.0.2.1")), 1400));
    assert_eq!(tables.host_routes[&cidr("fd00:1::/64")].source, None);
}

#[test]
fn sender_behind_a_netkit_is_flagged() {
    let mut facts = facts();
    let flags = |facts: &LocalFacts| desired(&snapshot(), facts).workloads[&5].flags;
    assert_eq!(flags(&facts), 0);
    facts.endpoints.get_mut("e1").expect("made").device = Device::Netkit;
    assert_eq!(flags(&facts), margay_common::endpoint::NETKIT);
    let tables = desired(&snapshot(), &facts);
    assert!(tables.endpoints.values().all(|endpoint| endpoint.flags == 0), "of senders alone");
}

#[test]
fn sender_whose_address_is_borrowed_is_flagged() {
    let mut snapshot = snapshot();
    let flags = |s: &Snapshot| desired(s, &facts()).workloads[&5].flags;
    assert_eq!(flags(&snapshot), 0);
    snapshot.apply(&Event::Put {
        key: "/margay/v1/routes/1/10.1.0.70-32".into(),
        value: br#"{"v":1,"node":"h2"}"#.to_vec(),
        revision: 2,
    });
    assert_eq!(flags(&snapshot), margay_common::endpoint::BORROWED);
}

/// Whatever the order, and whatever came and went between, the same store
/// gives the same tables.
#[test]
fn desired_is_memoryless() {
    let expected = desired(&snapshot(), &facts());
    let delete = |event: &Event| match event {
        Event::Put { key, .. } | Event::Delete { key } => Event::Delete { key: key.clone() },
    };
    let mut forwards = Snapshot::default();
    let mut backwards = Snapshot::default();
    for event in events() {
        forwards.apply(&event);
        forwards.apply(&delete(&event));
        forwards.apply(&event);
    }
    for event in events().iter().rev() {
        backwards.apply(event);
    }
    assert_eq!(desired(&forwards, &facts()), expected);
    assert_eq!(desired(&backwards, &facts()), expected);
    for event in events() {
        forwards.apply(&delete(&event));
    }
    assert_eq!(desired(&forwards, &facts()), desired(&Snapshot::default(), &facts()));
}

#[test]
fn changed_mtu_of_the_uplink_rewrites_no_route() {
    let (old, mut facts) = (desired(&snapshot(), &facts()), facts());
    facts.uplink.ifindex = 7;
    facts.uplink.mtu = 9000;
    let new = desired(&snapshot(), &facts);
    assert_eq!((new.node[&()].uplink_ifindex, new.node[&()].uplink_mtu), (7, 9000));
    assert_ne!(new.node, old.node);
    assert!(!new.routes.is_empty());
    assert_eq!(new.routes, old.routes);
}

#[test]
fn no_two_entries_have_one_key() {
    let (snapshot, facts) = (snapshot(), facts());
    let keys: Vec<Key> = entries(&snapshot, &facts).map(|entry| entry.key()).collect();
    let distinct: BTreeSet<&Key> = keys.iter().collect();
    assert_eq!(distinct.len(), keys.len());
}

/// A host that could masquerade, with its default route on the uplink.
fn worldly() -> LocalFacts {
    let interfaces = [["up0".to_owned()].into(), ["up1".to_owned()].into()];
    LocalFacts { world: World { masquerade: true, interfaces, ..World::default() }, ..facts() }
}

fn switches(tables: &Tables) -> Vec<String> {
    tables.sysctls.iter().map(|(key, value)| format!("{} = {value}", key.path)).collect()
}

#[test]
fn only_networks_that_leave_by_the_host_are_masqueraded() {
    let mut snapshot = snapshot();
    let subnets = |tables: &Tables| {
        let found = tables.firewall.get(&()).into_iter().flat_map(|firewall| firewall.subnets.iter());
        found.map(ToString::to_string).collect::<Vec<_>>()
    };
    assert!(subnets(&desired(&snapshot, &facts())).is_empty(), "switched off");
    let tables = desired(&snapshot, &worldly());
    assert_eq!(subnets(&tables), ["10.1.0.0/16", "fd00:1::/64"], "red is internal");
    assert_eq!(
        switches(&tables),
        [
            "net/ipv4/conf/margay0/forwarding = 1",
            "net/ipv4/conf/up0/forwarding = 1",
            "net/ipv6/conf/margay0/force_forwarding = 1",
            "net/ipv6/conf/up1/force_forwarding = 1",
        ]
    );
    snapshot.networks.get_mut(&1).expect("blue").routable = true;
    let tables = desired(&snapshot, &worldly());
    assert!(tables.firewall.is_empty() && tables.sysctls.is_empty() && tables.accepts.is_empty());
}

#[test]
fn older_kernels_forward_ipv6_for_all_and_drop_what_was_not_forwarded_before() {
    let advertised = ["lan0".to_owned()].into();
    let drops = [(true, "DOCKER-USER".to_owned())].into();
    let mut facts = worldly();
    facts.world.v6 = V6Forwarding::All { was_on: false, advertised };
    facts.world.drops = drops;
    let tables = desired(&snapshot(), &facts);
    assert!(tables.firewall[&()].drop_forwarded_v6, "what was not forwarded before is not now");
    let last: Vec<_> = switches(&tables).into_iter().filter(|switch| switch.contains("ipv6")).collect();
    assert_eq!(
        last,
        ["net/ipv6/conf/lan0/accept_ra = 2", "net/ipv6/conf/all/forwarding = 1"],
        "in this order"
    );
    assert_eq!(tables.accepts.len(), 2);
    assert!(tables.accepts.keys().all(|accept| accept.v4 && accept.chain == "DOCKER-USER"));
    facts.world.v6 = V6Forwarding::All { was_on: true, advertised: Default::default() };
    assert!(!desired(&snapshot(), &facts).firewall[&()].drop_forwarded_v6);
}

#[test]
fn values_that_would_cut_this_node_off_are_ignored() {
    let mut facts = facts();
    facts.store = [ip("198.51.100.9")].into();
    facts.gateways = [ip("203.0.113.1")].into();
    let mut snapshot = snapshot();
    let put = |key: &str, value: &str| Event::Put {
        key: format!("/margay/v1/{key}"),
        value: value.as_bytes().to_vec(),
        revision: 2,
    };
    for prefix in ["198.51.100.0-24", "203.0.113.0-24", "192.0.2.0-24", "198.51.100.16-28"] {
        snapshot.apply(&put(&format!("refused/{prefix}"), r#"{"v":1,"since":1}"#));
    }
    let over_the_store = r#"{"v":1,"id":3,"name":"evil","subnets":[
        {"cidr":"198.51.100.0/24","gateway":"198.51.100.1","block_len":30}]}"#;
    snapshot.apply(&put("networks/3", over_the_store));
    snapshot.settle(&facts.vital(), &BTreeMap::new());
    let tables = desired(&snapshot, &facts);
    let denied: Vec<_> = tables.denied.keys().copied().collect();
    assert_eq!(denied, [prefix_key(cidr("198.51.100.16/28"))], "the others hold what is needed");
    assert!(!tables.host_routes.contains_key(&cidr("198.51.100.0/24")));
    assert!(snapshot.barred[&3].1.contains("198.51.100.9, an address of the store"));
    // What a neighbour gives this host later does not take a network that is followed.
    facts.addresses.push(ip("fd00:1::77"));
    facts.gateways.insert(ip("10.2.0.9"));
    snapshot.settle(&facts.vital(), &snapshot.followed());
    assert_eq!(snapshot.followed().into_keys().collect::<Vec<_>>(), [1, 2]);
    // The store is elsewhere from now on.
    facts.store.clear();
    snapshot.settle(&facts.vital(), &snapshot.followed());
    assert!(snapshot.barred.is_empty());
    assert!(desired(&snapshot, &facts).host_routes.contains_key(&cidr("198.51.100.0/24")));
}

#[test]
fn another_node_takes_neither_this_ones_address_nor_a_containers() {
    let mut snapshot = snapshot();
    snapshot.settle(&facts().vital(), &BTreeMap::new());
    let before = desired(&snapshot, &facts());
    let value = br#"{"v":1,"name":"h9","addresses":["192.0.2.1","fd00:1::9"]}"#.to_vec();
    snapshot.apply(&Event::Put { key: "/margay/v1/nodes/h9".into(), value, revision: 2 });
    assert_eq!(desired(&snapshot, &facts()), before);
}

#[test]
fn all_host_addresses_are_own_addresses() {
    let tables = desired(&Snapshot::default(), &facts());
    let own = tables.own_addresses.keys().copied().map(IpAddr::from);
    assert_eq!(own.collect::<Vec<_>>(), facts().own.into_iter().collect::<Vec<_>>());
}
