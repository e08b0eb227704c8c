//! Traffic outlives the agent, and a restart changes nothing.

use std::{collections::BTreeMap, net::IpAddr, path::Path};

use aya::programs::links::{FdLink, PinnedLink};
use margay_tests::{eventually::eventually, flow::Flow, lab::Lab};

use crate::matrix::routed;

/// The ids of links and their programs, by interface.
fn links(dir: &Path) -> BTreeMap<String, (u32, u32)> {
    let entries = std::fs::read_dir(dir.join("links")).expect("a folder");
    let link = |path: &Path| {
        let info = FdLink::from(PinnedLink::from_pin(path).expect("a link")).info().expect("info");
        (info.id(), info.program_id())
    };
    let entries = entries.map(|entry| entry.expect("an entry").path());
    entries
        .map(|path| (path.file_name().expect("a name").to_string_lossy().into_owned(), link(&path)))
        .collect()
}

#[test]
fn an_agent_killed_and_started_again_loses_no_packet_and_changes_nothing() {
    let mut lab = Lab::new(2);
    lab.h(1).ok(&["network", "create", "blue", "--subnet", "10.1.0.0/16", "--subnet", "fd00:1::/64"]);
    let (a, _) = lab.attached(1, "blue");
    let (_b, addr_b) = lab.attached(2, "blue");
    let (_c, addr_c) = lab.attached(1, "blue");
    routed(&lab);
    let dir = lab.plan.dir.clone();
    let targets = [addr_b[0], addr_b[1], addr_c[0], lab.h(1).addresses[0]];
    let flow = |(i, addr): (usize, IpAddr)| Flow::start(&a, addr, &dir.join(format!("ping{i}")));
    let flows: Vec<Flow> = targets.into_iter().enumerate().map(flow).collect();
    let look = |lab: &Lab| {
        let host = lab.h(1);
        let kernel = ["ip -o link", "ip route", "ip -6 route"].map(|command| host.namespace.sh(command));
        (
            links(&lab.plan.bpffs.join("h1")),
            kernel,
            host.json(&["route", "ls"]),
            host.json(&["endpoint", "ls"]),
        )
    };
    let before = look(&lab);
    for _ in 0..12 {
        lab.host(1).kill();
        lab.host(1).up();
    }
    let after = look(&lab);
    flows.into_iter().for_each(Flow::end);
    assert_eq!(before, after);
    let (d, addr_d) = lab.attached(1, "blue");
    assert!(d.pings(addr_b[0], 1) && !addr_c.contains(&addr_d[0]));
}

#[test]
fn traffic_outlives_agents_and_store() {
    let mut lab = Lab::new(2);
    lab.h(1).ok(&["network", "create", "blue", "--subnet", "10.1.0.0/16"]);
    let (a, _) = lab.attached(1, "blue");
    let (_b, addr_b) = lab.attached(2, "blue");
    routed(&lab);
    lab.hosts.iter_mut().for_each(|host| host.kill());
    lab.kill_etcd();
    assert!(a.pings(addr_b[0], 20));
    // An agent that comes back without the store leaves everything as it is.
    let look = |lab: &Lab| {
        let host = &lab.h(1).namespace;
        (links(&lab.plan.bpffs.join("h1")), ["ip -o link", "ip route"].map(|command| host.sh(command)))
    };
    let before = look(&lab);
    lab.host(1).start();
    eventually("it has asked the store", || {
        let status = lab.h(1).json(&["status"]);
        if status["store"]["away"].is_string() { Ok(()) } else { Err(status) }
    });
    assert_eq!(before, look(&lab));
    assert!(a.pings(addr_b[0], 5));
}

#[test]
fn restart_with_invalid_store_values_removes_nothing() {
    let mut lab = Lab::new(2);
    lab.h(1).ok(&["network", "create", "blue", "--subnet", "10.1.0.0/16"]);
    let (a, _) = lab.attached(1, "blue");
    let (_b, addr_b) = lab.attached(2, "blue");
    routed(&lab);
    lab.host(1).kill();
    for prefix in ["/margay/v1/networks/", "/margay/v1/routes/"] {
        for key in crate::store::etcdctl(&lab, &["get", "--prefix", "--keys-only", prefix]).split_whitespace()
        {
            crate::store::etcdctl(&lab, &["put", key, "{broken"]);
        }
    }
    lab.host(1).start();
    eventually("it has seen that", || {
        let status = lab.h(1).json(&["status"]);
        let told = status["store"]["unreadable"].as_object().map_or(0, |u| u.len());
        if told == 3 { Ok(()) } else { Err(status) }
    });
    assert!(a.pings(addr_b[0], 5));
    assert_eq!(lab.h(1).json(&["endpoint", "ls"]).as_array().map(Vec::len), Some(1));
}

#[test]
fn an_endpoint_that_vanished_while_the_agent_was_away_is_cleaned_up() {
    let mut lab = Lab::new(1);
    lab.h(1).ok(&["network", "create", "blue", "--subnet", "10.1.0.0/16"]);
    let (gone, _) = lab.attached(1, "blue");
    let (stays, addr) = lab.attached(1, "blue");
    lab.host(1).kill();
    drop(gone);
    lab.host(1).up();
    eventually("one endpoint is left", || {
        let left = lab.h(1).json(&["endpoint", "ls"]);
        if left.as_array().map(Vec::len) == Some(1) { Ok(()) } else { Err(left) }
    });
    let (other, _) = lab.attached(1, "blue");
    assert!(other.pings(addr[0], 1) && stays.pings("10.1.0.1".parse().expect("a literal"), 1));
    lab.h(1).detach(&stays);
    lab.h(1).detach(&other);
    lab.h(1).ok(&["network", "rm", "blue"]);
}
