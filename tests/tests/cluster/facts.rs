//! Facts of a host that change while agents run: addresses, routes, families.

use std::net::IpAddr;

use margay_tests::{
    eventually::eventually,
    host::Host,
    lab::{Lab, Plan},
};

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// Has a host's agent take its addresses from the uplink.
fn find_addresses(host: &mut Host) {
    host.bare = true;
    host.flags = ["--uplink", "up0", "--store", &host.store].map(str::to_owned).into();
}

/// Gives the uplink other addresses than it had.
fn readdress(host: &Host, addresses: &[&str]) {
    host.namespace.sh("ip addr flush dev up0 scope global");
    for addr in addresses {
        let nodad = if addr.contains(':') { "nodad" } else { "" };
        host.namespace.sh(&format!("ip addr add {addr} dev up0 {nodad}"));
    }
}

/// The addresses that a host's agent knows a node by.
fn addresses_of(host: &Host, node: &str) -> Vec<String> {
    let nodes = host.json(&["node", "ls"]);
    let found = nodes.as_array().expect("a list").iter().find(|found| found["name"] == node);
    let list = found.and_then(|found| found["addresses"].as_array().cloned()).unwrap_or_default();
    list.iter().map(|addr| addr.as_str().unwrap_or_default().to_owned()).collect()
}

#[track_caller]
fn node_has(host: &Host, node: &str, addresses: &[&str]) {
    eventually(&format!("{node} has {addresses:?}"), || {
        let found = addresses_of(host, node);
        if found == addresses { Ok(()) } else { Err((found, host.margay(&["status"]))) }
    });
}

#[track_caller]
fn tells(host: &Host, what: &[&str]) {
    eventually(&format!("{} tells of {what:?}", host.name), || {
        let problems = host.json(&["status"])["problems"].to_string();
        if what.iter().all(|what| problems.contains(what)) { Ok(()) } else { Err(problems) }
    });
}

fn dual(lab: &Lab, hosts: usize) {
    lab.h(1).ok(&["network", "create", "blue", "--subnet", "10.1.0.0/16", "--subnet", "fd00:1::/64"]);
    eventually("every host has it", || {
        let has = |host: &Host| host.json(&["network", "ls"])[0]["name"] == "blue";
        if lab.hosts[..hosts].iter().all(has) { Ok(()) } else { Err("not yet") }
    });
}

#[test]
fn node_follows_its_new_addresses_and_another_may_take_the_old_ones() {
    let mut lab = Lab::without_agents(Plan::for_test(3));
    for i in [1, 2] {
        find_addresses(lab.host(i));
        lab.host(i).up();
    }
    dual(&lab, 2);
    let (a, _) = lab.attached(1, "blue");
    let (b, addr_b) = lab.attached(2, "blue");
    let reached = |what: &str| {
        for addr in &addr_b {
            eventually(what, || if a.reaches(*addr) { Ok(()) } else { Err(lab.h(2).margay(&["status"])) });
        }
    };
    reached("b is reached");
    readdress(lab.h(2), &["192.0.2.52/24", "2001:db8::52/64"]);
    node_has(lab.h(1), "h2", &["192.0.2.52", "2001:db8::52"]);
    reached("b is reached by the new address");
    lab.h(2).well();
    find_addresses(lab.host(3));
    readdress(lab.h(3), &["192.0.2.2/24", "2001:db8::2/64"]);
    // The others' neighbour entries still point to the old owner.
    [1, 2].iter().for_each(|i| drop(lab.h(*i).namespace.sh("ip neigh flush all")));
    lab.host(3).up();
    node_has(lab.h(1), "h3", &["192.0.2.2", "2001:db8::2"]);
    let (_c, addr_c) = lab.attached(3, "blue");
    for addr in addr_c {
        eventually("c is reached", || if a.reaches(addr) && b.reaches(addr) { Ok(()) } else { Err("not") });
    }
    // Without any the last ones stay, and status says so.
    lab.h(2).namespace.sh("ip addr flush dev up0 scope global");
    tells(lab.h(2), &["uplink up0 has no permanent address"]);
    assert_eq!(addresses_of(lab.h(1), "h2"), ["192.0.2.52", "2001:db8::52"]);
    readdress(lab.h(2), &["192.0.2.53/24"]);
    node_has(lab.h(1), "h2", &["192.0.2.53"]);
    lab.h(2).well();
}

#[test]
fn temporary_and_deprecated_addresses_are_not_used_as_node_addresses() {
    let mut lab = Lab::without_agents(Plan::for_test(1));
    find_addresses(lab.host(1));
    let h1 = &lab.h(1).namespace;
    h1.sysctl("net.ipv6.conf.up0.use_tempaddr", "2");
    readdress(lab.h(1), &["192.0.2.1/24", "2001:db8:d::1/64"]);
    h1.sh("ip addr change 2001:db8:d::1/64 dev up0 preferred_lft 0");
    h1.sh("ip addr add 2001:db8:7::1/64 dev up0 nodad mngtmpaddr");
    eventually("the kernel makes a temporary address", || {
        let found = h1.sh("ip -6 addr show dev up0 temporary");
        if found.contains("2001:db8:7:") { Ok(()) } else { Err(found) }
    });
    // The kernel lists the newest first.
    lab.host(1).start();
    node_has(lab.h(1), "h1", &["192.0.2.1", "2001:db8:7::1"]);
    // An address inside a network of the cluster, as a router's advertisements may cause.
    lab.h(1).ok(&["network", "create", "blue", "--subnet", "fd00:1::/64"]);
    let (a, addr) = lab.attached(1, "blue");
    lab.h(1).namespace.sh("ip addr add fd00:1::77/64 dev up0 nodad");
    lab.h(1).namespace.sh("ip addr change 2001:db8:7::1/64 dev up0 preferred_lft 0");
    tells(lab.h(1), &["fd00:1::/64", "network blue"]);
    assert_eq!(addresses_of(lab.h(1), "h1"), ["192.0.2.1", "2001:db8:7::1"]);
    let gateway = ip("fd00:1::1");
    assert!(a.pings(gateway, 1), "{addr:?} is served as before");
    lab.h(1).namespace.sh("ip addr del fd00:1::77/64 dev up0");
    lab.h(1).namespace.sh("ip addr add 2001:db8:8::1/64 dev up0 nodad");
    node_has(lab.h(1), "h1", &["192.0.2.1", "2001:db8:8::1"]);
}

#[test]
fn hosts_that_swapped_addresses_join_again() {
    let mut lab = Lab::new(2);
    dual(&lab, 2);
    let (a, _) = lab.attached(1, "blue");
    let (_b, addr_b) = lab.attached(2, "blue");
    let (one, two) = (["192.0.2.1", "2001:db8::1"], ["192.0.2.2", "2001:db8::2"]);
    for (i, addresses) in [(1, two), (2, one)] {
        lab.host(i).kill();
        let prefixes = [format!("{}/24", addresses[0]), format!("{}/64", addresses[1])];
        readdress(lab.h(i), &[&prefixes[0], &prefixes[1]]);
        lab.host(i).addresses = addresses.map(ip).into();
    }
    (1..=2).for_each(|i| lab.host(i).start());
    (1..=2).for_each(|i| lab.h(i).settled());
    node_has(lab.h(1), "h2", &one);
    node_has(lab.h(2), "h1", &two);
    for addr in addr_b {
        eventually("b is reached", || if a.reaches(addr) { Ok(()) } else { Err(lab.h(1).json(&["status"])) });
    }
    lab.hosts.iter().for_each(|host| drop(host.well()));
}

#[test]
fn address_of_a_living_node_is_refused_and_the_advice_works() {
    let mut lab = Lab::without_agents(Plan::for_test(2));
    lab.host(1).up();
    lab.h(2).namespace.sh("ip addr add 192.0.2.1/24 dev up0");
    lab.host(2).addresses[0] = ip("192.0.2.1");
    lab.host(2).start();
    tells(lab.h(2), &["192.0.2.1 belongs to node h1", "margay node rm h1 --yes"]);
    assert_eq!(addresses_of(lab.h(1), "h1")[0], "192.0.2.1");
    lab.host(1).kill();
    // Its lease may live on for a while.
    lab.h(2).ok(&["node", "rm", "h1", "--yes"]);
    lab.h(2).settled();
    node_has(lab.h(2), "h2", &["192.0.2.1", "2001:db8::2"]);
}

#[test]
fn node_is_on_link_if_the_kernel_routes_it_to_the_link() {
    let mut lab = Lab::without_agents(Plan::for_test(2));
    let hosts = |lines: &[&str]| {
        for host in &lab.hosts {
            lines.iter().for_each(|line| drop(host.namespace.sh(line)));
        }
    };
    hosts(&["ip addr flush dev up0 scope global"]);
    for (i, host) in lab.hosts.iter().enumerate() {
        readdress(host, &[&format!("192.0.2.{}/32", i + 1), &format!("2001:db8::{}/128", i + 1)]);
    }
    let to_the_link =
        ["ip route add 192.0.2.0/24 dev up0 scope link", "ip -6 route add 2001:db8::/64 dev up0"];
    hosts(&to_the_link);
    (1..=2).for_each(|i| lab.host(i).up());
    dual(&lab, 2);
    let (a, _) = lab.attached(1, "blue");
    let (_b, addr_b) = lab.attached(2, "blue");
    let reached = |reached: bool| {
        for addr in &addr_b {
            eventually(&format!("{addr} is reached: {reached}"), || {
                if a.reaches(*addr) == reached { Ok(()) } else { Err(lab.h(1).margay(&["status"])) }
            });
        }
    };
    reached(true);
    assert!(
        a.pings(lab.h(2).addresses[0], 1) && a.pings(lab.h(2).addresses[1], 1),
        "the node's own addresses"
    );
    // The agent follows the kernel's routes while it runs.
    let off = ["ip route del 192.0.2.0/24 dev up0", "ip -6 route del 2001:db8::/64 dev up0"];
    off.iter().for_each(|line| drop(lab.h(1).namespace.sh(line)));
    tells(lab.h(1), &["node h2 is not on the link of up0", "ip route get 192.0.2.2"]);
    reached(false);
    to_the_link.iter().for_each(|line| drop(lab.h(1).namespace.sh(line)));
    reached(true);
    lab.h(1).well();
    // A route may also make the node unreachable, although the prefix is on the link.
    for kind in ["unreachable", "prohibit", "blackhole"] {
        let routes =
            [format!("ip route add {kind} 192.0.2.2/32"), format!("ip -6 route add {kind} 2001:db8::2/128")];
        routes.iter().for_each(|line| drop(lab.h(1).namespace.sh(line)));
        tells(lab.h(1), &["node h2 is not on the link of up0"]);
        routes.iter().for_each(|line| drop(lab.h(1).namespace.sh(&line.replace(" add ", " del "))));
        lab.h(1).well();
    }
    // A node behind a gateway is not on the link, although its prefix is.
    lab.h(1).namespace.sh("ip route add 192.0.2.2/32 via 192.0.2.254 dev up0");
    lab.h(1).namespace.sh("ip -6 route add 2001:db8::2/128 via 2001:db8::fe dev up0");
    tells(lab.h(1), &["node h2 is not on the link of up0"]);
}

#[test]
fn pool_subnets_avoid_the_routes_of_every_host() {
    let lab = Lab::new(2);
    let h2 = &lab.h(2).namespace;
    h2.sh("ip route add 10.192.0.0/16 via 192.0.2.254");
    h2.sh("ip route add blackhole 10.193.0.0/20");
    h2.sh("ip route add default via 192.0.2.254");
    let subnet = eventually("the others know of its routes", || {
        lab.h(1).ok(&["network", "create", "auto"]);
        let subnet = lab.h(1).json(&["network", "ls"])[0]["subnets"][0]["cidr"].clone();
        if subnet == "10.193.16.0/20" {
            return Ok(subnet);
        }
        lab.h(1).ok(&["network", "rm", "auto"]);
        Err(subnet)
    });
    lab.h(2).well();
    // A route that appears later is reported, until it is removed.
    h2.sh("ip route add 10.193.17.0/24 via 192.0.2.254");
    tells(lab.h(2), &[subnet.as_str().expect("a prefix"), "10.193.17.0/24", "network auto"]);
    lab.h(1).well();
    h2.sh("ip route del 10.193.17.0/24");
    lab.h(2).well();
    // A route that covers a whole pool leaves nothing of it; the refusal names the route.
    h2.sh("ip route add 10.0.0.0/8 via 192.0.2.254");
    tells(lab.h(2), &["10.0.0.0/8", "network auto"]);
    let refusal = eventually("nothing is left", || {
        let said = lab.h(1).margay(&["network", "create", "more"]);
        if said.ok() {
            lab.h(1).ok(&["network", "rm", "more"]);
            return Err(said);
        }
        Ok(said.err)
    });
    assert!(refusal.contains("node h2 has a route to 10.0.0.0/8"), "{refusal}");
    lab.h(1).ok(&["network", "create", "meant", "--subnet", "10.50.0.0/16"]);
}

#[test]
fn host_without_ipv6_reports_it_and_serves_ipv4() {
    let lab = Lab::new(2);
    dual(&lab, 2);
    let (a, addr_a) = lab.attached(1, "blue");
    let (_b, addr_b) = lab.attached(2, "blue");
    lab.h(2).namespace.sysctl("net.ipv6.conf.all.disable_ipv6", "1");
    // Addresses that are gone are another problem.
    let switch = "net.ipv6.conf.all.disable_ipv6";
    eventually("h2 tells", || {
        let status = lab.h(2).margay(&["status"]);
        let told = status.out.contains("IPv6 is switched off on uplink up0") && status.out.contains(switch);
        if told && !status.out.contains("os error") { Ok(()) } else { Err(status) }
    });
    eventually("IPv4 is as before", || if a.reaches(addr_b[0]) { Ok(()) } else { Err("not reached") });
    let (c, addr_c) = lab.attached(2, "blue");
    let (d, _) = lab.attached(2, "blue");
    assert!(d.pings(addr_c[1], 1), "containers of one host have IPv6 among themselves");
    eventually("IPv4 of a new one", || if c.reaches(addr_a[0]) { Ok(()) } else { Err("not reached") });
    lab.h(2).namespace.sysctl(switch, "0");
    lab.h(2).namespace.sh("ip addr add 2001:db8::2/64 dev up0 nodad");
    lab.h(2).well();
    eventually(
        "IPv6 is back",
        || if a.reaches(addr_b[1]) { Ok(()) } else { Err(lab.h(1).json(&["status"])) },
    );
}
