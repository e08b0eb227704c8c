//! Stores without space: agents can read them, and cannot write.

use std::path::Path;

use margay_tests::{
    eventually::eventually,
    host::Host,
    lab::{ETCD, Lab, Plan},
    process::sh,
};

use crate::{matrix::routed, store::etcdctl};

/// Waits until an agent reports that its store refuses writes, and returns the report.
fn takes_no_writes(host: &Host, words: &str, mend: &str) {
    eventually("it is told", || {
        let status = host.json(&["status"]);
        let text = status["problems"].to_string();
        let told = text.contains("the store takes no writes") && text.contains(words) && text.contains(mend);
        if told && status["store"]["unwritable_since"].is_u64() { Ok(()) } else { Err(status) }
    });
    let text = host.margay(&["status"]).out;
    assert!(text.contains("takes no writes for ") && !text.contains("in sync at"), "{text}");
}

#[test]
fn full_etcd_is_reported_and_used_again_once_it_has_space() {
    let mut lab = Lab::without_agents(Plan::for_test(2));
    lab.kill_etcd();
    lab.start_etcd_with(&format!("http://{ETCD}:2379"), &["--quota-backend-bytes", "4194304"]);
    lab.hosts.iter_mut().for_each(Host::up);
    lab.h(1).ok(&["network", "create", "blue", "--subnet", "10.1.0.0/16"]);
    let (a, _) = lab.attached(1, "blue");
    let (b, addr_b) = lab.attached(2, "blue");
    routed(&lab);
    let filler = "x".repeat(100_000);
    eventually("etcd is full", || {
        let endpoint = format!("http://{ETCD}:2379");
        let mut put = lab.wire.command("etcdctl");
        put.env("ETCDCTL_API", "3").args(["--endpoints", &endpoint, "put", "filler", &filler]);
        let said = margay_tests::process::say(&mut put);
        if said.err.contains("space exceeded") { Ok(()) } else { Err(said) }
    });
    for host in &lab.hosts {
        takes_no_writes(host, "has no space left", "etcdctl alarm disarm");
    }
    let refusal = lab.h(1).refused(&["network", "create", "red", "--subnet", "10.2.0.0/16"]);
    assert!(refusal.contains("takes no writes") && refusal.contains("alarm disarm"), "{refusal}");
    lab.host(2).stop();
    lab.host(2).start();
    takes_no_writes(lab.h(2), "has no space left", "etcdctl alarm disarm");
    assert!(a.pings(addr_b[0], 2), "traffic goes on");
    let (c, addr_c) = lab.attached(1, "blue");
    assert!(c.pings(addr_b[0], 2) && b.pings(addr_c[0], 2), "out of the stash");

    etcdctl(&lab, &["del", "filler"]);
    let found: serde_json::Value =
        serde_json::from_str(&etcdctl(&lab, &["get", "filler", "-w", "json"])).expect("JSON");
    etcdctl(&lab, &["compact", "--physical", &found["header"]["revision"].to_string()]);
    etcdctl(&lab, &["defrag"]);
    etcdctl(&lab, &["alarm", "disarm"]);
    for host in &lab.hosts {
        host.settled();
        host.well();
    }
    eventually("the store knows of what came out of the stash", || {
        let held = etcdctl(&lab, &["get", "--prefix", "/margay/v1/ipam/"]);
        if held.contains(&format!("\"{}\":{{", addr_c[0])) { Ok(()) } else { Err(held) }
    });
    lab.h(2).ok(&["network", "create", "red", "--subnet", "10.2.0.0/16"]);
}

/// A small file system.
struct Disk<'a>(&'a Path);

impl Disk<'_> {
    fn fill(&self) {
        // dd ends with an error when the disk is full, as intended.
        let filler = format!("dd if=/dev/zero of={}/filler bs=4k", self.0.display());
        let mut words = filler.split_whitespace();
        let mut dd = std::process::Command::new(words.next().expect("a program"));
        assert!(!margay_tests::process::say(dd.args(words)).ok(), "it takes more than it has");
    }
}

impl Drop for Disk<'_> {
    fn drop(&mut self) {
        let mut umount = std::process::Command::new("umount");
        drop(margay_tests::process::say(umount.arg("--lazy").arg(self.0)));
    }
}

#[test]
fn embedded_store_on_a_full_disk_loses_no_data() {
    let mut lab = Lab::without_etcd(Plan::for_test(1));
    let dir = lab.plan.dir.join("small");
    std::fs::create_dir_all(&dir).expect("a folder");
    sh(&format!("mount -t tmpfs -o size=8m small {}", dir.display()));
    let disk = Disk(&dir);
    lab.host(1).store = format!("embedded:{}", dir.display());
    lab.host(1).up();
    lab.h(1).ok(&["network", "create", "blue", "--subnet", "10.1.0.0/16"]);
    let (a, addr_a) = lab.attached(1, "blue");
    disk.fill();
    let mut made = vec!["blue".to_owned()];
    let refusal = loop {
        let name = format!("n{}", made.len());
        let subnet = format!("10.2.{}.0/24", made.len());
        let said = lab.h(1).margay(&["network", "create", &name, "--subnet", &subnet]);
        if !said.ok() {
            break said.err;
        }
        made.push(name);
    };
    assert!(refusal.contains("takes no writes") && refusal.contains("no storage space"), "{refusal}");
    assert!(!refusal.contains("os error"), "{refusal}");
    takes_no_writes(lab.h(1), "no storage space", "its disk has space");
    let (b, addr_b) = lab.attached(1, "blue");
    assert!(b.pings(addr_a[0], 2) && a.pings(addr_b[0], 1), "out of the stash");
    lab.host(1).stop();
    lab.host(1).start();
    takes_no_writes(lab.h(1), "no storage space", "its disk has space");

    std::fs::remove_file(dir.join("filler")).expect("the filler");
    lab.h(1).settled();
    lab.h(1).well();
    let names = |host: &Host| -> Vec<String> {
        let networks = host.json(&["network", "ls"]);
        let list = networks.as_array().expect("a list").iter();
        list.filter_map(|network| network["name"].as_str().map(Into::into)).collect()
    };
    assert_eq!(names(lab.h(1)), made);
    lab.h(1).ok(&["network", "create", "red", "--subnet", "10.9.0.0/24"]);
    lab.host(1).stop();
    lab.host(1).up();
    made.push("red".into());
    assert_eq!(names(lab.h(1)), made, "all that was told to be done is done");
    drop(disk);
}
