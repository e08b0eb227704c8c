//! Nodes that leave, return, or claim another's name; values of a newer agent.

use margay_tests::{
    eventually::eventually,
    lab::{Lab, Plan},
};
use std::net::IpAddr;

use crate::{matrix::routed, store::etcdctl};

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

#[test]
fn removed_node_frees_its_blocks_and_reports_its_removal() {
    let mut lab = Lab::new(2);
    lab.h(1).ok(&["network", "create", "blue", "--subnet", "10.1.0.0/24"]);
    let (a, _) = lab.attached(1, "blue");
    let (b, addr_b) = lab.attached(2, "blue");
    let (c, addr_c) = lab.attached(2, "blue");
    routed(&lab);
    // On a busy machine its lease may have expired and be renewed.
    eventually("h2 is healthy", || {
        let nodes = lab.h(1).json(&["node", "ls"]);
        if nodes[1]["healthy"] == true { Ok(()) } else { Err(nodes) }
    });
    let refusal = lab.h(1).refused(&["node", "rm", "h2"]);
    assert!(refusal.contains("looks alive") && refusal.contains("--yes"), "{refusal}");
    for (name, reason) in [("h9", "there is no node h9"), ("h1", "is this node")] {
        let refusal = lab.h(1).refused(&["node", "rm", name]);
        assert!(refusal.contains(reason), "{refusal}");
    }
    lab.host(2).kill();
    assert!(a.pings(addr_b[0], 1), "a dead agent is no dead node");
    let freed = lab.h(1).ok(&["node", "rm", "h2", "--yes"]);
    assert!(freed.starts_with("freed 1 block"), "{freed}");
    eventually("nothing leads there any more", || {
        let (routes, nodes) = (lab.h(1).json(&["route", "ls"]).to_string(), lab.h(1).json(&["node", "ls"]));
        let gone = !routes.contains("192.0.2.2") && nodes.as_array().map(Vec::len) == Some(1);
        if gone { Ok(()) } else { Err(routes) }
    });
    let d = lab.container();
    lab.h(1).attach(&d, "blue", &["--ip", &addr_b[0].to_string()]);
    lab.host(2).up();
    eventually("h2 knows what it lost", || {
        let status = lab.h(2).json(&["status"])["problems"].to_string();
        let told = status.contains(&format!("has address {} now", addr_b[0])) && status.contains("node h1");
        if told { Ok(()) } else { Err(status) }
    });
    eventually("it is served no longer", || if b.reaches(addr_c[0]) { Err("it is") } else { Ok(()) });
    eventually("the other one is h2's again", || {
        if a.reaches(addr_c[0]) { Ok(()) } else { Err(lab.h(2).log()) }
    });
    assert!(a.pings(addr_b[0], 1) && c.pings(addr_b[0], 1), "the address is d's");
    // Detached and attached again it has another address.
    let addr = lab.h(2).attach(&b, "blue", &[]);
    routed(&lab);
    assert!(addr != addr_b && b.pings(addr_c[0], 1) && d.pings(addr[0], 1));
}

#[test]
fn second_agent_with_the_same_node_name_is_refused() {
    let mut lab = Lab::without_agents(Plan::for_test(2));
    lab.host(1).up();
    lab.host(2).name = "h1".into();
    lab.host(2).start();
    eventually("it says who has the name", || {
        let status = lab.h(2).json(&["status"])["problems"].to_string();
        let told = status.contains("node name h1 is held by another agent, at 192.0.2.1")
            && status.contains("since 20");
        if told { Ok(()) } else { Err(status) }
    });
    let nodes = lab.h(1).json(&["node", "ls"]);
    assert_eq!(nodes[0]["addresses"][0], "192.0.2.1", "the first one stays who it is");
    lab.h(1).well();
}

#[test]
fn empty_block_is_released_after_the_idle_time() {
    let mut lab = Lab::without_agents(Plan::for_test(1));
    lab.host(1).flags = vec!["--block-idle".into(), "1".into()];
    lab.host(1).up();
    lab.h(1).ok(&["network", "create", "blue", "--subnet", "10.1.0.0/24"]);
    let (a, _) = lab.attached(1, "blue");
    let blocks = || lab.h(1).json(&["network", "ls"])[0]["blocks"].as_array().map_or(0, Vec::len);
    assert_eq!(blocks(), 1);
    lab.h(1).detach(&a);
    eventually("it goes back", || if blocks() == 0 { Ok(()) } else { Err(blocks()) });
    let (b, _) = lab.attached(1, "blue");
    assert!(b.pings(ip("10.1.0.1"), 1));
}

#[test]
fn fields_of_a_newer_agent_are_kept_and_newer_versions_are_read_only() {
    let mut lab = Lab::new(2);
    lab.h(1).ok(&["network", "create", "blue", "--subnet", "10.1.0.0/16"]);
    let (a, _) = lab.attached(1, "blue");
    let (_b, addr_b) = lab.attached(2, "blue");
    routed(&lab);
    let add = |key: &str| {
        let value = etcdctl(&lab, &["get", "--print-value-only", key]);
        let mut value: serde_json::Value = serde_json::from_str(&value).expect("JSON");
        value["later"] = "kept".into();
        etcdctl(&lab, &["put", key, &value.to_string()]);
    };
    let kept = |lab: &Lab, key: &str| {
        let value = etcdctl(lab, &["get", "--print-value-only", key]);
        assert!(value.contains("\"later\":\"kept\""), "{key}: {value}");
    };
    for key in
        ["/margay/v1/ipam/1/10.1.0.0-26", "/margay/v1/nodes/h1", "/margay/v1/guard", "/margay/v1/cluster"]
    {
        add(key);
    }
    lab.attached(1, "blue");
    lab.h(1).ok(&["network", "create", "red"]);
    lab.h(1).ok(&["store", "adopt"]);
    lab.host(1).stop();
    lab.h(1).namespace.sh("ip addr add 192.0.2.77/24 dev up0");
    lab.host(1).addresses[0] = ip("192.0.2.77");
    lab.host(1).up();
    for key in
        ["/margay/v1/ipam/1/10.1.0.0-26", "/margay/v1/nodes/h1", "/margay/v1/guard", "/margay/v1/cluster"]
    {
        kept(&lab, key);
    }
    let old = etcdctl(&lab, &["get", "/margay/v1/addresses/192.0.2.1"]);
    assert_eq!(old, "", "an address that the node gave up is free");
    // A network of a later generation: read-only, and reported by its key.
    let value = etcdctl(&lab, &["get", "--print-value-only", "/margay/v1/networks/1"]);
    etcdctl(&lab, &["put", "/margay/v1/networks/1", &value.replace("\"v\":1", "\"v\":2")]);
    eventually("it is reported", || {
        let status = lab.h(2).json(&["status"]);
        let told = status["store"]["unreadable"]["/margay/v1/networks/1"].to_string();
        if told.contains("version 2") { Ok(()) } else { Err(status) }
    });
    // A restarted agent cannot read the value, and takes the last one from its journal.
    lab.host(1).kill();
    lab.host(1).up();
    let status = lab.h(1).margay(&["status"]);
    assert!(status.out.contains("/margay/v1/networks/1 has version 2"), "{status:?}");
    assert!(a.pings(addr_b[0], 2));
    lab.h(1).ok(&["network", "ls"]);
}
