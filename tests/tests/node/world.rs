//! The way to the world: masquerading, and the host's settings that it needs.

use std::{net::IpAddr, path::Path};

use margay::{
    kernel::firewall,
    tables::{Accept, Direction},
};
use margay_tests::{
    container::Namespace,
    eventually::eventually,
    host::Host,
    lab::{Lab, Plan},
    process::sh,
};
use nix::sched::{CloneFlags, setns};

/// Addresses far beyond the wire.
const WORLD: [&str; 2] = ["203.0.113.1", "2001:db8:ffff::1"];

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// One host that masquerades, and a router on its wire that knows of no
/// container: only what is masqueraded gets an answer.
fn worldly(prepare: impl Fn(&Host)) -> (Lab, Namespace) {
    let mut lab = Lab::without_agents(Plan::for_test(1));
    let router = lab.outsider();
    for addr in ["203.0.113.1/32", "2001:db8:ffff::1/128"] {
        router.sh(&format!("ip addr add {addr} dev lo"));
    }
    let host = &lab.h(1).namespace;
    host.sh("ip route add default via 192.0.2.200");
    host.sh("ip -6 route add default via 2001:db8::200");
    prepare(lab.h(1));
    lab.host(1).masquerade = true;
    lab.host(1).up();
    lab.h(1).ok(&["network", "create", "blue", "--subnet", "10.1.0.0/16", "--subnet", "fd00:1::/64"]);
    (lab, router)
}

/// The same with reverse-path filters of a kind.
fn filtering(rp_filter: &str) -> (Lab, Namespace) {
    worldly(|host| {
        for name in ["all", "default", "up0"] {
            host.namespace.sysctl(&format!("net.ipv4.conf.{name}.rp_filter"), rp_filter);
        }
    })
}

#[track_caller]
fn reaches_the_world(lab: &Lab, container: &Namespace) {
    for addr in WORLD {
        eventually("the world answers", || {
            if container.reaches(ip(addr)) { Ok(()) } else { Err((addr, lab.h(1).margay(&["status"]).out)) }
        });
    }
}

#[test]
fn containers_reach_the_world_after_flushed_rules_and_a_new_default_route() {
    let (lab, router) = filtering("0");
    containers_reach_the_world_as_their_host(&lab, &router);
    flushed_rules_are_restored(&lab);
    // Last: the router is the way no longer.
    another_default_route_is_followed(&lab);
}

#[test]
fn containers_reach_the_world_with_strict_rp_filter() {
    let (lab, router) = filtering("1");
    containers_reach_the_world_as_their_host(&lab, &router);
}

#[test]
fn containers_reach_the_world_with_loose_rp_filter() {
    let (lab, router) = filtering("2");
    containers_reach_the_world_as_their_host(&lab, &router);
}

fn containers_reach_the_world_as_their_host(lab: &Lab, router: &Namespace) {
    let (container, addresses) = lab.attached(1, "blue");
    reaches_the_world(lab, &container);
    let host = &lab.h(1).namespace;
    assert_eq!(host.sh("cat /proc/sys/net/ipv4/ip_forward").trim(), "0", "the global switch stays off");
    // Answers in fragments, which conntrack puts together and the kernel cuts again.
    for addr in WORLD {
        assert!(container.pings_with("-s 3000", ip(addr), 2));
    }
    // In the other direction only replies pass.
    router.sh("ip route add 10.1.0.0/16 via 192.0.2.1");
    assert!(!router.reaches(addresses[0]));
    router.sh("ip route del 10.1.0.0/16");
    // Packets that leave a network in another way are not masqueraded.
    lab.h(1).ok(&["network", "create", "closed", "--subnet", "10.2.0.0/16", "--internal"]);
    let (closed, _) = lab.attached(1, "closed");
    assert!(!closed.reaches(ip(WORLD[0])));
    let status = lab.h(1).well();
    for told in ["10.1.0.0/16 fd00:1::/64 masqueraded", "net/ipv4/conf/up0/forwarding=1"] {
        assert!(status.out.contains(told), "{}", status.out);
    }
    assert!(!status.out.contains("10.2.0.0/16 "), "{}", status.out);
}

/// What has IPv6 forwarded: one interface, or before Linux 6.17 all of them at once.
fn forwards_v6() -> &'static str {
    let of_one = "/proc/sys/net/ipv6/conf/all/force_forwarding";
    if Path::new(of_one).exists() { "up0.force_forwarding" } else { "all.forwarding" }
}

fn flushed_rules_are_restored(lab: &Lab) {
    let (container, _) = lab.attached(1, "blue");
    reaches_the_world(lab, &container);
    let host = &lab.h(1).namespace;
    host.sh("nft flush ruleset");
    reaches_the_world(lab, &container);
    host.sh("nft flush chain inet margay postrouting");
    reaches_the_world(lab, &container);
    host.sysctl("net.ipv4.conf.up0.forwarding", "0");
    host.sysctl(&format!("net.ipv6.conf.{}", forwards_v6()), "0");
    reaches_the_world(lab, &container);
    host.sh("ip route flush proto 77");
    eventually("the host's routes are back", || {
        let routes = host.sh("ip route show proto 77");
        if routes.contains("10.1.0.0/16") { Ok(()) } else { Err(routes) }
    });
    reaches_the_world(lab, &container);
}

fn another_default_route_is_followed(lab: &Lab) {
    let (container, _) = lab.attached(1, "blue");
    reaches_the_world(lab, &container);
    let host = &lab.h(1).namespace;
    let other = lab.container();
    sh(&format!("ip link add lan0 netns {} type veth peer name lan0 netns {}", host.name(), other.name()));
    for (namespace, addr) in [(host, "198.51.100.1/24"), (&other, "198.51.100.2/24")] {
        namespace.sh(&format!("ip addr add {addr} dev lan0"));
        namespace.sh("ip link set lan0 up");
    }
    other.sh("ip addr add 203.0.113.9/32 dev lo");
    host.sh("ip route replace default via 198.51.100.2");
    eventually("the world behind the other interface answers", || {
        if container.reaches(ip("203.0.113.9")) { Ok(()) } else { Err(lab.h(1).margay(&["status"]).out) }
    });
    let forwarding = |name: &str| host.sh(&format!("cat /proc/sys/net/ipv4/conf/{name}/forwarding"));
    eventually("the old one is as it was", || {
        let old = forwarding("up0");
        if old.trim() == "0" { Ok(()) } else { Err(old) }
    });
    assert_eq!(forwarding("lan0").trim(), "1");
}

/// A reading without the exception may be older than the exception.
#[test]
fn firewall_exception_added_twice_exists_once() {
    let lab = Lab::without_etcd(Plan::for_test(1));
    let host = &lab.h(1).namespace;
    let netns = std::fs::File::open(host.path()).expect("a namespace");
    let put = async || {
        for _ in 0..2 {
            let accept = Accept { v4: true, chain: "FORWARD".into(), direction: Direction::In };
            firewall::put_accept(&accept).await.expect("iptables takes it");
        }
    };
    let enter_and_put = || {
        setns(netns, CloneFlags::CLONE_NEWNET).expect("root may enter");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime").block_on(put());
    };
    std::thread::scope(|scope| scope.spawn(enter_and_put).join().expect("it is put"));
    let rules = host.sh("iptables -S FORWARD");
    assert_eq!(rules.matches("--comment margay").count(), 1, "{rules}");
}

#[test]
fn host_that_drops_forwarding_gets_a_firewall_exception() {
    let (lab, _router) = worldly(|host| {
        for program in ["iptables", "ip6tables"] {
            host.namespace.sh(&format!("{program} -P FORWARD DROP"));
        }
    });
    let (container, _) = lab.attached(1, "blue");
    reaches_the_world(&lab, &container);
    let host = &lab.h(1).namespace;
    let rules = |chain: &str| host.sh(&format!("iptables -S {chain}"));
    assert_eq!(rules("FORWARD").matches("--comment margay").count(), 2, "{}", rules("FORWARD"));
    // Docker comes: its own chain for exceptions is used from now on.
    host.sh("iptables -N DOCKER-USER");
    host.sh("iptables -I FORWARD -j DOCKER-USER");
    eventually("the exception moves", || {
        let (users, forward) = (rules("DOCKER-USER"), rules("FORWARD"));
        let moved = users.matches("--comment margay").count() == 2 && !forward.contains("margay");
        if moved { Ok(()) } else { Err((users, forward)) }
    });
    reaches_the_world(&lab, &container);
    // A restarted Docker flushes it.
    host.sh("iptables -F DOCKER-USER");
    reaches_the_world(&lab, &container);
    eventually("it is told", || {
        let status = lab.h(1).margay(&["status"]).out;
        let told = status.contains("exceptions ip6tables FORWARD, iptables DOCKER-USER");
        if told { Ok(()) } else { Err(status) }
    });
    host.sh("iptables -P FORWARD ACCEPT");
    eventually("nobody drops, no exception", || {
        let users = rules("DOCKER-USER");
        if users.contains("margay") { Err(users) } else { Ok(()) }
    });
}

#[test]
fn without_masquerading_the_hosts_settings_stay_unchanged() {
    let lab = Lab::new(1);
    lab.h(1).ok(&["network", "create", "blue", "--subnet", "10.1.0.0/16"]);
    let (_container, _) = lab.attached(1, "blue");
    let host = &lab.h(1).namespace;
    assert_eq!(host.sh("nft list ruleset"), "");
    for name in ["up0", "margay0"] {
        assert_eq!(host.sh(&format!("cat /proc/sys/net/ipv4/conf/{name}/forwarding")).trim(), "0");
    }
}
