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
fn a_thousand_containers_in_an_owned_block_are_nobody_elses_business() {
    let lab = Lab::new(2);
    lab.h(1).ok(&["network", "create", "blue", "--subnet", "10.1.0.0/16", "--block-size", "2048"]);
    let (_first, _) = lab.attached(1, "blue");
    routed(&lab);
    let events = || lab.h(2).json(&["status"])["store"]["events"].as_u64().expect("a number");
    let before = events();
    let some = || (0..250).map(|_| lab.attached(1, "blue").0).collect::<Vec<_>>();
    let containers: Vec<_> = std::thread::scope(|scope| {
        let threads = [(); 4].map(|()| scope.spawn(some));
        threads.into_iter().flat_map(|thread| thread.join().expect("attached")).collect()
    });
    assert_eq!(containers.len(), 1000);
    assert_eq!(lab.h(1).json(&["status"])["endpoints"], 1001);
    // A change that does concern h2 comes behind all of them, so whatever they
    // caused has been counted by then.
    lab.h(1).ok(&["network", "create", "red", "--subnet", "10.2.0.0/16"]);
    eventually("h2 sees the network", || match lab.h(2).json(&["network", "ls"]).as_array() {
        Some(networks) if networks.len() == 2 => Ok(()),
        other => Err(other.cloned()),
    });
    assert_eq!(events(), before + 1, "the new network, and nothing of a thousand containers");
}

#[test]
fn the_next_hop_follows_the_hosts_addresses() {
    let lab = Lab::new(2);
    lab.h(1).ok(&["network", "create", "blue", "--subnet", "10.1.0.0/16", "--subnet", "fd00:1::/64"]);
    let (a, _) = lab.attached(1, "blue");
    let (_b, addr_b) = lab.attached(2, "blue");
    routed(&lab);
    let host = &lab.h(1).namespace;
    let kinds = || {
        let routes = lab.h(1).json(&["route", "ls"]);
        let blocks = routes.as_array().expect("a list").iter().filter(|r| r["prefix"] != "192.0.2.2/32");
        let kinds = blocks.filter(|r| r["kind"] == "remote" || r["kind"] == "unreachable");
        kinds.map(|r| r["kind"].as_str().unwrap_or_default().to_owned()).collect::<Vec<_>>()
    };
    host.sh("ip addr del 192.0.2.1/24 dev up0");
    eventually("the IPv4 block is unreachable", || match kinds() {
        kinds if kinds == ["unreachable", "remote"] => Ok(()),
        kinds => Err(kinds),
    });
    assert!(!a.reaches(addr_b[0]) && a.pings(addr_b[1], 1));
    host.sh("ip addr add 192.0.2.1/24 dev up0");
    eventually("it is reachable again", || match kinds() {
        kinds if kinds == ["remote", "remote"] => Ok(()),
        kinds => Err(kinds),
    });
    assert!(a.pings(addr_b[0], 1));
    // The kernel dropped its route with the source address; ours is back.
    eventually("the host's route is back", || {
        if host.pings(addr_b[0], 1) { Ok(()) } else { Err(host.sh("ip route")) }
    });
}

#[test]
fn a_route_that_is_somebody_elses_stays() {
    let lab = Lab::new(1);
    let host = &lab.h(1).namespace;
    host.sh("ip route add 10.1.0.0/16 via 192.0.2.254");
    lab.h(1).ok(&["network", "create", "blue", "--subnet", "10.1.0.0/16"]);
    let problem = eventually("it is told", || {
        let status = lab.h(1).json(&["status"]);
        match status["problems"].as_array() {
            Some(problems) if !problems.is_empty() => Ok(problems[0].to_string()),
            _ => Err(status),
        }
    });
    assert!(problem.contains("10.1.0.0/16 that is not Margay's"), "{problem}");
    assert!(host.sh("ip route").contains("10.1.0.0/16 via 192.0.2.254"));
    host.sh("ip route del 10.1.0.0/16");
    eventually("ours takes its place", || {
        let routes = host.sh("ip route");
        if routes.contains("10.1.0.0/16 via 10.1.0.1 dev margay0") { Ok(()) } else { Err(routes) }
    });
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
