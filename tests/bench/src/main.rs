//! The bench: what a packet costs, what a stream reaches, how long the control
//! plane takes. Every figure says how it was taken; medians over interleaved
//! rounds, since single rounds differ by a fifth.

mod agents;
mod cable;
mod candidate;
mod compare;
mod congestion;
mod control;
mod cpu;
mod datapath;
mod docker;
mod report;
mod scale;
mod stats;
mod work;
mod xdp;

use std::time::{Duration, Instant};

use clap::{Parser, Subcommand};
use margay::{desired::route_key, kernel::table::HashTable, model::key::Key};
use margay_common::{
    maps,
    route::{Route, RouteKey},
};
use margay_tests::{
    container::Namespace,
    lab::{ETCD, Lab, Plan},
};
use nix::sys::signal::{SigHandler, Signal, signal};

use stats::{median, percentile};

/// What to measure: how Margay compares, unless a part is named.
#[derive(Parser)]
#[command(args_conflicts_with_subcommands = true)]
struct Bench {
    #[command(flatten)]
    compare: compare::Options,
    #[command(subcommand)]
    what: Option<What>,
}

/// What else there is to measure.
#[derive(Subcommand)]
enum What {
    /// Parts of Margay itself
    #[command(flatten)]
    Part(Part),
    /// Many agents on recording kernels against a real etcd
    Agents {
        /// How many
        #[arg(default_value_t = 400)]
        count: usize,
    },
    /// One end of a load, run by the bench itself
    #[command(subcommand, hide = true)]
    Load(work::Load),
}

/// A part of the bench.
#[derive(Clone, Copy, Subcommand)]
enum Part {
    /// Packets through the programs
    Datapath,
    /// XDP against the kernel, by generated frames
    Xdp,
    /// Packets, tables and the kernel's own routing with up to a million routes
    Scale,
    /// Memory, attaching, propagation
    Cluster,
    /// 250 attaches at once
    Attach,
    /// Ten thousand attaches and detaches
    Churn,
    /// A hundred thousand routes
    Routes,
    /// A single host
    Single,
    /// What Docker spends on us
    Docker,
}

/// Ends at once at an interrupt. The first process of a private machine is spared the
/// default, and the machine ends with it.
extern "C" fn interrupt(_: i32) {
    // SAFETY: _exit(2) may be called by handlers (signal-safety(7)), and takes any number.
    unsafe { libc::_exit(130) }
}

/// Where reports go.
const OUT: &str = "target/bench";

fn main() {
    let options = Bench::parse();
    // SAFETY: the handler touches no memory.
    unsafe { signal(Signal::SIGINT, SigHandler::Handler(interrupt)) }.expect("it can be caught");
    let part: fn() = match options.what {
        None => return compare::run(&options.compare).expect("the report can be written"),
        Some(What::Agents { count }) => return agents::agents(count),
        Some(What::Load(load)) => return work::load(&load).expect("the other end answers"),
        Some(What::Part(Part::Datapath)) => datapath::datapath,
        Some(What::Part(Part::Xdp)) => xdp::xdp,
        Some(What::Part(Part::Scale)) => || scale::scale(OUT.as_ref()).expect("a disk"),
        Some(What::Part(Part::Cluster)) => cluster,
        Some(What::Part(Part::Attach)) => control::many_at_once,
        Some(What::Part(Part::Single)) => control::single_host,
        Some(What::Part(Part::Routes)) => control::many_routes,
        Some(What::Part(Part::Churn)) => control::churn,
        Some(What::Part(Part::Docker)) => docker::docker,
    };
    let uname = margay_tests::process::sh("uname -r");
    println!("kernel {}, {} CPUs", uname.trim(), std::thread::available_parallelism().map_or(1, usize::from));
    part();
}

fn cluster() {
    let lab = Lab::from(Plan { v6: true, ..Plan::for_test(2) });
    lab.h(1).ok(&["network", "create", "blue", "--subnet", "10.1.0.0/16", "--subnet", "fd00:1::/64"]);
    memory(&lab);
    attach(&lab);
    propagation(&lab);
    memory(&lab);
}

/// Resident memory of the agents.
fn memory(lab: &Lab) {
    for host in &lab.hosts {
        println!("\n{} resident: {:.1} MiB", host.name, resident(host.agent_id()));
    }
}

/// Resident memory of a process, in MiB.
fn resident(id: u32) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{id}/status")).expect("it runs");
    let line = status.lines().find(|line| line.starts_with("VmRSS")).unwrap_or_default().to_owned();
    let kib: f64 = line.split_whitespace().nth(1).and_then(|n| n.parse().ok()).unwrap_or_default();
    kib / 1024.0
}

/// The whole command, process start included, against a real etcd.
fn attach(lab: &Lab) {
    let containers: Vec<Namespace> = (0..40).map(|_| lab.container()).collect();
    let mut times = Vec::new();
    for container in &containers {
        let start = Instant::now();
        lab.h(1).attach(container, "blue", &[]);
        times.push(start.elapsed().as_secs_f64() * 1e3);
    }
    println!(
        "\nmargay endpoint attach, both families, 40 one after the other: median {:.1} ms, worst {:.1} ms",
        median(times.clone()),
        percentile(times, 1.0)
    );
}

/// From the write of a block's key to the route in another node's map, which
/// this process reads in a loop.
fn propagation(lab: &Lab) {
    let pin = lab.h(2).pin(&maps::ROUTES);
    let routes: HashTable<RouteKey, Route> = HashTable::open(&pin).expect("the map");
    let id = lab.h(1).json(&["network", "ls"])[0]["id"].as_u64().expect("an id") as u32;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let netns = std::fs::File::open(lab.wire.path()).expect("the wire");
    let times = std::thread::scope(|scope| {
        let measure = || {
            nix::sched::setns(netns, nix::sched::CloneFlags::CLONE_NEWNET).expect("root may enter");
            runtime.block_on(async {
                let url = format!("http://{ETCD}:2379");
                let mut etcd = etcd_client::Client::connect([url], None).await.expect("etcd");
                let mut times = Vec::new();
                for i in 0..200_u32 {
                    let block: ipnet::IpNet = format!("10.1.{}.0/26", 50 + i).parse().expect("a block");
                    let key = route_key(id, block);
                    let start = Instant::now();
                    etcd.put(Key::Route(id, block).to_string(), r#"{"v":1,"node":"h1"}"#, None)
                        .await
                        .expect("a write");
                    while routes.get(key).expect("the map").is_none() {
                        assert!(start.elapsed() < Duration::from_secs(5), "the route never came");
                        tokio::task::yield_now().await;
                    }
                    times.push(start.elapsed().as_secs_f64() * 1e3);
                }
                times
            })
        };
        scope.spawn(measure).join().expect("measured")
    });
    println!(
        "\nfrom a block's key to the route on another node, 200 times: median {:.1} ms, p99 {:.1} ms",
        median(times.clone()),
        percentile(times, 0.99)
    );
}
