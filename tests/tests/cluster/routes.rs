//! Routes: who learns of a block, and what decides the way.

use margay_tests::{eventually::eventually, lab::Lab};

use crate::matrix::routed;

#[test]
fn a_new_block_is_seen_by_the_others() {
    let lab = Lab::new(3);
    lab.h(1).ok(&["network", "create", "blue", "--subnet", "10.1.0.0/24"]);
    // Blocks of four: one holds the gateway and two endpoints.
    let mut here = Vec::new();
    for _ in 0..7 {
        here.push(lab.attached(1, "blue"));
    }
    routed(&lab);
    let blocks = lab.h(2).json(&["network", "ls"])[0]["blocks"].as_array().expect("a list").len();
    assert_eq!(blocks, 3);
    let (c, _) = lab.attached(2, "blue");
    routed(&lab);
    for (_, addresses) in &here {
        assert!(c.pings(addresses[0], 1), "{addresses:?}");
    }
}

#[test]
fn a_container_in_an_owned_block_is_nobody_elses_business() {
    let lab = Lab::new(2);
    lab.h(1).ok(&["network", "create", "blue", "--subnet", "10.1.0.0/16"]);
    let (_first, _) = lab.attached(1, "blue");
    routed(&lab);
    let revision = |lab: &Lab| lab.h(2).json(&["status"])["store"]["revision"].as_i64();
    let before = revision(&lab);
    let more: Vec<_> = (0..5).map(|_| lab.attached(1, "blue")).collect();
    assert_eq!(more.len(), 5);
    // A change that does concern h2 comes behind all of them, so whatever they
    // caused would have been seen.
    lab.h(1).ok(&["network", "create", "red", "--subnet", "10.2.0.0/16"]);
    eventually("h2 sees the network", || match lab.h(2).json(&["network", "ls"]).as_array() {
        Some(networks) if networks.len() == 2 => Ok(()),
        other => Err(other.cloned()),
    });
    let routes = lab.h(2).json(&["route", "ls"]);
    let remote = routes.as_array().expect("a list").iter().filter(|r| r["kind"] == "remote").count();
    assert_eq!(remote, 1, "one block, one route");
    assert!(revision(&lab) > before);
}

#[test]
fn the_next_hop_comes_from_the_map() {
    let lab = Lab::new(2);
    lab.h(1).ok(&["network", "create", "blue", "--subnet", "10.1.0.0/16", "--subnet", "fd00:1::/64"]);
    let (a, _) = lab.attached(1, "blue");
    let (_b, addr_b) = lab.attached(2, "blue");
    routed(&lab);
    // The kernel's own routing is gone, on both sides and for both families.
    for host in &lab.hosts {
        host.namespace.sh("ip route flush table main");
        host.namespace.sh("ip -6 route flush table main");
        assert_eq!(host.namespace.sh("ip route"), "");
    }
    for addr in addr_b {
        assert!(a.pings(addr, 5), "{addr}");
    }
}

#[test]
fn the_hosts_routes_are_repaired() {
    let lab = Lab::new(1);
    lab.h(1).ok(&["network", "create", "blue", "--subnet", "10.1.0.0/16"]);
    let (_c, addr) = lab.attached(1, "blue");
    assert!(lab.h(1).namespace.pings(addr[0], 1));
    lab.h(1).namespace.sh("ip link del margay0");
    eventually("margay0 is back", || {
        if lab.h(1).namespace.pings(addr[0], 1) { Ok(()) } else { Err(lab.h(1).margay(&["status"])) }
    });
}

#[test]
fn a_node_that_leaves_is_told_and_keeps_its_routes() {
    let mut lab = Lab::new(2);
    lab.h(1).ok(&["network", "create", "blue", "--subnet", "10.1.0.0/16"]);
    let (a, _) = lab.attached(1, "blue");
    let (_b, addr_b) = lab.attached(2, "blue");
    routed(&lab);
    lab.host(2).kill();
    eventually("h2 is unhealthy", || {
        let nodes = lab.h(1).json(&["node", "ls"]);
        if nodes[1]["healthy"] == false && nodes[1]["since"].is_u64() { Ok(()) } else { Err(nodes) }
    });
    assert!(a.pings(addr_b[0], 3), "its containers still answer");
    lab.host(2).up();
    eventually("h2 is healthy", || {
        let nodes = lab.h(1).json(&["node", "ls"]);
        if nodes[1]["healthy"] == true { Ok(()) } else { Err(nodes) }
    });
    assert!(a.pings(addr_b[0], 3));
}
