//! Routes: which nodes get which events, and what decides a packet's path.

use std::net::IpAddr;

use margay_tests::{container::Namespace, eventually::eventually, lab::Lab};

use crate::matrix::routed;

/// The gateways of the network `blue`.
const GATEWAYS: [&str; 2] = ["10.1.0.1", "fd00:1::1"];

#[test]
fn attach_in_an_owned_block_causes_no_event_elsewhere() {
    let lab = Lab::new(2);
    lab.h(1).ok(&["network", "create", "blue", "--subnet", "10.1.0.0/16", "--block-size", "512"]);
    let (_first, _) = lab.attached(1, "blue");
    routed(&lab);
    let events = || lab.h(2).json(&["status"])["store"]["events"].as_u64().expect("a number");
    let before = events();
    let some = || (0..50).map(|_| lab.attached(1, "blue").0).collect::<Vec<_>>();
    let containers: Vec<_> = std::thread::scope(|scope| {
        let threads = [(); 4].map(|()| scope.spawn(some));
        threads.into_iter().flat_map(|thread| thread.join().expect("attached")).collect()
    });
    assert_eq!(containers.len(), 200);
    assert_eq!(lab.h(1).json(&["status"])["endpoints"], 201);
    // This change concerns h2 and comes last, so all earlier events are counted by then.
    lab.h(1).ok(&["network", "create", "red", "--subnet", "10.2.0.0/16"]);
    eventually("h2 sees the network", || match lab.h(2).json(&["network", "ls"]).as_array() {
        Some(networks) if networks.len() == 2 => Ok(()),
        other => Err(other.cloned()),
    });
    // The new network, and sometimes a node's new lease: no event per container.
    let events = events() - before;
    assert!(events < 50, "{events} events");
}

#[test]
fn packets_between_nodes_follow_the_gateway_and_the_maps() {
    let lab = Lab::new(2);
    lab.h(1).ok(&["network", "create", "blue", "--subnet", "10.1.0.0/16", "--subnet", "fd00:1::/64"]);
    let (a, _) = lab.attached(1, "blue");
    let (b, addr_b) = lab.attached(2, "blue");
    routed(&lab);
    the_gateway_answers_whichever_node_has_its_block([&a, &b]);
    traceroute_shows_the_gateway_and_the_destination(&a, &addr_b);
    the_next_hop_follows_the_hosts_addresses(&lab, &a, &addr_b);
    // Last, because it removes the hosts' own routes, also those to the store.
    the_next_hop_comes_from_the_map(&lab, &a, &addr_b);
}

fn the_gateway_answers_whichever_node_has_its_block(containers: [&Namespace; 2]) {
    for gateway in GATEWAYS.map(|addr| addr.parse().expect("a literal")) {
        assert!(containers.iter().all(|container| container.pings(gateway, 2)), "{gateway}");
    }
}

fn traceroute_shows_the_gateway_and_the_destination(a: &Namespace, addr_b: &[IpAddr]) {
    for (addr, gateway) in addr_b.iter().zip(GATEWAYS) {
        for way in ["-U", "-I", "-T"] {
            let said = a.sh(&format!("traceroute {way} -n -q 1 -w 20 -m 4 {addr}"));
            let hops: Vec<&str> =
                said.lines().skip(1).filter_map(|line| line.split_whitespace().nth(1)).collect();
            assert_eq!(hops, [gateway.to_owned(), addr.to_string()], "{way}: {said}");
        }
    }
}

fn the_next_hop_follows_the_hosts_addresses(lab: &Lab, a: &Namespace, addr_b: &[IpAddr]) {
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
    eventually("it is closed", || if a.reaches(addr_b[0]) { Err("it is reached") } else { Ok(()) });
    assert!(a.pings(addr_b[1], 1));
    host.sh("ip addr add 192.0.2.1/24 dev up0");
    eventually("it is reachable again", || match kinds() {
        kinds if kinds == ["remote", "remote"] => Ok(()),
        kinds => Err(kinds),
    });
    eventually("it answers again", || if a.reaches(addr_b[0]) { Ok(()) } else { Err("it does not") });
    // The kernel dropped the route with its source address; the agent has restored it.
    eventually("the host's route is back", || {
        if host.reaches(addr_b[0]) { Ok(()) } else { Err(host.sh("ip route")) }
    });
    lab.h(1).settled();
}

fn the_next_hop_comes_from_the_map(lab: &Lab, a: &Namespace, addr_b: &[IpAddr]) {
    // The kernel's own routing is gone, on both sides and for both families.
    for host in &lab.hosts {
        host.namespace.sh("ip route flush table main");
        host.namespace.sh("ip -6 route flush table main");
        // The agent puts its own back, which lead to containers alone.
        let left = host.namespace.sh("ip route");
        assert!(left.lines().all(|line| line.contains("proto 77")), "{left}");
    }
    for addr in addr_b {
        assert!(a.pings(*addr, 5), "{addr}");
    }
}

#[test]
fn own_kernel_routes_are_repaired_and_foreign_ones_stay() {
    let lab = Lab::new(1);
    foreign_kernel_route_stays(&lab);
    the_hosts_routes_are_repaired(&lab);
}

fn foreign_kernel_route_stays(lab: &Lab) {
    let host = &lab.h(1).namespace;
    host.sh("ip route add 10.1.0.0/16 via 192.0.2.254");
    lab.h(1).ok(&["network", "create", "blue", "--subnet", "10.1.0.0/16"]);
    eventually("it is told", || {
        let problems = lab.h(1).json(&["status"])["problems"].to_string();
        if problems.contains("10.1.0.0/16 that is not Margay's") { Ok(()) } else { Err(problems) }
    });
    assert!(host.sh("ip route").contains("10.1.0.0/16 via 192.0.2.254"));
    host.sh("ip route del 10.1.0.0/16");
    eventually("ours takes its place", || {
        let routes = host.sh("ip route");
        if routes.contains("10.1.0.0/16 via 10.1.0.1 dev margay0") { Ok(()) } else { Err(routes) }
    });
}

fn the_hosts_routes_are_repaired(lab: &Lab) {
    let (_c, addr) = lab.attached(1, "blue");
    assert!(lab.h(1).namespace.pings(addr[0], 1));
    lab.h(1).namespace.sh("ip link del margay0");
    eventually("margay0 is back", || {
        if lab.h(1).namespace.reaches(addr[0]) { Ok(()) } else { Err(lab.h(1).margay(&["status"])) }
    });
}

#[test]
fn dead_node_is_reported_unhealthy_and_keeps_its_routes() {
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
