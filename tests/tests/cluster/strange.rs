//! Invalid values in the store, and networks and denied prefixes that would cut nodes off.

use margay_tests::{
    eventually::eventually,
    host::Host,
    lab::{Lab, Plan},
};

use crate::store::etcdctl;

#[track_caller]
fn tells(host: &Host, what: &[&str]) {
    eventually(&format!("{} tells of {what:?}", host.name), || {
        let status = host.margay(&["status"]);
        if what.iter().all(|what| status.out.contains(what)) { Ok(()) } else { Err(status) }
    });
}

fn network(id: u32, name: &str, subnet: &str) -> String {
    format!(r#"{{"v":1,"id":{id},"name":"{name}","subnets":[{subnet}]}}"#)
}

#[test]
fn invalid_values_are_reported_and_affect_nothing_else() {
    let lab = Lab::new(2);
    lab.h(1).ok(&["network", "create", "red", "--subnet", "10.66.0.0/16"]);
    let (a, _) = lab.attached(1, "red");
    let (_b, addr_b) = lab.attached(2, "red");
    let before = lab.h(1).namespace.sh("ip route");
    let block = |len: u8| format!(r#"{{"cidr":"10.77.0.0/16","gateway":"10.77.0.1","block_len":{len}}}"#);
    for len in [0, 8, 16, 31, 32, 33, 255] {
        etcdctl(&lab, &["put", "/margay/v1/networks/77", &network(77, "evil", &block(len))]);
        tells(lab.h(1), &["/margay/v1/networks/77", &format!("blocks of /{len}")]);
        let c = lab.container();
        let path = c.path().display().to_string();
        let refusal = lab.h(1).refused(&["endpoint", "attach", "--network", "evil", "--netns", &path]);
        assert!(refusal.contains("/margay/v1/networks/77"), "{refusal}");
    }
    for (key, value, told) in [
        ("nodes/h9", r#"{"v":1,"name":"h9","addresses":["127.0.0.1"]}"#, "127.0.0.1, which is no host's"),
        ("nodes/h8", r#"{"v":1,"name":"h7","addresses":["192.0.2.8"]}"#, "says it is node h7"),
        ("alive/h9", r#"{"v":1,"since":18446744073709551615}"#, "beyond the year 9999"),
        ("pools/10.64.0.0-10", r#"{"v":1,"cidr":"10.64.0.0/10","network_len":2}"#, "network prefix"),
        ("refused/0.0.0.0-0", r#"{"v":1,"since":1}"#, "which no agent denies"),
        ("refused/fe80::-10", r#"{"v":1,"since":1}"#, "which no agent denies"),
        ("routes/1/10.66.0.0-24", r#"{"v":1,"node":"h2"}"#, "neither a block nor an address of network red"),
        ("routes/1/10.66.0.0-8", r#"{"v":1,"node":"h2"}"#, "is a key that this agent does not know"),
    ] {
        etcdctl(&lab, &["put", &format!("/margay/v1/{key}"), value]);
        tells(lab.h(1), &[key, told]);
    }
    assert_eq!(lab.h(1).namespace.sh("ip route"), before, "the kernel's routes");
    let (c, addr_c) = lab.attached(1, "red");
    assert!(a.pings(addr_b[0], 1) && a.pings(addr_c[0], 1) && c.pings(addr_b[0], 1));
    for key in [
        "networks/77",
        "nodes/h9",
        "nodes/h8",
        "alive/h9",
        "pools/10.64.0.0-10",
        "refused/0.0.0.0-0",
        "refused/fe80::-10",
        "routes/1/10.66.0.0-24",
        "routes/1/10.66.0.0-8",
    ] {
        etcdctl(&lab, &["del", &format!("/margay/v1/{key}")]);
    }
    lab.h(1).well();
}

#[test]
fn overlapping_network_waits_until_the_other_is_removed() {
    let lab = Lab::new(1);
    lab.h(1).ok(&["network", "create", "red", "--subnet", "10.66.0.0/16"]);
    let (a, _) = lab.attached(1, "red");
    let (_b, addr_b) = lab.attached(1, "red");
    let subnet = r#"{"cidr":"10.66.128.0/17","gateway":"10.66.128.1","block_len":26}"#;
    etcdctl(&lab, &["put", "/margay/v1/networks/77", &network(77, "late", subnet)]);
    tells(lab.h(1), &["network late is not served on this node", "overlaps 10.66.0.0/16 of network 1"]);
    let c = lab.container();
    let path = c.path().display().to_string();
    let refusal = lab.h(1).refused(&["endpoint", "attach", "--network", "late", "--netns", &path]);
    assert!(refusal.contains("overlaps 10.66.0.0/16"), "{refusal}");
    assert!(a.pings(addr_b[0], 1));
    // A network with an older id does not replace the one that is served.
    etcdctl(&lab, &["del", "/margay/v1/networks/1"]);
    eventually("the other one is followed", || {
        let names = lab.h(1).json(&["network", "ls"]);
        if names[0]["name"] == "late" { Ok(()) } else { Err(names) }
    });
    let red = r#"{"cidr":"10.66.0.0/16","gateway":"10.66.0.1","block_len":26}"#;
    etcdctl(&lab, &["put", "/margay/v1/networks/1", &network(1, "red", red)]);
    tells(lab.h(1), &["network red is not served on this node", "overlaps 10.66.128.0/17 of network 77"]);
    lab.h(1).ok(&["network", "rm", "late"]);
    lab.h(1).well();
    let other = r#"{"cidr":"10.78.0.0/16","gateway":"10.78.0.1","block_len":26}"#;
    etcdctl(&lab, &["put", "/margay/v1/networks/78", &network(78, "red", other)]);
    tells(lab.h(1), &["network 1 has the same name", "etcdctl del /margay/v1/networks/78"]);
    etcdctl(&lab, &["del", "/margay/v1/networks/78"]);
    lab.h(1).well();
    assert!(a.pings(addr_b[0], 1));
}

#[test]
fn store_and_gateways_of_a_node_stay_reachable() {
    let mut lab = Lab::without_etcd(Plan::for_test(2));
    lab.wire.sh("ip addr add 198.51.100.9/32 dev br0");
    lab.start_etcd_with("http://192.0.2.254:2379,http://198.51.100.9:2379", &[]);
    for host in &lab.hosts {
        host.namespace.sh("ip route add default via 192.0.2.254");
    }
    // One node reaches the store by a router, the other on its link.
    lab.host(1).store = "etcd://198.51.100.9:2379".into();
    (1..=2).for_each(|i| lab.host(i).up());
    eventually("h2 knows what h1 needs", || {
        let said = lab.h(2).margay(&["network", "create", "evil", "--subnet", "198.51.100.0/24"]);
        if said.err.contains("198.51.100.9, by which node h1") {
            return Ok(());
        }
        lab.h(2).margay(&["network", "rm", "evil"]);
        Err(said)
    });
    let refusal = lab.h(2).refused(&["guard", "add", "198.51.100.0/24"]);
    assert!(refusal.contains("198.51.100.9, by which node h1"), "{refusal}");
    let refusal = lab.h(2).refused(&["guard", "add", "192.0.2.254/32"]);
    assert!(refusal.contains("192.0.2.254"), "{refusal}");
    // Written past every check, both are ignored on nodes that they would cut off.
    let subnet = r#"{"cidr":"198.51.100.0/24","gateway":"198.51.100.1","block_len":30}"#;
    etcdctl(&lab, &["put", "/margay/v1/networks/77", &network(77, "evil", subnet)]);
    etcdctl(&lab, &["put", "/margay/v1/refused/198.51.100.0-24", r#"{"v":1,"since":1}"#]);
    etcdctl(&lab, &["put", "/margay/v1/nodes/h9", "{"]);
    tells(
        lab.h(1),
        &[
            "network evil is not served on this node: its subnet holds 198.51.100.9, an address of the store",
            "this node does not deny prefix 198.51.100.0/24, which is on the deny list: it holds 198.51.100.9",
        ],
    );
    assert!(lab.h(1).namespace.sh("ip route get 198.51.100.9").contains("via 192.0.2.254"));
    // So the node still gets events, also of a correction.
    lab.h(1).ok(&["guard", "rm", "198.51.100.0/24"]);
    lab.h(1).ok(&["network", "rm", "evil"]);
    let refusal = lab.h(1).refused(&["network", "create", "red", "--subnet", "10.66.0.0/16"]);
    assert!(refusal.contains("/margay/v1/nodes/h9"), "{refusal}");
    etcdctl(&lab, &["del", "/margay/v1/nodes/h9"]);
    lab.h(1).ok(&["network", "create", "red", "--subnet", "10.66.0.0/16"]);
    lab.hosts.iter().for_each(|host| drop(host.well()));
}
