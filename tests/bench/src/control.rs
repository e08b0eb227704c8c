//! What the control plane takes: many attaches at once, ten thousand one after
//! the other, a hundred thousand routes, a single host.

use std::{
    path::Path,
    process::{Child, Command, Stdio},
    time::Instant,
};

use margay::{kernel::table::HashTable, model::key::Key};
use margay_common::{
    maps,
    route::{Route, RouteKey},
};
use margay_tests::{
    container::Namespace,
    eventually::eventually,
    host::{Host, margay},
    lab::{ETCD, Lab, Plan},
};

use crate::{median, percentile, resident};

/// Attaches started at once.
const AT_ONCE: usize = 250;
/// Attaches and detaches, this many at a time.
const CHURN: usize = 10_000;
const CHURNERS: usize = 8;
/// Blocks of another node.
const ROUTES: u32 = 100_000;
/// Blocks that change at once.
const CHANGED: u32 = 1_000;

/// The attach of 250 namespaces at once, each by a command of its own.
pub fn many_at_once() {
    let lab = Lab::from(Plan { v6: true, ..Plan::for_test(1) });
    lab.h(1).ok(&["network", "create", "blue", "--subnet", "10.1.0.0/16", "--subnet", "fd00:1::/64"]);
    let containers: Vec<Namespace> = (0..AT_ONCE).map(|_| lab.container()).collect();
    let start = Instant::now();
    let commands: Vec<Child> = containers.iter().map(|container| attach(lab.h(1), container)).collect();
    let failed =
        commands.into_iter().map(|mut child| child.wait().expect("our own")).filter(|s| !s.success()).count();
    let took = start.elapsed().as_secs_f64();
    println!("\n{AT_ONCE} attaches at once, both families: {took:.2} s, {failed} failed");
}

fn attach(host: &Host, container: &Namespace) -> Child {
    let mut command = Command::new(margay());
    command
        .arg("--socket")
        .arg(host.socket())
        .args(["endpoint", "attach", "--network", "blue", "--netns"])
        .arg(container.path())
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    command.spawn().expect("the command runs")
}

/// Ten thousand attaches and detaches, and what they leave behind.
pub fn churn() {
    let lab = Lab::from(Plan { v6: true, ..Plan::for_test(1) });
    lab.h(1).ok(&["network", "create", "blue", "--subnet", "10.1.0.0/16"]);
    let containers: Vec<Namespace> = (0..CHURNERS).map(|_| lab.container()).collect();
    let host = lab.h(1);
    let round = |container: &Namespace| {
        host.attach(container, "blue", &[]);
        host.ok(&["endpoint", "detach", "--netns", &container.path().display().to_string()]);
    };
    containers.iter().for_each(round);
    let before = left_behind(&lab);
    let start = Instant::now();
    std::thread::scope(|scope| {
        for container in &containers {
            scope.spawn(move || (0..CHURN / CHURNERS).for_each(|_| round(container)));
        }
    });
    let took = start.elapsed().as_secs_f64();
    println!("\n{CHURN} attaches and detaches, {CHURNERS} at a time: {took:.0} s");
    for ((what, before), (_, after)) in before.into_iter().zip(left_behind(&lab)) {
        println!("  {what:32} {before:>10} before, {after:>10} after");
    }
}

/// What may grow: in the kernel, the store, the agent, on disk.
fn left_behind(lab: &Lab) -> Vec<(&'static str, String)> {
    let host = lab.h(1);
    let count = |line: &str| host.namespace.sh(line).lines().count().to_string();
    let keys = |arg: &str| {
        let mut command = lab.wire.command("etcdctl");
        command.env("ETCDCTL_API", "3").arg("--endpoints").arg(format!("http://{ETCD}:2379"));
        let said = margay_tests::process::say(command.args(["get", "--prefix", "/margay/", arg]));
        if arg == "--keys-only" { said.out.split_whitespace().count() } else { said.out.len() }.to_string()
    };
    let maps = host.json(&["status"])["maps"].clone();
    let used = |name: &str| {
        let found = maps.as_array().into_iter().flatten().find(|map| map["name"] == name);
        found.map_or_else(String::new, |map| map["used"].to_string())
    };
    let agent = format!("/proc/{}", host.agent_id());
    let fds = std::fs::read_dir(format!("{agent}/fd")).map_or(0, Iterator::count).to_string();
    let threads = std::fs::read_dir(format!("{agent}/task")).map_or(0, Iterator::count).to_string();
    vec![
        ("interfaces", count("ip -o link")),
        (
            "pinned links",
            std::fs::read_dir(lab.plan.bpffs.join("h1/links")).map_or(0, Iterator::count).to_string(),
        ),
        ("entries in `WORKLOADS`", used("WORKLOADS")),
        ("entries in `ENDPOINTS`", used("ENDPOINTS")),
        ("keys in the store", keys("--keys-only")),
        ("bytes in the store", keys("--print-value-only")),
        ("journalled endpoints", host.json(&["endpoint", "ls"]).as_array().map_or(0, Vec::len).to_string()),
        ("the agent's descriptors", fds),
        ("the agent's threads", threads),
        ("the agent's memory, MiB", format!("{:.1}", resident(host.agent_id()))),
    ]
}

/// A hundred thousand blocks of another node.
pub fn many_routes() {
    let mut lab = Lab::from(Plan { v6: false, ..Plan::for_test(2) });
    lab.h(1).ok(&["network", "create", "large", "--subnet", "10.0.0.0/8"]);
    let id = lab.h(1).json(&["network", "ls"])[0]["id"].as_u64().expect("an id") as u32;
    println!("\nwith {ROUTES} blocks of another node");
    let without = resident(lab.h(1).agent_id());
    write(&lab, id, 0..ROUTES, "h2");
    let pin = lab.h(1).pin(&maps::ROUTES);
    let routes: HashTable<RouteKey, Route> = HashTable::open(&pin).expect("the map");
    let all = |reachable: bool| {
        routes.read().expect("the map").values().filter(|route| route.is_reachable() == reachable).count()
    };
    let filled = |pin: &Path| {
        eventually("all of them are routed", || {
            let routes: HashTable<RouteKey, Route> = HashTable::open(pin)?;
            let there = routes.read()?.len();
            if there == ROUTES as usize { Ok(()) } else { Err(anyhow::anyhow!("{there} are")) }
        });
    };
    filled(&pin);
    let with = resident(lab.h(1).agent_id());
    let each = (with - without) * 1024.0 * 1024.0 / f64::from(ROUTES);
    println!("  the agent's memory: {with:.1} MiB, {each:.0} bytes for each");
    let mut times = Vec::new();
    for round in 0..5 {
        let owner = if round % 2 == 0 { "nobody" } else { "h2" };
        // Nobody has no address: these routes become unreachable, and back.
        let start = Instant::now();
        write(&lab, id, 0..CHANGED, owner);
        let written = start.elapsed();
        let unreachable = if owner == "nobody" { CHANGED as usize } else { 0 };
        while all(false) != unreachable {
            assert!(start.elapsed().as_secs() < 20, "the changes never came");
        }
        times.push((start.elapsed().as_secs_f64() * 1e3, written.as_secs_f64() * 1e3));
    }
    println!(
        "  {CHANGED} routes changed: median {:.0} ms from the first write to the last entry, {:.0} ms of it writing",
        median(times.iter().map(|(all, _)| *all).collect()),
        median(times.iter().map(|(_, written)| *written).collect())
    );
    let text = lab.h(1).ok(&["metrics"]);
    let of = |name: &str| -> f64 {
        text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok()).unwrap_or_default()
    };
    let mean = of("margay_apply_seconds_sum ") / of("margay_apply_seconds_count ") * 1e3;
    println!("  the agent's rounds until now: mean {mean:.1} ms");
    let mut starts = Vec::new();
    for _ in 0..5 {
        lab.host(1).kill();
        let start = Instant::now();
        lab.host(1).start();
        lab.h(1).settled();
        starts.push(start.elapsed().as_secs_f64() * 1e3);
    }
    println!("  killed and started again, until in sync and joined: median {:.0} ms", median(starts));
    println!("  the agent's memory then: {:.1} MiB", resident(lab.h(1).agent_id()));
    lab.host(1).kill();
    assert!(lab.h(1).cleanup(&[]).ok(), "nothing is in the way");
    let start = Instant::now();
    lab.host(1).start();
    lab.h(1).settled();
    filled(&pin);
    println!(
        "  started where no tables are, until all is there and joined: {:.0} ms",
        start.elapsed().as_secs_f64() * 1e3
    );
}

/// Writes claims, a hundred in a transaction.
fn write(lab: &Lab, network: u32, blocks: std::ops::Range<u32>, owner: &str) {
    let netns = std::fs::File::open(lab.wire.path()).expect("the wire");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let value = format!(r#"{{"v":1,"node":"{owner}"}}"#);
    let write = || {
        nix::sched::setns(netns, nix::sched::CloneFlags::CLONE_NEWNET).expect("root may enter");
        runtime.block_on(async {
            let url = format!("http://{ETCD}:2379");
            let etcd = etcd_client::Client::connect([url], None).await.expect("etcd");
            let all: Vec<u32> = blocks.collect();
            for part in all.chunks(100) {
                let put = |i: &u32| {
                    let addr = std::net::Ipv4Addr::from_bits(0x0a00_0000 + (i << 6));
                    let block: ipnet::IpNet = format!("{addr}/26").parse().expect("a block");
                    etcd_client::TxnOp::put(Key::Route(network, block).to_string(), value.clone(), None)
                };
                let txn = etcd_client::Txn::new().and_then(part.iter().map(put).collect::<Vec<_>>());
                etcd.kv_client().txn(txn).await.expect("a write");
            }
        });
    };
    std::thread::scope(|scope| scope.spawn(write).join().expect("written"));
}

/// Attaching on a host that has no etcd.
pub fn single_host() {
    let mut lab = Lab::single(Plan::for_test(1));
    lab.host(1).up();
    lab.h(1).ok(&["network", "create", "blue"]);
    let containers: Vec<Namespace> = (0..40).map(|_| lab.container()).collect();
    let mut times = Vec::new();
    for container in &containers {
        let start = Instant::now();
        lab.h(1).attach(container, "blue", &[]);
        times.push(start.elapsed().as_secs_f64() * 1e3);
    }
    println!(
        "\nembedded store, attach one after the other: median {:.1} ms, worst {:.1} ms",
        median(times.clone()),
        percentile(times, 1.0)
    );
}
