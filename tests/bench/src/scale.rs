//! What a packet and the tables cost with more and more routes, and what the
//! kernel's own routing costs with as many.
//!
//! Packets pass the real program one by one by `BPF_PROG_TEST_RUN`, so that the
//! system call between them cools the caches as traffic would; the time is the
//! kernel's own statistics of the program's runs.

mod endpoints;
mod lookups;
mod stream;

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket},
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use margay::kernel::clear;
use margay_common::{
    endpoint::{Side, Workload},
    maps,
    net::{Addr, Mac},
    route::{Route, RouteKey},
    verdict::Program,
};
use margay_tests::{
    bpf::{Node, mac},
    container::Namespace,
    frame::Frame,
    process::sh,
};
use serde::{Deserialize, Serialize};

use crate::cpu::Machine;

/// Routes, half of them of each family.
const SIZES: [u32; 5] = [10, 1_000, 10_000, 100_000, 1_000_000];
/// Packets of one measurement.
const DRAWS: usize = 100_000;
/// Routes that change at once.
const CHANGED: u32 = 1_000;
/// Length of the blocks, in their own family: networks of many small nodes.
const BLOCK: [u8; 2] = [27, 122];
/// The network whose routes they are.
const NETWORK: u32 = 9;
/// Where routes lead, before and after a change.
const HOPS: [[u8; 4]; 2] = [[192, 0, 2, 2], [192, 0, 2, 3]];

/// What was measured with so many routes.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Row {
    /// Routes.
    pub routes: u32,
    /// Margay's.
    pub margay: Times,
    /// The kernel's own routing, changed by `ip -batch`.
    pub kernel: Times,
}

/// Nanoseconds of packets, milliseconds of tables.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Times {
    /// A packet to one destination: a run of the program, or, of the kernel's own, a send.
    pub hot: f64,
    /// The same to a destination drawn over all routes.
    pub random: f64,
    /// Filling the empty table.
    pub fill: f64,
    /// Changing 1,000 routes.
    pub change: f64,
    /// Memory of the kernel for a route, bytes.
    pub memory: f64,
    /// Emptying the table; of the kernel's own, removing the interface that all lead to.
    pub empty: f64,
    /// The longest that a CPU was held while it went.
    pub stall: f64,
}

/// What all sizes gave, and where.
#[derive(Debug, Serialize, Deserialize)]
pub struct Scale {
    /// Kernel release.
    pub kernel: String,
    /// Model of the processor.
    pub processor: String,
    /// From few routes to many.
    pub rows: Vec<Row>,
}

/// Measures all sizes, prints a table and keeps it for the report.
pub fn scale(out: &Path) -> std::io::Result<()> {
    let statistics = aya::sys::enable_stats(aya::sys::Stats::RunTime).expect("Linux 5.8");
    let mut rows = Vec::new();
    for routes in SIZES {
        eprintln!("bench: {routes} routes");
        rows.push(measure(routes));
    }
    println!("{}", tables(&rows));
    endpoints::measure();
    lookups::measure();
    drop(statistics);
    stream::measure();
    let Machine { kernel, processor, .. } = Machine::look();
    std::fs::create_dir_all(out)?;
    let scale = serde_json::to_string_pretty(&Scale { kernel, processor, rows })?;
    std::fs::write(out.join(crate::report::SCALE), scale)
}

/// Both halves of the rows as Markdown.
fn tables(rows: &[Row]) -> String {
    let columns =
        "routes | hot, ns | random, ns | fill, ms | change 1,000, ms | bytes | empty, ms | longest stall, ms";
    let head = format!("| {columns} |\n|{}\n", "--:|".repeat(8));
    let line = |routes: u32, times: &Times| {
        let Times { hot, random, fill, change, memory, empty, stall } = *times;
        let values = [hot, random, fill, change, memory, empty, stall].map(crate::report::short);
        format!("| {routes} | {} |\n", values.join(" | "))
    };
    let ours = rows.iter().map(|row| line(row.routes, &row.margay));
    let kernels = rows.iter().map(|row| line(row.routes, &row.kernel));
    let (ours, kernels): (String, String) = (ours.collect(), kernels.collect());
    format!("{head}{ours}\nthe kernel's own routing; hot and random are sends\n\n{head}{kernels}")
}

fn measure(routes: u32) -> Row {
    let mut node = Node::new();
    let ifindex = node.ifindex("c1");
    node.maps().workloads.put(ifindex, sender()).expect("the map takes it");
    let before = available();
    let fill = timed(|| (0..routes).for_each(|i| put(&mut node, i, HOPS[0])));
    let memory = (before - available()).max(0.0) / f64::from(routes);
    let hot = packets(&node, ifindex, |_| 0);
    let random = packets(&node, ifindex, |draw| draw.u32(0..routes));
    let changed = CHANGED.min(routes);
    let change = timed(|| (0..changed).for_each(|i| put(&mut node, i, HOPS[1])));
    let mut empty = 0.0;
    let stall = longest_stall(|| {
        empty = timed(|| clear::table(&node.pin(&maps::ROUTES)).expect("the map"));
        drop(node);
    });
    let margay = Times { hot, random, fill, change, memory, empty, stall };
    Row { routes, margay, kernel: kernels_own(routes) }
}

/// The container that sends: its networks hold all routes.
fn sender() -> Workload {
    let side = |addr: IpAddr, subnet: u8, block: u8| {
        let addr = Addr::from(addr);
        let mask = |len| Addr::mask(addr.mapped_len(len));
        let (subnet_mask, block_mask) = (mask(subnet), mask(block));
        Side {
            addr,
            gateway: Addr::UNSPECIFIED,
            subnet_mask,
            block_mask,
            block_len: addr.mapped_len(block).into(),
        }
    };
    Workload {
        network: NETWORK,
        sandbox: 1,
        mac: Mac(mac("c1")).word(),
        v4: side(own(true), 8, BLOCK[0]),
        v6: side(own(false), 32, BLOCK[1]),
        ..Workload::default()
    }
}

/// The sender's own address, of no block that is routed.
fn own(v4: bool) -> IpAddr {
    if v4 { [10, 255, 255, 254].into() } else { "fd00:0:ffff::2".parse().expect("a literal") }
}

/// An address of the `i`th block; even ones are IPv4.
fn dst(i: u32) -> IpAddr {
    match i % 2 {
        0 => Ipv4Addr::from_bits(0x0a00_0000 + ((i / 2) << 5) + 3).into(),
        _ => Ipv6Addr::from_bits((0xfd00_u128 << 112) + (u128::from(i / 2) << 6) + 3).into(),
    }
}

/// The `i`th block as a route's key.
fn block(i: u32) -> RouteKey {
    let addr = Addr::from(dst(i));
    let len = addr.mapped_len(BLOCK[(i % 2) as usize]);
    RouteKey::new(NETWORK, len, addr.masked(&Addr::mask(len)))
}

fn route(next_hop: [u8; 4]) -> Route {
    Route { next_hop: IpAddr::from(next_hop).into() }
}

fn put(node: &mut Node, i: u32, next_hop: [u8; 4]) {
    node.maps().routes.put(block(i), route(next_hop)).expect("the map takes it");
}

/// Nanoseconds of one run of the program, to blocks that are drawn.
fn packets(node: &Node, ifindex: u32, mut draw: impl FnMut(&mut fastrand::Rng) -> u32) -> f64 {
    sent(node, ifindex, |rng| {
        let dst = dst(draw(rng));
        (own(dst.is_ipv4()), dst)
    })
}

/// Nanoseconds of one run of the program, with sources and destinations that are
/// drawn.
fn sent(node: &Node, ifindex: u32, mut draw: impl FnMut(&mut fastrand::Rng) -> (IpAddr, IpAddr)) -> f64 {
    let mut rng = fastrand::Rng::with_seed(1);
    let before = node.run_time(Program::FromWorkload);
    for _ in 0..DRAWS {
        let (src, dst) = draw(&mut rng);
        let frame = Frame::udp(mac("c1"), src, dst).bytes();
        node.nanoseconds(Program::FromWorkload, &frame, ifindex, 1);
    }
    let after = node.run_time(Program::FromWorkload);
    (after.0 - before.0) / (after.1 - before.1)
}

/// Measures the kernel's own routing.
fn kernels_own(routes: u32) -> Times {
    let host = Namespace::new(&format!("scale{routes}"));
    let sink = Namespace::new(&format!("sink{routes}"));
    sh(&format!("ip link add k0 netns {} type veth peer name k1 netns {}", host.name(), sink.name()));
    for setup in [
        "ip link set k0 up",
        "ip addr add 192.0.2.1/24 dev k0",
        "ip -6 addr add 2001:db8::1/64 dev k0 nodad",
        "ip neigh add 192.0.2.2 lladdr 02:00:00:00:00:02 dev k0",
        "ip -6 neigh add 2001:db8::2 lladdr 02:00:00:00:00:02 dev k0",
    ] {
        host.sh(setup);
    }
    sink.sh("ip link set k1 up");
    let before = available();
    let fill = kernel_routes(&host, "add", 0..routes, 2);
    let memory = (before - available()).max(0.0) / f64::from(routes);
    let netns = std::fs::File::open(host.path()).expect("the namespace");
    let send = || {
        nix::sched::setns(netns, nix::sched::CloneFlags::CLONE_NEWNET).expect("root may enter");
        let hot = sends(|_| 0);
        (hot, sends(|rng| rng.u32(0..routes)))
    };
    let (hot, random) = thread::scope(|scope| scope.spawn(send).join().expect("sent"));
    let change = kernel_routes(&host, "replace", 0..CHANGED.min(routes), 3);
    let mut empty = 0.0;
    let stall = longest_stall(|| empty = timed(|| drop(host.sh("ip link del k0"))));
    Times { hot, random, fill, change, memory, empty, stall }
}

/// Adds or replaces routes to blocks by the next hop with that number; milliseconds.
fn kernel_routes(host: &Namespace, verb: &str, blocks: std::ops::Range<u32>, hop: u8) -> f64 {
    let batch = Path::new("/run/margay-bench-routes");
    let line = |i: u32| {
        let via = if i.is_multiple_of(2) { format!("192.0.2.{hop}") } else { format!("2001:db8::{hop}") };
        let block = ipnet::IpNet::new(dst(i), BLOCK[(i % 2) as usize]).expect("a length").trunc();
        format!("route {verb} {block} via {via} dev k0\n")
    };
    std::fs::write(batch, blocks.map(line).collect::<String>()).expect("a disk");
    let took = timed(|| drop(host.sh(&format!("ip -batch {}", batch.display()))));
    std::fs::remove_file(batch).expect("a disk");
    took
}

fn sends(mut draw: impl FnMut(&mut fastrand::Rng) -> u32) -> f64 {
    let mut rng = fastrand::Rng::with_seed(1);
    let sockets = ["0.0.0.0:0", "[::]:0"].map(|any| UdpSocket::bind(any).expect("a socket"));
    let all: Vec<IpAddr> = (0..DRAWS).map(|_| dst(draw(&mut rng))).collect();
    let took = timed(|| {
        for dst in &all {
            let socket = &sockets[usize::from(dst.is_ipv6())];
            // A full queue costs as much as a packet that is sent.
            drop(socket.send_to(&[0; 18], (*dst, 9)));
        }
    });
    took * 1e6 / DRAWS as f64
}

/// The longest that a sleeper of 200 us overslept on any CPU, in ms, while
/// something ends and in the two seconds after. Sleepers go before all others, so
/// that only a kernel which does not let go of the CPU delays them.
fn longest_stall(end: impl FnOnce()) -> f64 {
    static STOP: AtomicBool = AtomicBool::new(false);
    STOP.store(false, Ordering::Relaxed);
    let cpus = thread::available_parallelism().map_or(1, usize::from);
    let sleeper = |cpu: usize| {
        move || {
            let mut set = nix::sched::CpuSet::new();
            set.set(cpu).expect("a CPU");
            nix::sched::sched_setaffinity(nix::unistd::Pid::from_raw(0), &set).expect("our own thread");
            let thread = nix::unistd::gettid();
            sh(&format!("chrt --fifo --pid 50 {thread}"));
            let mut worst = Duration::ZERO;
            while !STOP.load(Ordering::Relaxed) {
                let start = Instant::now();
                thread::sleep(Duration::from_micros(200));
                worst = worst.max(start.elapsed().saturating_sub(Duration::from_micros(200)));
            }
            worst.as_secs_f64() * 1e3
        }
    };
    let sleepers: Vec<_> = (0..cpus).map(|cpu| thread::spawn(sleeper(cpu))).collect();
    thread::sleep(Duration::from_millis(100));
    end();
    thread::sleep(Duration::from_secs(2));
    STOP.store(true, Ordering::Relaxed);
    sleepers.into_iter().map(|sleeper| sleeper.join().expect("it sleeps")).fold(0.0, f64::max)
}

/// Milliseconds that something takes.
fn timed(what: impl FnOnce()) -> f64 {
    let start = Instant::now();
    what();
    start.elapsed().as_secs_f64() * 1e3
}

/// Memory that is free or could be, bytes.
fn available() -> f64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find(|line| line.starts_with("MemAvailable")).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|kib| kib.parse::<f64>().ok()).unwrap_or_default() * 1024.0
}
