//! Attaching, detaching and restarting while the store is away.

use margay_tests::{eventually::eventually, host::Host, lab::Lab};

use crate::{matrix::routed, store::etcdctl};

fn away(host: &Host) {
    eventually("it is noticed", || {
        let status = host.json(&["status"]);
        if status["store"]["away"].is_string() { Ok(()) } else { Err(status) }
    });
}

#[test]
fn containers_come_and_go_while_the_store_is_away() {
    let mut lab = Lab::new(2);
    // Blocks of 16: four addresses of each are in the stash.
    lab.h(1).ok(&["network", "create", "blue", "--subnet", "10.1.0.0/24", "--block-size", "16"]);
    lab.h(1).ok(&["network", "create", "empty", "--subnet", "10.2.0.0/24"]);
    let (first, addr_first) = lab.attached(1, "blue");
    let (_b, addr_b) = lab.attached(2, "blue");
    routed(&lab);
    lab.kill_etcd();
    away(lab.h(1));
    let mut stashed = Vec::new();
    for _ in 0..2 {
        stashed.push(lab.attached(1, "blue"));
    }
    assert!(stashed[0].0.pings(addr_b[0], 2), "its block is routed already");
    let wanted = stashed[0].1[0].to_string();
    let c = lab.container();
    let path = c.path().display().to_string();
    let attach = |network: &str, more: &[&str]| {
        let args = ["endpoint", "attach", "--network", network, "--netns", &path];
        lab.h(1).refused(&[&args[..], more].concat())
    };
    let reasons = [
        (attach("empty", &[]), "no address of network empty left"),
        (attach("blue", &["--ip", "10.1.0.200"]), "10.1.0.200 is not in the stash of this node"),
        (attach("nothing", &[]), "the store is away"),
        (lab.h(1).refused(&["network", "create", "red"]), "the store is away"),
    ];
    for (refusal, reason) in reasons {
        assert!(refusal.contains(reason), "{refusal}");
    }
    assert!(!c.run("ip link show eth0").ok(), "nothing is half-done");
    // Detaching needs no store either, and returns an address of the stash to it.
    lab.h(1).detach(&stashed[0].0);
    lab.h(1).detach(&first);
    // A restarted agent knows its endpoints and the rest of the stash.
    lab.host(1).kill();
    lab.host(1).start();
    away(lab.h(1));
    assert!(stashed[1].0.pings(addr_b[0], 2), "served from the journal");
    let (c, addr_c) = lab.attached(1, "blue");
    assert!(c.pings(addr_b[0], 2) && c.pings(stashed[1].1[0], 1));
    assert_ne!(addr_c, stashed[1].1);
    lab.start_etcd();
    lab.h(1).settled();
    eventually("the store has all addresses", || {
        let blocks = etcdctl(&lab, &["get", "--prefix", "--print-value-only", "/margay/v1/ipam/"]);
        let has = |addr: &std::net::IpAddr| blocks.contains(&format!("\"{addr}\":{{\"endpoint\""));
        let gone = !has(&addr_first[0]) && (wanted == addr_c[0].to_string() || !has(&stashed[0].1[0]));
        if gone && has(&stashed[1].1[0]) && has(&addr_c[0]) { Ok(()) } else { Err(blocks) }
    });
    lab.h(1).well();
}

#[test]
fn a_booted_host_serves_its_endpoints_without_the_store() {
    let mut lab = Lab::new(1);
    lab.h(1).ok(&["network", "create", "blue", "--subnet", "10.1.0.0/24", "--subnet", "fd00:1::/64"]);
    let (a, _) = lab.attached(1, "blue");
    let (_b, addr_b) = lab.attached(1, "blue");
    lab.host(1).kill();
    lab.kill_etcd();
    // Programs and maps are removed as by a boot; the namespaces stay for the check.
    margay_tests::lab::remove_pins(&lab.plan.bpffs.join("h1"));
    lab.h(1).namespace.sh("ip link del margay0");
    // The kernel takes a moment to free the links.
    eventually("nobody serves them", || if a.reaches(addr_b[0]) { Err("it is served") } else { Ok(()) });
    lab.host(1).start();
    for addr in &addr_b {
        eventually("they are served", || if a.reaches(*addr) { Ok(()) } else { Err(lab.h(1).log()) });
    }
    let node = &lab.h(1).namespace;
    eventually("the host reaches them, too", || {
        if node.reaches(addr_b[0]) { Ok(()) } else { Err(lab.h(1).log()) }
    });
}
