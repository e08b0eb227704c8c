//! One packet through one program with `BPF_PROG_TEST_RUN`: no wire, but the
//! real programs, the real maps, and every counter.

use std::{
    collections::BTreeMap,
    fs::File,
    net::IpAddr,
    os::fd::{AsFd, AsRawFd, BorrowedFd},
    path::PathBuf,
    sync::{
        Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
};

use crate::sent::Telling;
use aya::{
    TestRun, TestRunOptions, TestRunResult,
    programs::{ProgramError, ProgramInfo, SchedClassifier, Xdp},
};
use margay::{
    desired::{LocalFacts, Uplink, desired},
    kernel::{
        counters,
        datapath::{Datapath, Extras},
        link,
        maps::Maps,
        pins::{self, Pins},
        table::{HashTable, PerCpu},
    },
    model::{
        endpoint::{Device, Endpoint, Owner, Stage},
        snapshot::{Event, Snapshot},
    },
    tables::{HOST_INTERFACE, Tables},
};
use margay_common::{
    maps::{ICMP_BUDGET, LOOKUPS, Map, SENT},
    net::{Addr, GATEWAY_MAC, Mac},
    route::Neighbour,
    verdict::Program,
};
use nix::{
    sched::{CloneFlags, CpuSet, sched_getcpu, sched_setaffinity, setns, unshare},
    unistd::Pid,
};

/// A node of a small cluster, without a wire: see [`CLUSTER`].
pub struct Node {
    datapath: Datapath,
    root: PathBuf,
    ifindexes: BTreeMap<String, u32>,
    netns: File,
}

/// What a program did with a packet.
#[derive(Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The action that the program returned: 7 is a redirect.
    pub action: i32,
    /// The frame afterwards.
    pub frame: Vec<u8>,
    /// Every counter that moved: program, label and by how much.
    pub counted: Vec<String>,
    /// Where it was sent, in the words of [`crate::sent`]; empty if it was not sent, or if the
    /// programs do not record it.
    pub sent: String,
    /// The interface of the hook, by name.
    pub from: String,
}

/// `TC_ACT_UNSPEC`: not Margay's packet.
pub const PASS: i32 = -1;
/// `TC_ACT_SHOT`: dropped.
pub const DROP: i32 = 2;
/// `TC_ACT_REDIRECT`: sent on its way.
pub const REDIRECT: i32 = 7;

/// The cluster: this node is h1, h2 is on the link, h3 is not. Blue is plain
/// and dual-stack, red is another, inner is internal, open and wide are
/// routable, and of open single addresses are routed.
const CLUSTER: &[(&str, &str)] = &[
    ("nodes/h1", r#"{"v":1,"name":"h1","addresses":["192.0.2.1","2001:db8::1"]}"#),
    ("nodes/h2", r#"{"v":1,"name":"h2","addresses":["192.0.2.2","2001:db8::2"]}"#),
    ("nodes/h3", r#"{"v":1,"name":"h3","addresses":["198.51.100.3","2001:db8:3::3"]}"#),
    (
        "networks/1",
        r#"{"v":1,"id":1,"name":"blue","subnets":[
        {"cidr":"10.1.0.0/16","gateway":"10.1.0.1","block_len":26},
        {"cidr":"fd00:1::/64","gateway":"fd00:1::1","block_len":122}]}"#,
    ),
    (
        "networks/2",
        r#"{"v":1,"id":2,"name":"red","subnets":[
        {"cidr":"10.2.0.0/16","gateway":"10.2.0.1","block_len":26},
        {"cidr":"fd00:2::/64","gateway":"fd00:2::1","block_len":122}]}"#,
    ),
    (
        "networks/3",
        r#"{"v":1,"id":3,"name":"inner","internal":true,"subnets":[
        {"cidr":"10.3.0.0/16","gateway":"10.3.0.1","block_len":26},
        {"cidr":"fd00:3::/64","gateway":"fd00:3::1","block_len":122}]}"#,
    ),
    (
        "networks/4",
        r#"{"v":1,"id":4,"name":"open","routable":true,"subnets":[
        {"cidr":"10.4.0.0/16","gateway":"10.4.0.1","block_len":26},
        {"cidr":"fd00:4::/64","gateway":"fd00:4::1","block_len":122}]}"#,
    ),
    (
        "networks/5",
        r#"{"v":1,"id":5,"name":"wide","routable":true,"subnets":[
        {"cidr":"10.5.0.0/16","gateway":"10.5.0.1","block_len":26},
        {"cidr":"fd00:5::/64","gateway":"fd00:5::1","block_len":122}]}"#,
    ),
    ("routes/5/10.5.0.128-26", r#"{"v":1,"node":"h3"}"#),
    ("routes/5/fd00:5::80-122", r#"{"v":1,"node":"h3"}"#),
    ("routes/5/10.5.0.64-26", r#"{"v":1,"node":"h2"}"#),
    ("routes/5/fd00:5::40-122", r#"{"v":1,"node":"h2"}"#),
    ("routes/1/10.1.0.64-26", r#"{"v":1,"node":"h2"}"#),
    ("routes/1/fd00:1::40-122", r#"{"v":1,"node":"h2"}"#),
    ("routes/1/10.1.0.128-26", r#"{"v":1,"node":"h3"}"#),
    ("routes/1/fd00:1::80-122", r#"{"v":1,"node":"h3"}"#),
    ("routes/2/10.2.0.64-26", r#"{"v":1,"node":"h2"}"#),
    ("routes/2/fd00:2::40-122", r#"{"v":1,"node":"h2"}"#),
    ("routes/4/10.4.0.64-26", r#"{"v":1,"node":"h2"}"#),
    ("routes/4/fd00:4::40-122", r#"{"v":1,"node":"h2"}"#),
    ("refused/203.0.113.64-26", r#"{"v":1,"since":1}"#),
    ("refused/2001:db8:bad::-48", r#"{"v":1,"since":1}"#),
    // A single address of h2's block that h1 could have borrowed from h3.
    ("routes/4/10.4.0.130-32", r#"{"v":1,"node":"h2"}"#),
    ("routes/4/fd00:4::82-128", r#"{"v":1,"node":"h2"}"#),
];

/// Local endpoints: name, network, host part of the addresses, sandbox. `c1`
/// and `c1red` are one container on two networks; `small` has an MTU of 1300;
/// `c3` is in this node's second block, `o2` has borrowed an address of h2's.
pub const ENDPOINTS: &[(&str, u32, u8, u32)] = &[
    ("c1", 1, 2, 101),
    ("c2", 1, 3, 102),
    ("c1red", 2, 2, 101),
    ("r1", 2, 3, 103),
    ("i1", 3, 2, 104),
    ("o1", 4, 2, 105),
    ("small", 1, 4, 106),
    ("c3", 1, 210, 107),
    ("o2", 4, 100, 108),
];

/// The uplink's interface.
pub const UPLINK: &str = "up0";
/// The uplink's MTU.
pub const UPLINK_MTU: u32 = 1400;

/// The node that the tests of one process share, since loading programs is slow, most of all
/// on an emulated machine. Its XDP remembers no flows, so a test does not affect the next.
pub fn node() -> MutexGuard<'static, Node> {
    static NODE: OnceLock<Mutex<Node>> = OnceLock::new();
    // A failed test leaves the node usable, so a poisoned lock is ignored.
    let decides_anew = || Mutex::new(Node::with(Extras { hold: Some(0), tally: true }));
    let node = NODE.get_or_init(decides_anew).lock().unwrap_or_else(PoisonError::into_inner);
    setns(&node.netns, CloneFlags::CLONE_NEWNET).expect("root may enter");
    node.forget_budgets();
    node
}

impl Node {
    /// A fresh node in a fresh network namespace, which this thread enters.
    pub fn new() -> Self {
        Self::with(Extras::default())
    }

    /// The same with programs that tally look-ups or remember flows.
    pub fn with(extras: Extras) -> Self {
        unshare(CloneFlags::CLONE_NEWNET).expect("root may unshare");
        let netns = File::open("/proc/thread-self/ns/net").expect("this thread's namespace");
        let names = ENDPOINTS.iter().map(|e| interface(e.0)).chain([UPLINK.into(), HOST_INTERFACE.into()]);
        let ifindexes = make_interfaces(names.collect());
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let n = COUNT.fetch_add(1, Ordering::Relaxed);
        let root = PathBuf::from(format!("/sys/fs/bpf/margay-test-{}-{n}", std::process::id()));
        let pins = Pins::create(&root).expect("a bpffs on /sys/fs/bpf; run by `cargo xtask test`");
        let mut datapath = Datapath::load(&pins, extras).expect("the programs load");
        let tables = desired(&snapshot(), &facts(&ifindexes));
        fill(&mut datapath, &tables);
        Self { datapath, root, ifindexes, netns }
    }

    /// The index of an interface: an endpoint's by its name, or the uplink's.
    pub fn ifindex(&self, name: &str) -> u32 {
        let found = self.ifindexes.get(name).or_else(|| self.ifindexes.get(&interface(name)));
        *found.unwrap_or_else(|| panic!("no interface {name}"))
    }

    /// Runs what a container sends.
    pub fn from_workload(&mut self, endpoint: &str, frame: &[u8]) -> Outcome {
        let ifindex = self.ifindex(endpoint);
        self.run(Program::FromWorkload, frame, Context { ifindex, ..Context::default() })
    }

    /// Runs what comes in on the uplink.
    pub fn from_network(&mut self, frame: &[u8]) -> Outcome {
        let ifindex = self.ifindex(UPLINK);
        self.run(Program::FromNetwork, frame, Context { ifindex, ..Context::default() })
    }

    /// Runs what the host itself sends by `margay0`.
    pub fn from_host(&mut self, frame: &[u8]) -> Outcome {
        let ifindex = self.ifindex(HOST_INTERFACE);
        self.run(Program::FromHost, frame, Context { ifindex, ..Context::default() })
    }

    /// Runs what the host forwards from the uplink to `margay0`.
    pub fn from_host_forwarded(&mut self, frame: &[u8]) -> Outcome {
        let ifindex = self.ifindex(HOST_INTERFACE);
        let ingress_ifindex = self.ifindex(UPLINK);
        self.run(Program::FromHost, frame, Context { ifindex, ingress_ifindex, ..Context::default() })
    }

    /// Runs a program.
    pub fn run(&mut self, program: Program, frame: &[u8], context: Context) -> Outcome {
        let before = self.counters();
        let from = self.ifindexes.iter().find(|(_, ifindex)| **ifindex == context.ifindex);
        let from = from.map(|(name, _)| name.clone()).unwrap_or_default();
        let mut out = vec![0; frame.len() + 256];
        let context = context.bytes();
        let options = TestRunOptions {
            data_in: Some(frame),
            data_out: Some(&mut out),
            // XDP gets nothing but the frame.
            ctx_in: (program != Program::Xdp).then_some(&context[..]),
            ..TestRunOptions::default()
        };
        let telling = Telling::of(&self.pin(&SENT));
        let result = self.test_run(program, options);
        let sent = telling.map(|telling| telling.told(&self.ifindexes)).unwrap_or_default();
        out.truncate(result.data_size_out as usize);
        let after = self.counters();
        let moved = after.iter().filter(|(name, count)| before[*name] != **count);
        let counted = moved.map(|(name, count)| match count - before[name] {
            1 => name.clone(),
            n => format!("{name} {n}"),
        });
        Outcome { action: result.return_value as i32, frame: out, counted: counted.collect(), sent, from }
    }

    /// Nanoseconds that one run takes, the mean of `repeat` in one call.
    pub fn nanoseconds(&self, program: Program, frame: &[u8], ifindex: u32, repeat: u32) -> u64 {
        let context = Context { ifindex, ..Context::default() }.bytes();
        let options = TestRunOptions {
            data_in: Some(frame),
            ctx_in: (program != Program::Xdp).then_some(&context[..]),
            repeat,
            ..TestRunOptions::default()
        };
        let result = self.test_run(program, options);
        result.duration.as_nanos() as u64
    }

    fn test_run(&self, program: Program, options: TestRunOptions<'_>) -> TestRunResult {
        match program {
            Program::Xdp => self.datapath.xdp.as_ref().expect("this kernel takes it").test_run(options),
            _ => self.datapath.programs[&program].test_run(options),
        }
        .expect("the program runs")
    }

    /// Runs what the uplink's driver hands over.
    pub fn xdp(&mut self, frame: &[u8]) -> Outcome {
        self.run(Program::Xdp, frame, Context::default())
    }

    /// Marks a next hop as fresh for so many seconds from now on.
    pub fn confirm(&mut self, next_hop: IpAddr, mac: [u8; 6], seconds: i64) {
        let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC).expect("a clock");
        let until = ((now.tv_sec() + seconds) as u64) * 1_000_000_000;
        let neighbour = Neighbour { until, mac: Mac(mac).word(), own: GATEWAY_MAC.word() };
        self.datapath.maps.neighbours.put(next_hop.into(), neighbour).expect("the map takes it");
    }

    /// Hash and trie look-ups so far, of programs that tally them.
    pub fn lookups(&self) -> u64 {
        let tally: PerCpu<u64> = PerCpu::open(&self.pin(&LOOKUPS)).expect("the programs tally");
        tally.read(0).expect("the map").into_iter().sum()
    }

    /// Nanoseconds that a program ran and how often, since statistics of programs
    /// are kept.
    pub fn run_time(&self, program: Program) -> (f64, f64) {
        let fd = match program {
            Program::Xdp => self.datapath.xdp.as_ref().expect("this kernel takes it").fd(),
            _ => self.datapath.programs[&program].fd(),
        };
        statistics(fd.expect("it is loaded").as_fd())
    }

    /// Gives every sender its whole budget of ICMP errors again.
    fn forget_budgets(&self) {
        let mut budgets: HashTable<Addr, [u64; 2]> =
            HashTable::open(&self.pin(&ICMP_BUDGET)).expect("the map");
        for sender in budgets.read().expect("the map").into_keys() {
            budgets.remove(sender).expect("the map");
        }
    }

    /// Where everything is pinned.
    pub fn pins(&self) -> Pins {
        Pins::at(&self.root)
    }

    /// Where a map is pinned.
    pub fn pin(&self, map: &Map) -> PathBuf {
        Pins::at(&self.root).map(map)
    }

    /// The maps.
    pub fn maps(&mut self) -> &mut Maps {
        &mut self.datapath.maps
    }

    /// A program, to be attached, and the folders for its links.
    pub fn program(&mut self, program: Program) -> (Pins, &mut SchedClassifier) {
        (Pins::at(&self.root), self.datapath.programs.get_mut(&program).expect("every program is loaded"))
    }

    /// The XDP program, to be attached, and the folders for its links.
    pub fn xdp_program(&mut self) -> (Pins, &mut Xdp) {
        (Pins::at(&self.root), self.datapath.xdp.as_mut().expect("this kernel takes it"))
    }

    /// Instructions that the verifier went through for each program.
    pub fn verified(&self) -> Vec<(&'static str, u32)> {
        let of_tc = self.datapath.programs.iter().map(|(program, loaded)| (*program, loaded.info()));
        let of_xdp = self.datapath.xdp.iter().map(|loaded| (Program::Xdp, loaded.info()));
        let verified = |info: Result<ProgramInfo, ProgramError>| {
            info.expect("it is loaded").verified_instruction_count().expect("Linux 5.16")
        };
        of_tc.chain(of_xdp).map(|(program, info)| (program.label(), verified(info))).collect()
    }

    /// Packets that a program has counted under a label.
    pub fn count(&self, program: Program, reason: &str) -> u64 {
        self.counters()[&format!("{} {reason}", program.label())]
    }

    fn counters(&self) -> BTreeMap<String, u64> {
        let counters = counters::read(&self.datapath.maps.counters).expect("counters");
        counters.into_iter().map(|c| (format!("{} {}", c.program, c.reason), c.packets)).collect()
    }
}

impl Default for Node {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let pins = Pins::at(&self.root);
        let dirs = pins::names(&pins.programs()).unwrap_or_default();
        let dirs = dirs.iter().map(|name| pins.programs().join(name));
        let dirs = dirs.chain(pins.layouts().unwrap_or_default());
        for dir in dirs.chain([pins.links(), pins.programs(), self.root.join("xdp")]) {
            for name in pins::names(&dir).unwrap_or_default() {
                drop(pins::unlink(&dir.join(name)));
            }
            drop(std::fs::remove_dir(dir));
        }
        drop(std::fs::remove_dir(&self.root));
    }
}

/// Nanoseconds that a program ran and how often, as the kernel keeps them.
pub fn statistics(program: BorrowedFd<'_>) -> (f64, f64) {
    let text =
        std::fs::read_to_string(format!("/proc/self/fdinfo/{}", program.as_raw_fd())).expect("our own");
    let field = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|value| value.trim().parse().ok()).expect("a number")
    };
    (field("run_time_ns:"), field("run_cnt:"))
}

/// The metadata of a packet that a program gets besides its bytes.
#[derive(Clone, Copy, Default)]
pub struct Context {
    /// The interface of the hook.
    pub ifindex: u32,
    /// The interface that the packet came in on.
    pub ingress_ifindex: u32,
    /// Payload of one segment of a super-packet.
    pub gso_size: u32,
    /// The mark that the host's own rules set.
    pub mark: u32,
}

impl Context {
    /// As `struct __sk_buff`.
    fn bytes(self) -> [u8; 192] {
        let mut bytes = [0; 192];
        let fields = [(8, self.mark), (36, self.ingress_ifindex), (40, self.ifindex), (176, self.gso_size)];
        for (at, value) in fields {
            bytes[at..at + 4].copy_from_slice(&value.to_ne_bytes());
        }
        bytes
    }
}

/// Keeps this thread on its current processor, for maps that are per CPU.
pub fn stay() {
    let mut here = CpuSet::new();
    let cpu = sched_getcpu().expect("Linux tells");
    here.set(cpu).and_then(|()| sched_setaffinity(Pid::from_raw(0), &here)).expect("it is ours");
}

/// The MAC of an endpoint.
pub fn mac(endpoint: &str) -> [u8; 6] {
    let position = ENDPOINTS.iter().position(|e| e.0 == endpoint).expect("an endpoint");
    [2, 0, 0, 0, 0, position as u8]
}

/// The IPv4 and the IPv6 address of network `network` with host part `host`.
pub fn both(network: u8, host: u8) -> [IpAddr; 2] {
    let v4 = IpAddr::from([10, network, 0, host]);
    let v6 = IpAddr::from([0xfd00, u16::from(network), 0, 0, 0, 0, 0, u16::from(host)]);
    [v4, v6]
}

/// The host side of an endpoint's interface.
pub fn interface(endpoint: &str) -> String {
    format!("mgy-{endpoint}")
}

/// Creates interfaces with the gateway's MAC, so that frames to the gateway are frames to
/// this host.
fn make_interfaces(names: Vec<String>) -> BTreeMap<String, u32> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(async {
        let netlink = margay::kernel::netlink().expect("netlink");
        let mut made = BTreeMap::new();
        for name in names {
            link::add_host_pair(&netlink, &name, 1500).await.expect("an interface");
            // Every pair's other end gets the same name: rename it.
            let peer = link::index(&netlink, link::HOST_PEER).await.expect("netlink").expect("the peer");
            let rename = rtnetlink::LinkUnspec::new_with_index(peer).name(format!("p{peer}"));
            netlink.link().set(rename.build()).execute().await.expect("rename");
            let index = link::index(&netlink, &name).await.expect("netlink").expect("just made");
            made.insert(name, index);
        }
        made
    })
}

fn snapshot() -> Snapshot {
    let put = |(key, value): &(&str, &str)| Event::Put {
        key: format!("/margay/v1/{key}"),
        value: value.as_bytes().to_vec(),
        revision: 1,
    };
    let mut snapshot = Snapshot::default();
    snapshot.replace(&CLUSTER.iter().map(put).collect::<Vec<_>>());
    assert!(snapshot.unreadable.is_empty(), "{:?}", snapshot.unreadable);
    snapshot
}

fn facts(ifindexes: &BTreeMap<String, u32>) -> LocalFacts {
    let endpoint = |(name, network, host, sandbox): &(&str, u32, u8, u32)| Endpoint {
        id: (*name).into(),
        name: Some((*name).into()),
        network: *network,
        network_name: format!("network{network}"),
        addresses: both(*network as u8, *host).to_vec(),
        mac: Mac(mac(name)),
        netns: PathBuf::new(),
        sandbox: *sandbox,
        ifname: "eth0".into(),
        host_interface: interface(name),
        device: Device::Veth,
        mtu: if *name == "small" { 1300 } else { 1500 },
        stage: Stage::Joined,
        owner: Owner::Command,
        lost: None,
    };
    LocalFacts {
        node: "h1".into(),
        addresses: vec![IpAddr::from([192, 0, 2, 1]), "2001:db8::1".parse().expect("a literal")],
        uplink: Uplink {
            name: UPLINK.into(),
            ifindex: ifindexes[UPLINK],
            mtu: UPLINK_MTU,
            mac: GATEWAY_MAC,
            super_packet: 65_536,
            ..Uplink::default()
        },
        on_link: ["192.0.2.2", "2001:db8::2"].map(|addr| addr.parse().expect("a literal")).into(),
        interfaces: ifindexes.clone().into(),
        endpoints: ENDPOINTS.iter().map(|e| (e.0.to_owned(), endpoint(e))).collect(),
        ..LocalFacts::default()
    }
}

/// Writes the entries that are maps'.
fn fill(datapath: &mut Datapath, tables: &Tables) {
    for entry in tables.entries().filter(|entry| entry.key().map().is_some()) {
        datapath.maps.put(&entry).expect("the map takes it");
    }
}
