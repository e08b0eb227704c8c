//! XDP against the kernel: frames made by BPF's own generator, since those of
//! sockets pay for their buffers first. One processor makes, handles and ends them;
//! then one makes them and another does the rest.

use std::{path::Path, process::Command, time::Instant};

use aya::{TestRun, TestRunAttrs, TestRunOptions, programs::Xdp};
use aya_obj::programs::XdpAttachType;
use margay::kernel::{self, attach, xdp};
use margay_common::{maps, net::Addr, verdict::Program};
use margay_tests::{
    bpf::{Node, UPLINK, both},
    frame::Frame,
    kinds,
    process::{say, sh},
    programs::{DROP, Hook, pin, sender, transmitter},
};

use crate::stats::Summary;

/// Frames of one measurement.
const FRAMES: u32 = 1_000_000;
const ROUNDS: usize = 5;
/// Frames that are made at once.
const BATCH: u32 = 64;
/// The other node, which takes what is forwarded.
const NEXT: [u8; 6] = [2, 8, 8, 8, 8, 8];
const CLIENT: [u8; 6] = [2, 9, 9, 9, 9, 9];
/// What is blocked: length and prefix.
const BLOCKED: (u8, Addr) = (26, Addr::from_v4_word(u32::from_ne_bytes([203, 0, 113, 64])));

/// Who handles the frames, and what becomes of them.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Case {
    /// Nobody: what the generator and the end cost by themselves.
    Nothing,
    /// The least that a program can do: what none forwards faster than.
    Transmits,
    KernelForwards,
    TcForwards,
    XdpForwards,
    NftDrops,
    TcDrops,
    XdpDrops,
}

/// Which bits of the source are drawn: none; as many as choose among the slots for what XDP
/// remembers; and far more.
const ONE: u16 = 0;
const SLOTS: u16 = (maps::MAX_FLOWS - 1) as u16;
const MANY: u16 = 0xffff;
const _: () = assert!(maps::MAX_FLOWS == 1_024, "the names of the cases say so");

const CASES: [(Case, u16, &str); 13] = [
    (Case::Nothing, ONE, "generator and XDP_DROP alone"),
    (Case::Transmits, ONE, "a program that reads a destination and transmits"),
    (Case::KernelForwards, ONE, "the kernel's own routing forwards"),
    (Case::TcForwards, ONE, "from_network forwards"),
    (Case::XdpForwards, ONE, "xdp_uplink forwards"),
    (Case::NftDrops, ONE, "nftables drops (prerouting, raw)"),
    (Case::TcDrops, ONE, "from_network drops (deny list)"),
    (Case::XdpDrops, ONE, "xdp_uplink drops (deny list)"),
    (Case::Nothing, MANY, "generator of 65,536 sources and XDP_DROP alone"),
    (Case::XdpForwards, SLOTS, "xdp_uplink forwards, from 1,024 sources"),
    (Case::KernelForwards, MANY, "the kernel's own routing forwards, from 65,536 sources"),
    (Case::XdpForwards, MANY, "xdp_uplink forwards, from 65,536 sources"),
    (Case::TcForwards, MANY, "from_network forwards, from 65,536 sources"),
];

/// Measures with the frames made on the same processor, and on another.
pub fn xdp() {
    let mut node = Node::new();
    let peer = set_up();
    // Before this thread may use but one.
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    stay();
    println!("\n60-byte UDP frames, million per second of one processor that also makes and ends them");
    table(&mut node, &peer, Maker::Here);
    match elsewhere() {
        Ok(()) if cpus > 1 => {
            println!("\nthe same, made on another processor; what one processor handles and ends");
            table(&mut node, &peer, Maker::Elsewhere);
        }
        Ok(()) => println!("\nwith the maker elsewhere: there is one processor only"),
        Err(why) => println!("\nwith the maker elsewhere: the kernel has no threads for it: {why}"),
    }
}

/// Where the frames are made.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Maker {
    /// On the processor that handles them.
    Here,
    /// On another.
    Elsewhere,
}

/// Ties this thread, which makes the frames, to the first processor: were it moved, what
/// it made before would still be handled where it was.
fn stay() {
    let mut first = nix::sched::CpuSet::new();
    first
        .set(0)
        .and_then(|()| nix::sched::sched_setaffinity(nix::unistd::Pid::from_raw(0), &first))
        .expect("a processor");
}

/// Has a kernel thread of its own take in what comes on the uplink, which then never runs
/// on the processor of this one, which makes it: this one goes before it.
fn elsewhere() -> Result<(), String> {
    // The sysfs that shows this network namespace.
    let own = format!("chrt --fifo --reset-on-fork --pid 50 {}", nix::unistd::gettid());
    let threaded = format!("mount -t sysfs sysfs /sys && echo 1 > /sys/class/net/{UPLINK}/threaded && {own}");
    let said = say(Command::new("unshare").args(["-m", "sh", "-c", &threaded]));
    if said.ok() { Ok(()) } else { Err(said.err) }
}

/// Measures all cases in interleaved rounds, and prints them.
fn table(node: &mut Node, peer: &Peer, maker: Maker) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let mut rates = [const { Vec::new() }; CASES.len()];
    for _ in 0..ROUNDS {
        for ((case, drawn, _), rates) in CASES.iter().zip(&mut rates) {
            runtime.block_on(arrange(*case, node));
            rates.push(generate(*case, *drawn, peer, maker));
            runtime.block_on(clear(*case, node));
        }
    }
    println!("| what | median | least | most | ns above the generator |\n|---|--:|--:|--:|--:|");
    let alone = |one: bool| {
        let by = CASES.iter().position(|(case, drawn, _)| *case == Case::Nothing && (*drawn == ONE) == one);
        by.and_then(|i| Summary::of(rates[i].clone())).map_or(f64::NAN, |rate| 1e3 / rate.median)
    };
    for ((_, drawn, name), rates) in CASES.iter().zip(&rates) {
        let Some(rate) = Summary::of(rates.clone()) else { continue };
        let above = 1e3 / rate.median - alone(*drawn == ONE);
        println!("| {name} | {:.3} | {:.3} | {:.3} | {above:.0} |", rate.median, rate.min, rate.max);
    }
}

/// The far end of the uplink's cable.
struct Peer {
    name: String,
    index: u32,
}

/// Prepares the host for its own routing; what arrives at the far end ends there.
fn set_up() -> Peer {
    let link = sh(&format!("ip -o link show {UPLINK}"));
    let name = link.split('@').nth(1).and_then(|rest| rest.split(':').next()).expect("a peer").to_owned();
    for line in [
        format!("ip link set {UPLINK} up"),
        format!("ip link set {name} up"),
        format!("ip addr add 192.0.2.1/24 dev {UPLINK}"),
        "sysctl -qw net.ipv4.ip_forward=1 net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.all.send_redirects=0"
            .into(),
        format!("sysctl -qw net.ipv4.conf.{UPLINK}.rp_filter=0 net.ipv4.conf.{UPLINK}.send_redirects=0"),
        format!("ip neigh replace 192.0.2.2 lladdr 02:08:08:08:08:08 dev {UPLINK}"),
        "ip route add 10.5.0.64/26 via 192.0.2.2".into(),
        format!("ethtool -K {UPLINK} gro on"),
    ] {
        sh(&line);
    }
    let link = sh(&format!("ip -o link show {name}"));
    let index = link.split(':').next().and_then(|index| index.trim().parse().ok()).expect("an index");
    set_xdp(&name, DROP);
    Peer { name, index }
}

/// Attaches a program of a few instructions.
fn set_xdp(interface: &str, code: &[u64]) {
    let path = Path::new("/sys/fs/bpf/margay-bench-fixed");
    pin(path, Hook::Xdp, code);
    sh(&format!("ip link set {interface} xdp pinned {}", path.display()));
    std::fs::remove_file(path).expect("a pin");
}

/// Puts in the place of the case what handles its frames. What forwards filters
/// nothing, what drops has one rule.
async fn arrange(case: Case, node: &mut Node) {
    kinds::deny_nothing(node);
    if matches!(case, Case::TcDrops | Case::XdpDrops) {
        let (len, addr) = BLOCKED;
        node.maps().denied.put(addr.mapped_len(len), addr).expect("the map takes it");
    }
    let netlink = kernel::netlink().expect("netlink");
    match case {
        Case::Nothing => set_xdp(UPLINK, DROP),
        Case::Transmits => set_xdp(UPLINK, &transmitter()),
        Case::KernelForwards => {}
        Case::TcForwards | Case::TcDrops => {
            let (pins, program) = node.program(Program::FromNetwork);
            let (mode, hook) = (attach::TcMode::probe(), attach::hook(Program::FromNetwork).expect("of tc"));
            attach::attach(mode, &pins, &netlink, UPLINK, hook, program).await.expect("attaches");
        }
        Case::XdpForwards | Case::XdpDrops => {
            node.confirm([192, 0, 2, 2].into(), NEXT, 600);
            let (pins, program) = node.xdp_program();
            xdp::attach(&pins, &netlink, UPLINK, true, program).await.expect("attaches");
        }
        Case::NftDrops => {
            sh("nft add table ip bench");
            sh("nft add chain ip bench raw { type filter hook prerouting priority -300 ; }");
            sh("nft add rule ip bench raw ip saddr 203.0.113.64/26 drop");
        }
    }
}

/// Takes it away again.
async fn clear(case: Case, node: &mut Node) {
    let netlink = kernel::netlink().expect("netlink");
    match case {
        Case::Nothing | Case::Transmits => drop(sh(&format!("ip link set {UPLINK} xdp off"))),
        Case::KernelForwards => {}
        Case::TcForwards | Case::TcDrops => {
            let (pins, _) = node.program(Program::FromNetwork);
            attach::detach(&pins, &netlink, UPLINK).await.expect("detaches");
        }
        Case::XdpForwards | Case::XdpDrops => {
            let (pins, _) = node.xdp_program();
            xdp::detach(&pins, UPLINK).expect("detaches");
        }
        Case::NftDrops => drop(sh("nft delete table ip bench")),
    }
}

/// Sends the frames into the uplink; million of them per second that were handled.
/// What came of them has to be what the case says. Made elsewhere they come faster
/// than they can be handled, and the cable loses the rest.
fn generate(case: Case, drawn: u16, peer: &Peer, maker: Maker) -> f64 {
    let blocked = matches!(case, Case::NftDrops | Case::TcDrops | Case::XdpDrops);
    let src = match drawn {
        ONE if blocked => [203, 0, 113, 65],
        ONE => [203, 0, 113, 9],
        _ => [198, 18, 0, 0],
    };
    let frame = Frame::udp(CLIENT, src.into(), both(5, 70)[0]).bytes();
    let path = Path::new("/sys/fs/bpf/margay-bench-sender");
    pin(path, Hook::Xdp, &sender(&frame[..36], peer.index, drawn));
    let program = Xdp::from_pin(path, XdpAttachType::Interface).expect("just pinned");
    std::fs::remove_file(path).expect("a pin");
    let (before, taken) = (count(&peer.name, "xdp_drops"), count(UPLINK, "rx_queue_0_xdp_packets"));
    let start = Instant::now();
    let options = TestRunOptions {
        data_in: Some(&frame),
        repeat: FRAMES,
        attrs: TestRunAttrs::new().xdp_live_frames(BATCH),
        ..TestRunOptions::default()
    };
    program.test_run(options).expect("frames are made");
    let took = start.elapsed().as_secs_f64();
    let forwarded = count(&peer.name, "xdp_drops") - before;
    let taken = count(UPLINK, "rx_queue_0_xdp_packets") - taken;
    let forwards = !blocked && case != Case::Nothing;
    let expected = if forwards { taken } else { 0.0 };
    assert!((forwarded - expected).abs() < 0.02 * taken, "{forwarded} of {expected} arrived");
    if maker == Maker::Here {
        assert!(taken > 0.98 * f64::from(FRAMES), "{taken} were handled");
    }
    taken / took / 1e6
}

/// The sum of an interface's counters with a name.
fn count(interface: &str, name: &str) -> f64 {
    let text = sh(&format!("ethtool -S {interface}"));
    let counts = text.lines().filter(|line| line.contains(name));
    counts.filter_map(|line| line.split(':').nth(1)?.trim().parse::<f64>().ok()).sum()
}
