//! What a container finds after it was attached, and what is left after it.

use std::net::IpAddr;

use margay::{
    journal::{Journal, Step},
    model::endpoint::Stage,
};
use margay_tests::{eventually::eventually, lab::Lab};

/// A lab of one host with one network of both families.
pub fn one_host() -> Lab {
    let lab = Lab::new(1);
    lab.h(1).ok(&["network", "create", "blue", "--subnet", "10.1.0.0/16", "--subnet", "fd00:1::/64"]);
    lab
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("a literal")
}

#[test]
fn container_is_attached_completely_and_detached_without_a_trace() {
    let lab = one_host();
    // First, since it knows the addresses that come first.
    a_container_finds_address_gateway_and_routes(&lab);
    a_container_by_process_name_address_and_mac(&lab);
    host_side_passes_only_what_its_program_handles(&lab);
    attaching_twice_is_attaching_once(&lab);
    nothing_of_a_detached_container_is_left(&lab);
    a_gateway_without_a_permanent_neighbour_is_found_by_asking(&lab);
    a_container_joins_a_network_once(&lab);
    no_ttl_is_lost_between_neighbours(&lab);
}

fn a_container_finds_address_gateway_and_routes(lab: &Lab) {
    let (c, addresses) = lab.attached(1, "blue");
    assert_eq!(addresses, [ip("10.1.0.2"), ip("fd00:1::2")]);
    let addrs = c.sh("ip -o addr show dev eth0");
    assert!(addrs.contains("10.1.0.2/32") && addrs.contains("fd00:1::2/128"), "{addrs}");
    let routes = c.sh("ip route");
    for route in ["default via 10.1.0.1 dev eth0", "10.1.0.0/16 via 10.1.0.1", "10.1.0.1 dev eth0"] {
        assert!(routes.contains(route), "{routes}");
    }
    let routes = c.sh("ip -6 route");
    for route in ["default via fd00:1::1 dev eth0", "fd00:1::/64 via fd00:1::1", "fd00:1::1 dev eth0"] {
        assert!(routes.contains(route), "{routes}");
    }
    let neighbours = c.sh("ip neigh show dev eth0");
    for gateway in ["10.1.0.1", "fd00:1::1"] {
        assert!(
            neighbours.contains(&format!("{gateway} lladdr ee:ee:ee:ee:ee:ee PERMANENT")),
            "{neighbours}"
        );
    }
    assert!(c.pings(ip("10.1.0.1"), 3) && c.pings(ip("fd00:1::1"), 3), "the gateway answers");
    lab.h(1).detach(&c);
}

fn a_container_by_process_name_address_and_mac(lab: &Lab) {
    let c = lab.container();
    let sleeper = c.start("sleep infinity", &lab.h(1).dir().join("sleep.log"));
    sleeper.becomes("sleep");
    let pid = sleeper.id().to_string();
    lab.h(1).ok(&[
        "endpoint",
        "attach",
        "--network",
        "blue",
        "--pid",
        &pid,
        "--name",
        "web",
        "--ifname",
        "net7",
        "--ip",
        "10.1.0.9",
        "--ip",
        "fd00:1::9",
        "--mac",
        "02:00:00:00:00:99",
    ]);
    let link = c.sh("ip -o addr show dev net7") + &c.sh("ip -o link show dev net7");
    for part in ["10.1.0.9/32", "fd00:1::9/128", "02:00:00:00:00:99"] {
        assert!(link.contains(part), "{link}");
    }
    let shown = lab.h(1).ok(&["endpoint", "inspect", "web"]);
    assert!(shown.contains(r#""network": "blue""#), "{shown}");
    lab.h(1).ok(&["endpoint", "detach", "web"]);
    assert!(!c.run("ip link show net7").ok());
}

fn host_side_passes_only_what_its_program_handles(lab: &Lab) {
    let (c, _) = lab.attached(1, "blue");
    let endpoint = lab.h(1).json(&["endpoint", "ls"]);
    let veth = endpoint[0]["host_interface"].as_str().expect("a name").to_owned();
    let host = &lab.h(1).namespace;
    assert_eq!(host.sh(&format!("ip -o addr show dev {veth}")), "");
    for (switch, value) in [("ipv4/conf/%/rp_filter", "1"), ("ipv6/conf/%/disable_ipv6", "1")] {
        let path = format!("/proc/sys/net/{}", switch.replace('%', &veth));
        assert_eq!(host.sh(&format!("cat {path}")).trim(), value, "{path}");
    }
    let routes = host.sh("ip route") + &host.sh("ip -6 route");
    assert_eq!(routes.matches("margay0").count(), 2, "one route for each subnet: {routes}");
    assert!(!routes.contains(&veth), "none for a container: {routes}");
    lab.h(1).detach(&c);
}

fn attaching_twice_is_attaching_once(lab: &Lab) {
    let (c, first) = lab.attached(1, "blue");
    assert_eq!(lab.h(1).attach(&c, "blue", &[]), first);
    assert_eq!(lab.h(1).json(&["endpoint", "ls"]).as_array().map(Vec::len), Some(1));
    for _ in 0..2 {
        lab.h(1).detach(&c);
    }
    assert!(!c.run("ip link show eth0").ok());
    assert_eq!(lab.h(1).json(&["endpoint", "ls"]).as_array().map(Vec::len), Some(0));
}

fn nothing_of_a_detached_container_is_left(lab: &Lab) {
    let host = lab.h(1);
    let before =
        (host.namespace.sh("ip -o link"), host.json(&["route", "ls"]), host.namespace.sh("ip route"));
    for round in 0..3 {
        let (c, _) = lab.attached(1, "blue");
        let id = host.json(&["endpoint", "ls"])[0]["id"].as_str().expect("an id").to_owned();
        host.ok(&["endpoint", "detach", &id]);
        drop(c);
        let after =
            (host.namespace.sh("ip -o link"), host.json(&["route", "ls"]), host.namespace.sh("ip route"));
        assert_eq!(before, after, "round {round}");
        assert!(host.json(&["status"])["pending"].as_array().is_some_and(Vec::is_empty));
    }
}

fn a_gateway_without_a_permanent_neighbour_is_found_by_asking(lab: &Lab) {
    let (c, _) = lab.attached(1, "blue");
    // A kernel that still probes its own address asks for no neighbours.
    eventually("the addresses are settled", || {
        let addrs = c.sh("ip -o addr show dev eth0");
        if addrs.contains("tentative") { Err(addrs) } else { Ok(()) }
    });
    let before = lab.h(1).count("from_workload", "answered");
    c.sh("ip neigh flush dev eth0 nud permanent");
    c.sh("ip -6 neigh flush dev eth0 nud permanent");
    assert!(c.pings(ip("10.1.0.1"), 1) && c.pings(ip("fd00:1::1"), 1));
    let neighbours = c.sh("ip neigh show dev eth0");
    assert_eq!(neighbours.matches("lladdr ee:ee:ee:ee:ee:ee").count(), 2, "{neighbours}");
    assert!(lab.h(1).count("from_workload", "answered") >= before + 4);
}

fn a_container_joins_a_network_once(lab: &Lab) {
    let (a, _) = lab.attached(1, "blue");
    let path = a.path().display().to_string();
    let refusal =
        lab.h(1).refused(&["endpoint", "attach", "--network", "blue", "--netns", &path, "--ifname", "eth1"]);
    assert!(refusal.contains("is on network blue already, by interface eth0"), "{refusal}");
}

fn no_ttl_is_lost_between_neighbours(lab: &Lab) {
    let (a, _) = lab.attached(1, "blue");
    let (_b, addr_b) = lab.attached(1, "blue");
    for addr in addr_b {
        assert!(a.pings_with("-t 1", addr, 1), "{addr}");
    }
}

#[test]
fn incomplete_attach_is_rolled_back_and_repeated() {
    let mut lab = one_host();
    let (c, first) = lab.attached(1, "blue");
    lab.host(1).kill();
    // As a crash before the last step leaves it.
    let journal = Journal::open(&lab.h(1).dir().join("state")).expect("a journal");
    let id = journal.endpoints().into_keys().next().expect("an endpoint");
    journal.alter(&id, |endpoint| endpoint.stage = Stage::Created, Step::default()).expect("a disk");
    drop(journal);
    c.sh("ip addr flush dev eth0");
    lab.host(1).up();
    let second = lab.h(1).attach(&c, "blue", &[]);
    assert_ne!(first, second, "the first is undone");
    assert!(c.pings(ip("10.1.0.1"), 1));
    assert_eq!(lab.h(1).json(&["endpoint", "ls"]).as_array().map(Vec::len), Some(1));
}

#[test]
fn config_file_sets_options_and_drops_are_logged() {
    let mut lab = Lab::without_agents(margay_tests::lab::Plan::for_test(1));
    let file = lab.h(1).dir().join("margay.toml");
    std::fs::write(&file, "datapath_log = true\nnode = \"ignored\"\n").expect("it writes");
    lab.host(1).flags = vec!["--config".into(), file.display().to_string()];
    lab.host(1).up();
    assert_eq!(lab.h(1).json(&["status"])["node"], "h1", "flags win");
    lab.h(1).ok(&["network", "create", "blue", "--subnet", "10.1.0.0/16"]);
    let (c, _) = lab.attached(1, "blue");
    assert!(!c.reaches(ip("10.1.0.200")));
    eventually("the drop is logged", || {
        let log = lab.h(1).log();
        if log.contains("dropped 98 bytes") { Ok(()) } else { Err(log) }
    });
}

#[test]
fn endpoint_ends_when_its_container_vanishes() {
    let lab = one_host();
    let (c, first) = lab.attached(1, "blue");
    drop(c);
    eventually("its endpoint ends", || {
        let left = lab.h(1).json(&["endpoint", "ls"]);
        if left.as_array().is_some_and(Vec::is_empty) { Ok(()) } else { Err(left) }
    });
    // Its address rests; the next container has another.
    let (_c, second) = lab.attached(1, "blue");
    assert_ne!(first, second);
}

#[test]
fn a_container_on_two_networks_reaches_both() {
    let lab = one_host();
    lab.h(1).ok(&["network", "create", "red", "--subnet", "10.2.0.0/16", "--subnet", "fd00:2::/64"]);
    let (both, blue) = lab.attached(1, "blue");
    let red = lab.h(1).attach(&both, "red", &["--ifname", "eth1"]);
    let (in_blue, a) = lab.attached(1, "blue");
    let (in_red, b) = lab.attached(1, "red");
    for family in 0..2 {
        assert!(both.pings(a[family], 2) && both.pings(b[family], 2));
        assert!(in_blue.pings(blue[family], 2) && in_red.pings(red[family], 2));
        assert!(!in_blue.reaches(red[family]) && !in_red.reaches(blue[family]), "isolation holds");
    }
}
