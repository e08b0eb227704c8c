//! The deny list after a store lost its data, and for a node that it names.

use margay_tests::{
    eventually::eventually,
    lab::{Lab, Plan, remove_pins},
};

use crate::store::etcdctl;

#[test]
fn deny_list_survives_an_emptied_store() {
    let mut lab = Lab::new(2);
    let outside = lab.outsider();
    let (noisy, own) = ("192.0.2.200/32", lab.h(1).addresses[0]);
    assert!(outside.pings(own, 1));
    lab.h(2).ok(&["guard", "add", noisy, "--comment", "noise"]);
    // More than etcd takes in one transaction.
    (0..130).for_each(|i| drop(lab.h(2).ok(&["guard", "add", &format!("198.18.{i}.0/24")])));
    eventually("it is blocked", || if outside.reaches(own) { Err("reached") } else { Ok(()) });
    etcdctl(&lab, &["del", "--prefix", "/margay"]);
    eventually("the nodes block it again", || {
        let found = etcdctl(&lab, &["get", "--prefix", "--keys-only", "/margay/v1/refused/"]);
        let count = found.lines().filter(|line| !line.is_empty()).count();
        if count == 131 { Ok(()) } else { Err(found) }
    });
    lab.hosts.iter().for_each(margay_tests::host::Host::settled);
    let blocked = lab.h(1).json(&["guard", "ls"]);
    let noise = blocked.as_array().expect("a list").iter().find(|blocked| blocked["cidr"] == noisy);
    assert_eq!(noise.map(|noise| &noise["comment"]), Some(&"noise".into()));
    assert!(!outside.reaches(own));
    // As after a boot of the host without the store.
    lab.host(1).kill();
    lab.kill_etcd();
    remove_pins(&lab.plan.bpffs.join("h1"));
    lab.h(1).namespace.sh("ip link del margay0");
    eventually("nobody denies", || if outside.reaches(own) { Ok(()) } else { Err("not reached") });
    lab.host(1).start();
    eventually("it is blocked", || if outside.reaches(own) { Err(lab.h(1).log()) } else { Ok(()) });
}

#[test]
fn node_in_a_denied_prefix_does_not_join() {
    let mut lab = Lab::without_agents(Plan::for_test(2));
    lab.host(1).up();
    let addr = lab.h(2).addresses[0];
    lab.h(1).ok(&["guard", "add", &format!("{addr}/32")]);
    lab.host(2).start();
    eventually("it says why", || {
        let log = lab.h(2).log();
        if log.contains(&format!("margay guard rm {addr}/32")) { Ok(()) } else { Err(log) }
    });
    assert_eq!(lab.h(1).json(&["node", "ls"]).as_array().map(Vec::len), Some(1));
    lab.h(1).ok(&["guard", "rm", &format!("{addr}/32")]);
    lab.h(2).settled();
    eventually("it has joined", || {
        let nodes = lab.h(1).json(&["node", "ls"]);
        if nodes.as_array().is_some_and(|nodes| nodes.len() == 2) { Ok(()) } else { Err(nodes) }
    });
}
