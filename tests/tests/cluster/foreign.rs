//! A store that was emptied, restored from a snapshot, or replaced by another cluster's.

use margay_tests::{container::Namespace, eventually::eventually, host::Host, lab::Lab};
use std::net::IpAddr;

use crate::{matrix::routed, store::etcdctl};

/// What the kernel of a host holds for the networks.
fn kernel(host: &Host) -> (serde_json::Value, String) {
    (host.json(&["route", "ls"]), host.namespace.sh("ip route"))
}

/// Waits until the agent tells of a problem.
#[track_caller]
fn tells(host: &Host, what: &str) {
    eventually(what, || {
        let status = host.json(&["status"]);
        if status["problems"].to_string().contains(what) { Ok(()) } else { Err(status) }
    });
}

/// Two hosts, a network, two containers on each.
fn populated() -> (Lab, Vec<(Namespace, IpAddr)>) {
    let lab = Lab::new(2);
    lab.h(1).ok(&["network", "create", "blue", "--subnet", "10.1.0.0/24"]);
    let members = [1, 1, 2, 2].map(|host| {
        let (container, addresses) = lab.attached(host, "blue");
        (container, addresses[0])
    });
    routed(&lab);
    // The agent's answers may be ahead of its kernel.
    for (from, _) in &members {
        for (_, to) in &members {
            eventually("every container reaches every other", || from.pings(*to, 1).then_some(()).ok_or(to));
        }
    }
    (lab, members.into())
}

fn all_reach_all(members: &[(Namespace, IpAddr)]) {
    for (from, _) in members {
        for (_, to) in members {
            assert!(from.pings(*to, 1), "{} to {to}", from.name());
        }
    }
}

/// Every address that is allocated in the store.
fn allocated(lab: &Lab) -> Vec<String> {
    let values = etcdctl(lab, &["get", "--prefix", "--print-value-only", "/margay/v1/ipam/"]);
    let mut found: Vec<String> = values
        .lines()
        .filter(|line| !line.is_empty())
        .flat_map(|line| {
            let block: serde_json::Value = serde_json::from_str(line).expect("JSON");
            block["addresses"].as_object().expect("a map").keys().cloned().collect::<Vec<_>>()
        })
        .collect();
    found.sort();
    found
}

fn sorted(members: &[(Namespace, IpAddr)]) -> Vec<String> {
    let mut addresses: Vec<String> = members.iter().map(|(_, addr)| addr.to_string()).collect();
    addresses.sort();
    addresses
}

#[test]
fn emptied_store_is_restored_by_the_nodes() {
    let (lab, mut members) = populated();
    let before = kernel(lab.h(1));
    etcdctl(&lab, &["del", "--prefix", "/margay"]);
    eventually("the nodes have put back what is theirs", || {
        let found = allocated(&lab);
        if found == sorted(&members) { Ok(()) } else { Err(found) }
    });
    lab.hosts.iter().for_each(Host::settled);
    assert_eq!(kernel(lab.h(1)), before, "nothing was removed");
    all_reach_all(&members);
    // One of the nodes is the first to see it.
    let log = lab.h(1).log() + &lab.h(2).log();
    assert!(log.contains("was emptied"), "{log}");
    for host in [1, 2] {
        let (container, addresses) = lab.attached(host, "blue");
        assert!(!sorted(&members).contains(&addresses[0].to_string()), "no address twice");
        members.push((container, addresses[0]));
    }
    routed(&lab);
    all_reach_all(&members);
    let id = lab.h(1).json(&["network", "ls"])[0]["id"].as_u64();
    lab.h(2).ok(&["network", "create", "red"]);
    let red = lab.h(2).json(&["network", "ls"])[1]["id"].as_u64();
    assert!(red > id, "ids are not given twice: {red:?} after {id:?}");
}

#[test]
fn store_restored_from_an_older_snapshot_is_completed_by_the_nodes() {
    let mut lab = Lab::new(2);
    lab.h(1).ok(&["network", "create", "blue", "--subnet", "10.1.0.0/24"]);
    let (a, addr_a) = lab.attached(1, "blue");
    let snapshot = lab.plan.dir.join("snapshot");
    etcdctl(&lab, &["snapshot", "save", &snapshot.display().to_string()]);
    // What the snapshot does not know: a block of h2, more of h1's, a network.
    let (b, addr_b) = lab.attached(2, "blue");
    let (c, addr_c) = lab.attached(1, "blue");
    lab.h(1).ok(&["network", "create", "red", "--subnet", "10.2.0.0/24"]);
    let (d, addr_d) = lab.attached(2, "red");
    routed(&lab);
    let mut members = vec![(a, addr_a[0]), (b, addr_b[0]), (c, addr_c[0])];
    let before = kernel(lab.h(1));
    lab.kill_etcd();
    lab.restore_etcd(&snapshot);
    lab.start_etcd();
    eventually("the nodes have put back what is theirs", || {
        let found = allocated(&lab);
        if found.len() == 4 { Ok(()) } else { Err(found) }
    });
    lab.hosts.iter().for_each(Host::settled);
    let log = lab.h(1).log() + &lab.h(2).log();
    assert!(log.contains("below") && log.contains("which this node saw before"), "{log}");
    assert_eq!(kernel(lab.h(1)), before, "nothing was removed");
    let known = sorted(&members);
    let (e, addr_e) = lab.attached(1, "blue");
    assert!(!known.contains(&addr_e[0].to_string()));
    members.push((e, addr_e[0]));
    all_reach_all(&members);
    let (f, _) = lab.attached(1, "red");
    routed(&lab);
    assert!(f.pings(addr_d[0], 1) && d.pings(addr_d[0], 1));
}

#[test]
fn store_of_another_cluster_is_ignored_until_an_operator_adopts_it() {
    let (mut lab, members) = populated();
    let before = lab.hosts.iter().map(kernel).collect::<Vec<_>>();
    lab.kill_etcd();
    lab.swap_etcd_data();
    cut_off(&lab, "down");
    lab.start_etcd();
    let network = r#"{"v":1,"id":1,"name":"theirs","subnets":[{"cidr":"10.1.0.0/16","gateway":"10.1.0.1","block_len":26}]}"#;
    etcdctl(&lab, &["put", "/margay/v1/networks/1", network]);
    etcdctl(&lab, &["put", "/margay/v1/cluster", r#"{"v":1,"id":"theirs","epoch":7}"#]);
    cut_off(&lab, "up");
    for host in &lab.hosts {
        tells(host, "is of another cluster");
        let status = host.margay(&["status"]);
        assert_eq!(status.status, 1, "something is wrong: {status:?}");
        let refusal = host.refused(&["network", "rm", "theirs"]);
        assert!(refusal.contains("another cluster") && refusal.contains("margay store adopt"), "{refusal}");
    }
    assert_eq!(lab.hosts.iter().map(kernel).collect::<Vec<_>>(), before, "nothing is changed by it");
    all_reach_all(&members);
    let keys = etcdctl(&lab, &["get", "--prefix", "--keys-only", "/margay/v1/nodes"]);
    assert_eq!(keys.trim(), "", "and nothing is written to it");
    // With the right store again the cluster recovers without an operator.
    lab.kill_etcd();
    lab.swap_etcd_data();
    lab.start_etcd();
    lab.hosts.iter().for_each(Host::settled);
    lab.h(1).well();
    // The other store once more, and now the operator adopts it.
    lab.kill_etcd();
    lab.swap_etcd_data();
    lab.start_etcd();
    lab.hosts.iter().for_each(|host| tells(host, "is of another cluster"));
    lab.h(1).ok(&["store", "adopt"]);
    for host in &lab.hosts {
        host.settled();
        tells(host, "network blue does not exist any more");
    }
    let names = lab.h(2).json(&["network", "ls"]);
    assert_eq!((names.as_array().map(Vec::len), &names[0]["name"]), (Some(1), &"theirs".into()));
}

#[test]
fn missing_node_is_awaited_until_an_operator_adopts_the_store() {
    let (mut lab, members) = populated();
    lab.host(2).kill();
    etcdctl(&lab, &["del", "--prefix", "/margay"]);
    tells(lab.h(1), "still awaited: h2");
    let refusal = lab.h(1).refused(&["network", "rm", "blue"]);
    assert!(refusal.contains("h2") && refusal.contains("margay store adopt"), "{refusal}");
    all_reach_all(&members);
    // New containers come out of the stash meanwhile.
    let (c, addr) = lab.attached(1, "blue");
    assert!(!sorted(&members).contains(&addr[0].to_string()) && c.pings(members[0].1, 1));
    lab.h(1).ok(&["store", "adopt"]);
    lab.h(1).settled();
    eventually("the stash's address is written", || {
        let found = allocated(&lab);
        if found.contains(&addr[0].to_string()) { Ok(()) } else { Err(found) }
    });
    // The node returns late, but its addresses are still its own.
    lab.host(2).up();
    routed(&lab);
    all_reach_all(&members);
}

#[test]
fn import_into_etcd_keeps_networks_and_traffic() {
    let mut lab = Lab::without_agents(margay_tests::lab::Plan::for_test(1));
    let etcd = std::mem::replace(&mut lab.host(1).store, "embedded".into());
    lab.host(1).up();
    lab.h(1).ok(&["network", "create", "blue", "--subnet", "10.1.0.0/24"]);
    let (a, _) = lab.attached(1, "blue");
    let (_b, addr_b) = lab.attached(1, "blue");
    let file = lab.plan.dir.join("export.json").display().to_string();
    lab.h(1).ok(&["store", "export", &file]);
    lab.host(1).stop();
    let before = kernel_of_stopped(lab.h(1));
    lab.h(1).ok(&["store", "import", &file, "--store", &etcd]);
    let refusal = lab.h(1).refused(&["store", "import", &file, "--store", &etcd]);
    assert!(refusal.contains("holds a cluster already"), "{refusal}");
    lab.host(1).store = etcd;
    lab.host(1).up();
    lab.h(1).well();
    assert_eq!(kernel_of_stopped(lab.h(1)), before);
    assert!(a.pings(addr_b[0], 2));
    let (c, addr_c) = lab.attached(1, "blue");
    assert!(c.pings(addr_b[0], 1) && !addr_b.contains(&addr_c[0]));
}

/// Takes the hosts off the wire, or puts them back.
fn cut_off(lab: &Lab, state: &str) {
    for wire in ["w1", "w2"] {
        lab.wire.sh(&format!("ip link set {wire} {state}"));
    }
}

fn kernel_of_stopped(host: &Host) -> String {
    host.namespace.sh("ip -o link") + &host.namespace.sh("ip route")
}
