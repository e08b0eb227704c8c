//! etcd away, back, compacted; agents cut off from it.

use std::process::Command;

use margay_tests::{
    eventually::eventually,
    host::Host,
    lab::{ETCD, Lab, Plan},
    process::say,
};

use crate::matrix::routed;

/// Flags that raise etcdctl's timeouts above its defaults of five seconds and less.
pub const PATIENT: [&str; 2] = ["--dial-timeout=60s", "--command-timeout=60s"];

/// Runs etcdctl against the lab's etcd.
pub fn etcdctl(lab: &Lab, args: &[&str]) -> String {
    let mut command: Command = lab.wire.command("etcdctl");
    command.env("ETCDCTL_API", "3").args(PATIENT).arg("--endpoints").arg(format!("http://{ETCD}:2379"));
    let said = say(command.args(args));
    assert!(said.ok(), "etcdctl {args:?}: {said:?}");
    said.out
}

fn is_away(host: &Host) -> Result<(), serde_json::Value> {
    let status = host.json(&["status"]);
    let told =
        status["problems"].as_array().is_some_and(|p| p.iter().any(|p| p.to_string().contains("store")));
    let is_away = status["store"]["in_sync"] == false && status["store"]["away"].is_string();
    if is_away && told { Ok(()) } else { Err(status) }
}

#[test]
fn agent_started_without_the_store_waits_and_reports_it() {
    let mut lab = Lab::without_agents(Plan::for_test(1));
    lab.kill_etcd();
    lab.host(1).start();
    eventually("it says so", || is_away(lab.h(1)));
    let refusal = lab.h(1).refused(&["network", "create", "blue", "--subnet", "10.1.0.0/16"]);
    assert!(refusal.contains("the store is away"), "{refusal}");
    assert!(!lab.h(1).namespace.run("ip link show margay0").ok(), "nothing is touched before it is in sync");
    lab.start_etcd();
    lab.h(1).settled();
    lab.h(1).ok(&["network", "create", "blue", "--subnet", "10.1.0.0/16"]);
}

#[test]
fn agents_follow_a_restarted_etcd_again() {
    let mut lab = Lab::new(2);
    lab.h(1).ok(&["network", "create", "blue", "--subnet", "10.1.0.0/16"]);
    let (a, _) = lab.attached(1, "blue");
    let (_b, addr_b) = lab.attached(2, "blue");
    routed(&lab);
    lab.kill_etcd();
    for host in &lab.hosts {
        eventually("it is noticed", || is_away(host));
    }
    assert!(a.pings(addr_b[0], 3), "traffic goes on");
    lab.start_etcd();
    lab.hosts.iter().for_each(Host::settled);
    lab.h(2).ok(&["network", "create", "red", "--subnet", "10.2.0.0/16"]);
    let (c, _) = lab.attached(1, "red");
    let (_d, addr_d) = lab.attached(2, "red");
    routed(&lab);
    assert!(c.pings(addr_d[0], 2));
}

#[test]
fn agent_cut_off_during_a_compaction_catches_up() {
    let mut lab = Lab::new(2);
    lab.h(1).ok(&["network", "create", "blue", "--subnet", "10.1.0.0/16"]);
    lab.h(1).ok(&["network", "create", "old", "--subnet", "10.8.0.0/16"]);
    let (_a, addr_a) = lab.attached(1, "blue");
    let (b, _) = lab.attached(2, "blue");
    routed(&lab);
    lab.wire.sh("ip link set w2 down");
    lab.h(1).ok(&["network", "rm", "old"]);
    lab.h(1).ok(&["network", "create", "red", "--subnet", "10.2.0.0/16"]);
    let (c, _) = lab.attached(1, "red");
    let status = etcdctl(&lab, &["get", "/margay/v1/guard", "-w", "json"]);
    let status: serde_json::Value = serde_json::from_str(&status).expect("JSON");
    let revision = status["header"]["revision"].as_i64().expect("a revision");
    etcdctl(&lab, &["compact", "--physical", &revision.to_string()]);
    // A new etcd knows nothing of h2's old watch.
    lab.kill_etcd();
    lab.start_etcd();
    eventually("it is noticed", || is_away(lab.h(2)));
    lab.wire.sh("ip link set w2 up");
    lab.h(2).settled();
    eventually("h2 has caught up", || {
        let log = lab.h(2).log();
        if log.contains("compacted") { Ok(()) } else { Err(log) }
    });
    routed(&lab);
    let names: Vec<_> = lab
        .h(2)
        .json(&["network", "ls"])
        .as_array()
        .expect("a list")
        .iter()
        .map(|n| n["name"].clone())
        .collect();
    assert_eq!(names, ["blue", "red"], "what went and what came");
    let prefixes = lab.h(2).json(&["route", "ls"]).to_string();
    assert!(!prefixes.contains("10.8.0.0"), "{prefixes}");
    let (_d, addr_d) = lab.attached(2, "red");
    routed(&lab);
    assert!(b.pings(addr_a[0], 2) && c.pings(addr_d[0], 2));
}

#[test]
fn unparsable_store_value_is_reported_and_changes_nothing() {
    let lab = Lab::new(2);
    lab.h(1).ok(&["network", "create", "blue", "--subnet", "10.1.0.0/16"]);
    let (a, _) = lab.attached(1, "blue");
    let (_b, addr_b) = lab.attached(2, "blue");
    routed(&lab);
    let claims = etcdctl(&lab, &["get", "--prefix", "--keys-only", "/margay/v1/routes/"]);
    for key in claims.split_whitespace() {
        etcdctl(&lab, &["put", key, "{broken"]);
    }
    eventually("it is told", || {
        let status = lab.h(1).json(&["status"]);
        let told = status["store"]["unreadable"].as_object().map_or(0, |u| u.len());
        if told == 2 { Ok(()) } else { Err(status) }
    });
    assert!(a.pings(addr_b[0], 3));
}

#[test]
fn second_node_with_the_same_address_does_not_join() {
    let mut lab = Lab::new(1);
    lab.h(1).ok(&["network", "create", "blue", "--subnet", "10.1.0.0/16"]);
    lab.host(1).stop();
    lab.host(1).name = "impostor".into();
    lab.host(1).start();
    eventually("it says why", || {
        let status = lab.h(1).json(&["status"])["problems"].to_string();
        if status.contains("address 192.0.2.1 belongs to node h1 since 20") { Ok(()) } else { Err(status) }
    });
    let c = lab.container();
    let path = c.path().display().to_string();
    let refusal = lab.h(1).refused(&["endpoint", "attach", "--network", "blue", "--netns", &path]);
    assert!(refusal.contains("has not joined"), "{refusal}");
    let nodes = lab.h(1).json(&["node", "ls"]).to_string();
    assert!(!nodes.contains("impostor"), "{nodes}");
    // Whatever happens meanwhile, it is logged once.
    for i in 0..20 {
        etcdctl(&lab, &["put", "/margay/v1/nodes/h9", &format!("{{\"v\":1,\"broken\":{i}}}")]);
        lab.h(1).json(&["status"]);
    }
    let log = lab.h(1).log();
    assert_eq!(log.matches("this node cannot join").count(), 1, "{log}");
}
