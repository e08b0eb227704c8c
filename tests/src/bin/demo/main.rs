//! The demo: three hosts, two networks, real packets. It checks each claim as it prints it.

mod docker;
mod single;

use std::{
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    sync::atomic::Ordering,
};

use clap::Parser;
use margay_tests::{
    container::Namespace,
    eventually::{INTERRUPTED, check_interrupt, eventually},
    lab::{Lab, Plan, remove_pins},
    process::{say, sh},
};
use nix::{
    sys::signal::{SigHandler, Signal, kill, signal},
    unistd::Pid,
};

/// Where everything of the demo is, and what its names begin with.
const DIR: &str = "/run/margay-demo";
const PREFIX: &str = "margay-demo";

/// Three hosts, two networks, real packets.
#[derive(Parser)]
struct Options {
    /// One host by itself, without etcd
    #[arg(long)]
    single: bool,
    /// Three hosts, each with its own Docker Engine
    #[arg(long)]
    docker: bool,
    /// Leave everything up
    #[arg(long)]
    keep: bool,
    /// Take down what --keep left up
    #[arg(long)]
    down: bool,
}

extern "C" fn interrupt(_: i32) {
    INTERRUPTED.store(true, Ordering::Relaxed);
}

fn main() -> ExitCode {
    let options = Options::parse();
    if !nix::unistd::geteuid().is_root() {
        eprintln!("demo: network namespaces and eBPF need root: sudo -E cargo xtask demo");
        return ExitCode::FAILURE;
    }
    if Path::new(DIR).exists() || options.down {
        take_down();
        if options.down {
            println!("demo: taken down");
            return ExitCode::SUCCESS;
        }
    }
    // SAFETY: the handler only stores to an atomic.
    unsafe { signal(Signal::SIGINT, SigHandler::Handler(interrupt)) }.expect("a handler");
    let shown = std::panic::catch_unwind(|| match options {
        Options { docker: true, .. } => docker::show(),
        Options { single: true, keep, .. } => single::show(keep),
        Options { keep, .. } => show(keep),
    });
    if !(options.keep && shown.is_ok()) {
        take_down();
    }
    match shown {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => {
            eprintln!("demo: not everything was as expected");
            ExitCode::FAILURE
        }
        Err(_) => ExitCode::FAILURE,
    }
}

/// Prints what happens next; ends the demo if it was interrupted.
fn step(text: &str) {
    check_interrupt();
    println!("\n==> {text}");
}

/// Whether a claim held, printed as such.
fn claim(text: &str, holds: bool) -> bool {
    println!("    {} {text}", if holds { "ok  " } else { "FAIL" });
    holds
}

struct Member {
    name: String,
    host: usize,
    network: &'static str,
    namespace: Namespace,
    addresses: Vec<IpAddr>,
}

/// Prepares this machine for a lab that lives on after the demo.
fn plan(hosts: usize) -> Plan {
    fs::create_dir_all("/run/netns").expect("a folder");
    let bpffs = Path::new(DIR).join("bpf");
    fs::create_dir_all(&bpffs).expect("a folder");
    sh(&format!("mount -t bpf bpf {}", bpffs.display()));
    Plan {
        hosts,
        mtu: 1500,
        v6: true,
        direct: false,
        bound: false,
        prefix: PREFIX.into(),
        dir: DIR.into(),
        bpffs,
    }
}

fn show(keep: bool) -> bool {
    step("three hosts (network namespaces), a wire between them, a real etcd, an agent on each");
    let plan = plan(3);
    let mut lab = Lab::without_agents(plan);
    note_process(lab.etcd_id());
    for host in &mut lab.hosts {
        host.up();
        note_process(host.agent().id());
        println!("    {} at {}: margay {}", host.name, list(&host.addresses), host.own_flags().join(" "));
    }
    step("two networks: blue with IPv4 and IPv6, red with IPv4");
    run(&lab, 1, &["network", "create", "blue", "--subnet", "10.1.0.0/16", "--subnet", "fd00:1::/64"]);
    run(&lab, 2, &["network", "create", "red", "--subnet", "10.2.0.0/16"]);
    step("two containers on each host and network, attached by one command each");
    let members = attach(&lab);
    let all = [
        prove_matrix(&lab, &members),
        prove_who_routes(&lab, &members),
        measure(&members),
        prove_counters(&lab),
    ];
    let good = all.iter().all(|holds| *holds);
    if keep {
        let next = format!("ip netns exec {PREFIX}-blue11 traceroute -n {}", members[4].addresses[0]);
        for mut member in members {
            member.namespace.keep();
        }
        leave_up(lab, &next);
    }
    good
}

fn run(lab: &Lab, host: usize, args: &[&str]) {
    println!("    h{host}$ margay {}", args.join(" "));
    lab.h(host).ok(args);
}

fn attach(lab: &Lab) -> Vec<Member> {
    let mut members: Vec<Member> = Vec::new();
    for host in 1..=3 {
        for network in ["blue", "red"] {
            for i in 1..=2 {
                let name = format!("{network}{host}{i}");
                let namespace = Namespace::new(&format!("{PREFIX}-{name}"));
                let addresses = lab.h(host).attach(&namespace, network, &["--name", &name]);
                println!("    {name} on h{host}: {}", list(&addresses));
                members.push(Member { name, host, network, namespace, addresses });
            }
        }
    }
    eventually("every host routes every block", || {
        let remote = |i: usize| {
            let routes = lab.h(i).json(&["route", "ls"]);
            routes.as_array().map_or(0, |r| r.iter().filter(|r| r["kind"] == "remote").count())
        };
        // Two other hosts with a block in each of three subnets.
        if (1..=3).all(|i| remote(i) == 6) { Ok(()) } else { Err("not yet") }
    });
    members
}

fn prove_matrix(lab: &Lab, members: &[Member]) -> bool {
    step("who reaches whom: o answers, . does not; each pair over every address that it has");
    let before = through_hosts(lab);
    let names: Vec<&str> = members.iter().map(|member| member.name.as_str()).collect();
    println!("    {:8}{}", "from", names.join(" "));
    let mut good = true;
    for from in members {
        let mut row = format!("    {:8}", from.name);
        for to in members {
            let expected = from.network == to.network;
            let answers = |addr: &IpAddr| {
                if expected { from.namespace.pings(*addr, 1) } else { quick(from, *addr) }
            };
            let seen: Vec<bool> = to.addresses.iter().map(answers).collect();
            let right = seen.iter().all(|seen| *seen == expected);
            let mark = if !right {
                "!"
            } else if expected {
                "o"
            } else {
                "."
            };
            row.push_str(&format!("{mark:^7}"));
            good &= right;
        }
        println!("{row}");
        check_interrupt();
    }
    let good = claim("within a network everything answers, between networks nothing, both families", good);
    let still = through_hosts(lab) == before;
    good & claim("from_host stood still meanwhile: no host's stack had a part in it", still)
}

/// One echo with a short wait, for where none is expected: the answer is an
/// ICMP error within microseconds.
fn quick(from: &Member, addr: IpAddr) -> bool {
    from.namespace.run(&format!("timeout 0.3 ping -n -q -c 1 -W 1 {addr}")).ok()
}

/// Packets that any host's stack sent into a network.
fn through_hosts(lab: &Lab) -> u64 {
    lab.hosts.iter().map(|host| host.count("from_host", "local") + host.count("from_host", "remote")).sum()
}

fn prove_who_routes(lab: &Lab, members: &[Member]) -> bool {
    step("who routes: eBPF alone");
    let mut good = true;
    for host in &lab.hosts {
        let forwards = host.namespace.sh("cat /proc/sys/net/ipv4/ip_forward");
        good &= claim(&format!("{}: net.ipv4.ip_forward is 0", host.name), forwards.trim() == "0");
        let routes = host.namespace.sh("ip route") + &host.namespace.sh("ip -6 route");
        let ours: Vec<&str> = routes.lines().filter(|line| line.contains("margay0")).collect();
        let text = format!(
            "{}: one kernel route per network and family, all to margay0 ({})",
            host.name,
            ours.len()
        );
        good &= claim(&text, ours.len() == 3);
    }
    let (from, to) = (&members[0], members.iter().rev().find(|m| m.network == "blue").expect("a member"));
    println!("    {}$ traceroute -n {}", from.name, to.addresses[0]);
    let said = from.namespace.sh(&format!("traceroute -n -q 1 -w 2 {}", to.addresses[0]));
    said.lines().for_each(|line| println!("      {line}"));
    good & claim("the gateway, then the destination", said.lines().count() == 3)
}

fn measure(members: &[Member]) -> bool {
    step("one TCP stream across hosts (iperf3, 3 s)");
    let first = &members[0];
    let far = members.iter().find(|m| m.host != first.host && m.network == first.network).expect("a member");
    let log = Path::new(DIR).join("iperf.log");
    let _server = far.namespace.start("iperf3 -s -1", &log);
    let said = eventually("iperf3 connects", || {
        let said = first.namespace.run(&format!("iperf3 -c {} -t 3 -f g", far.addresses[0]));
        if said.ok() { Ok(said) } else { Err(said) }
    });
    let line = said.out.lines().find(|line| line.contains("receiver")).unwrap_or_default().to_owned();
    println!("    {line}");
    claim("it arrives", line.contains("Gbits"))
}

fn prove_counters(lab: &Lab) -> bool {
    step("how many packets each program carried, and why others were dropped");
    for host in &lab.hosts {
        println!("    {}$ margay counters", host.name);
        host.ok(&["counters"]).lines().for_each(|line| println!("    {line}"));
    }
    let isolated: u64 = lab.hosts.iter().map(|host| host.count("from_workload", "isolated")).sum();
    claim(&format!("every attempt between networks was counted as isolated ({isolated})"), isolated > 0)
}

fn leave_up(lab: Lab, next: &str) {
    let margay = margay_tests::host::margay();
    println!("\nLeft up. Try next:");
    println!("    {} --socket {DIR}/h1/run/agent.sock route ls", margay.display());
    println!("    {next}");
    println!("    {} --socket {DIR}/h1/run/agent.sock counters", margay.display());
    println!("and `cargo xtask demo --down` takes it down.");
    drop(lab.release());
}

/// Remembers a process, so that `--down` ends it by its id.
fn note_process(id: u32) {
    let path = Path::new(DIR).join("processes");
    let start = start_time(id).unwrap_or_default();
    let line = format!("{id} {start}\n");
    let known = fs::read_to_string(&path).unwrap_or_default();
    fs::write(path, known + &line).expect("the list is written");
}

/// When a process started, in the kernel's ticks: tells it from another that
/// got its id later.
fn start_time(id: u32) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    stat.rsplit(')').next()?.split_whitespace().nth(19).map(str::to_owned)
}

fn take_down() {
    let dir = PathBuf::from(DIR);
    let processes = fs::read_to_string(dir.join("processes")).unwrap_or_default();
    for line in processes.lines() {
        let Some((id, start)) = line.split_once(' ') else { continue };
        let Ok(id) = id.parse::<u32>() else { continue };
        if start_time(id).as_deref() == Some(start) {
            // It may have ended by itself.
            let _ = kill(Pid::from_raw(id as i32), Signal::SIGKILL);
        }
    }
    let names = say(Command::new("ip").args(["-o", "netns", "list"])).out;
    for name in names.lines().filter_map(|line| line.split(' ').next()) {
        if name.starts_with(PREFIX) {
            drop(say(Command::new("ip").args(["netns", "del", name])));
        }
    }
    remove_pins(&dir.join("bpf"));
    drop(say(Command::new("umount").arg(dir.join("bpf"))));
    drop(fs::remove_dir_all(dir));
}

fn list(addresses: &[IpAddr]) -> String {
    addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(" and ")
}
