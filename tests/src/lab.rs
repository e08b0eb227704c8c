//! Several hosts on one machine: namespaces with a wire between them and a
//! real etcd on it.

use std::{
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
};

use crate::{
    container::Namespace,
    eventually::eventually,
    host::{Host, UPLINK},
    process::{Process, say, sh},
};

/// The address of etcd on the wire.
pub const ETCD: &str = "192.0.2.254";
/// The same where the hosts' uplinks have a cable of their own.
const ETCD_ASIDE: &str = "198.51.100.254";

/// What a lab is made of.
pub struct Plan {
    /// What every name begins with.
    pub prefix: String,
    /// Folder of everything that it writes.
    pub dir: PathBuf,
    /// Folder of the hosts' pins, on a BPF file system.
    pub bpffs: PathBuf,
    /// How many hosts.
    pub hosts: usize,
    /// MTU of the wire.
    pub mtu: u32,
    /// Whether hosts also have IPv6 addresses.
    pub v6: bool,
    /// Whether the uplinks of two hosts are the ends of one cable, without a
    /// bridge between them: the store is reached by another interface.
    pub direct: bool,
    /// Whether its processes end with the thread that made them.
    pub bound: bool,
}

impl Plan {
    /// A lab for one test.
    pub fn for_test(hosts: usize) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let n = COUNT.fetch_add(1, Ordering::Relaxed);
        let prefix = format!("{}{n}", Self::every_prefix());
        let dir = Path::new("/run/margay-lab").join(&prefix);
        let bpffs = Path::new("/sys/fs/bpf").join(&prefix);
        Self { prefix, dir, bpffs, hosts, mtu: 1500, v6: true, direct: false, bound: true }
    }

    /// What the names of all namespaces of this process's labs begin with.
    pub fn every_prefix() -> String {
        format!("t{}x", std::process::id())
    }

    /// Two hosts whose uplinks are the ends of one cable.
    pub fn direct() -> Self {
        Self { direct: true, ..Self::for_test(2) }
    }

    /// Where etcd is.
    fn etcd(&self) -> &'static str {
        if self.direct { ETCD_ASIDE } else { ETCD }
    }

    /// The same with another MTU of the wire.
    pub fn mtu(self, mtu: u32) -> Self {
        Self { mtu, ..self }
    }
}

/// Hosts, a wire, an etcd.
pub struct Lab {
    /// The hosts; h1 is the first.
    pub hosts: Vec<Host>,
    /// The wire's own namespace, with the bridge.
    pub wire: Namespace,
    /// What it is made of.
    pub plan: Plan,
    etcd: Option<Process>,
    made: AtomicU32,
}

impl Lab {
    /// Hosts with running agents that know each other.
    pub fn new(hosts: usize) -> Self {
        Self::from(Plan::for_test(hosts))
    }

    /// The same from a plan.
    pub fn from(plan: Plan) -> Self {
        let mut lab = Self::without_agents(plan);
        lab.hosts.iter_mut().for_each(Host::up);
        let count = lab.hosts.len();
        for host in &lab.hosts {
            eventually("the nodes know each other", || {
                let nodes = host.json(&["node", "ls"]);
                if nodes.as_array().is_some_and(|nodes| nodes.len() == count) { Ok(()) } else { Err(nodes) }
            });
        }
        lab
    }

    /// One host that has nothing but an address and a default route: no etcd,
    /// no settings.
    pub fn single(plan: Plan) -> Self {
        let mut lab = Self::without_etcd(Plan { hosts: 1, ..plan });
        lab.hosts[0].namespace.sh("ip route add default via 192.0.2.200");
        lab.hosts[0].bare = true;
        lab.hosts[0].store = "embedded".into();
        lab
    }

    /// Hosts, a wire and an etcd, but no agents yet.
    pub fn without_agents(plan: Plan) -> Self {
        let mut lab = Self::without_etcd(plan);
        lab.start_etcd();
        lab
    }

    /// Hosts and a wire, and nothing else.
    pub fn without_etcd(plan: Plan) -> Self {
        fs::create_dir_all(&plan.dir).expect("a folder");
        let wire = Namespace::new(&format!("{}-wire", plan.prefix));
        // A fixed MAC: otherwise the bridge takes the MAC of a later port, and the hosts' neighbour
        // entries go stale.
        wire.sh("ip link add br0 address 02:00:00:00:00:fe type bridge");
        wire.sh(&format!("ip link set br0 mtu {} up", plan.mtu));
        wire.sh(&format!("ip addr add {}/24 dev br0", plan.etcd()));
        let mut lab = Self { hosts: Vec::new(), wire, plan, etcd: None, made: AtomicU32::new(0) };
        for i in 1..=lab.plan.hosts {
            let host = lab.make_host(i);
            lab.hosts.push(host);
        }
        lab
    }

    /// Gives a host its uplink, a port of the wire or one end of the cable.
    fn connect(&self, i: usize, host: &Namespace) {
        let (mtu, wire, host) = (self.plan.mtu, self.wire.name(), host.name());
        let port = if self.plan.direct { "store0" } else { UPLINK };
        sh(&format!("ip link add {port} mtu {mtu} netns {host} type veth peer name w{i} netns {wire}"));
        self.wire.sh(&format!("ip link set w{i} mtu {mtu} master br0 up"));
        if self.plan.direct {
            sh(&format!("ip -n {host} link set {port} up"));
            sh(&format!("ip -n {host} addr add 198.51.100.{i}/24 dev {port}"));
        }
        if self.plan.direct && i == 2 {
            let other = self.hosts[0].namespace.name();
            sh(&format!(
                "ip link add {UPLINK} mtu {mtu} netns {host} type veth peer name {UPLINK} mtu {mtu} netns {other}"
            ));
            self.hosts[0].set_up_uplink();
        }
    }

    fn make_host(&self, i: usize) -> Host {
        let plan = &self.plan;
        let name = format!("h{i}");
        let namespace = Namespace::new(&format!("{}-{name}", plan.prefix));
        // The lab's addresses are unique. While the kernel probes for duplicates, it resolves no
        // neighbours.
        namespace.sysctl("net.ipv6.conf.default.accept_dad", "0");
        self.connect(i, &namespace);
        let mut addresses: Vec<IpAddr> = vec![[192, 0, 2, i as u8].into()];
        if plan.v6 {
            addresses.push(format!("2001:db8::{i}").parse().expect("an address"));
        }
        let store = format!("etcd://{}:2379", plan.etcd());
        let (dir, bpffs) = (plan.dir.join(&name), plan.bpffs.join(&name));
        let host = Host::new(&name, namespace, addresses, dir, bpffs, store, plan.bound);
        // The first end of a cable is there with the second.
        if !plan.direct || i == 2 {
            host.set_up_uplink();
        }
        host
    }

    /// Starts etcd, on the data that it has.
    pub fn start_etcd(&mut self) {
        self.start_etcd_with(&format!("http://{}:2379", self.plan.etcd()), &[]);
        self.etcd_answers();
    }

    /// Starts etcd for clients of an address, with more flags.
    pub fn start_etcd_with(&mut self, url: &str, flags: &[&str]) {
        let mut command = self.wire.command("etcd");
        command
            .arg("--data-dir")
            .arg(self.plan.dir.join("etcd"))
            .args(["--listen-client-urls", url, "--advertise-client-urls", url])
            .args(["--listen-peer-urls", "http://127.0.0.1:2380", "--log-level", "error"])
            .args(["--unsafe-no-fsync"])
            .args(flags);
        self.etcd = Some(Process::start(command, &self.plan.dir.join("etcd.log"), self.plan.bound));
    }

    fn etcd_answers(&self) {
        eventually("etcd answers", || {
            let endpoint = format!("http://{}:2379", self.plan.etcd());
            let mut command = self.wire.command("etcdctl");
            command.env("ETCDCTL_API", "3").args(["--endpoints", &endpoint, "endpoint", "health"]);
            let said = say(&mut command);
            if said.ok() { Ok(()) } else { Err(said) }
        });
    }

    /// Swaps etcd's data with an empty folder, or back.
    pub fn swap_etcd_data(&mut self) {
        assert!(self.etcd.is_none(), "etcd is dead meanwhile");
        let (data, aside) = (self.plan.dir.join("etcd"), self.plan.dir.join("etcd-aside"));
        let between = self.plan.dir.join("etcd-between");
        fs::create_dir_all(&aside).expect("a folder");
        for (from, to) in [(&data, &between), (&aside, &data), (&between, &aside)] {
            fs::rename(from, to).expect("a folder");
        }
    }

    /// Restores etcd from a snapshot that was saved before.
    pub fn restore_etcd(&mut self, snapshot: &Path) {
        assert!(self.etcd.is_none(), "etcd is dead meanwhile");
        let data = self.plan.dir.join("etcd");
        fs::remove_dir_all(&data).expect("etcd's data");
        let mut command = self.wire.command("etcdctl");
        command
            .env("ETCDCTL_API", "3")
            .args(["snapshot", "restore"])
            .arg(snapshot)
            .arg("--data-dir")
            .arg(&data);
        let said = say(&mut command);
        assert!(said.ok(), "{said:?}");
    }

    /// Kills etcd; its data stays.
    pub fn kill_etcd(&mut self) {
        self.etcd = None;
    }

    /// The id of etcd's process.
    pub fn etcd_id(&self) -> u32 {
        self.etcd.as_ref().map_or(0, Process::id)
    }

    /// A host by its number, from 1.
    pub fn h(&self, i: usize) -> &Host {
        &self.hosts[i - 1]
    }

    /// The same, to be changed.
    pub fn host(&mut self, i: usize) -> &mut Host {
        &mut self.hosts[i - 1]
    }

    /// A fresh container, attached to nothing.
    pub fn container(&self) -> Namespace {
        let n = self.made.fetch_add(1, Ordering::Relaxed);
        Namespace::new(&format!("{}-c{n}", self.plan.prefix))
    }

    /// A fresh container of a host on a network.
    #[track_caller]
    pub fn attached(&self, host: usize, network: &str) -> (Namespace, Vec<IpAddr>) {
        let container = self.container();
        let addresses = self.h(host).attach(&container, network, &[]);
        (container, addresses)
    }

    /// A machine on the wire that is no node: an outsider, with the addresses
    /// 192.0.2.200 and 2001:db8::200.
    pub fn outsider(&self) -> Namespace {
        let outside = self.container();
        let wire = self.wire.name();
        sh(&format!(
            "ip link add {UPLINK} mtu {} netns {} type veth peer name out netns {wire}",
            self.plan.mtu,
            outside.name()
        ));
        self.wire.sh("ip link set out master br0 up");
        outside.sh(&format!("ip link set {UPLINK} up"));
        outside.sh(&format!("ip addr add 192.0.2.200/24 dev {UPLINK}"));
        outside.sh(&format!("ip addr add 2001:db8::200/64 dev {UPLINK} nodad"));
        outside
    }

    /// Leaves everything running, and returns the ids of its processes.
    pub fn release(mut self) -> Vec<u32> {
        let mut ids: Vec<u32> = std::mem::take(&mut self.hosts).into_iter().map(Host::release).collect();
        if let Some(etcd) = self.etcd.take() {
            ids.push(etcd.id());
            etcd.release();
        }
        self.wire.keep();
        self.plan.dir = PathBuf::new();
        ids
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if self.plan.dir.as_os_str().is_empty() {
            return;
        }
        if std::thread::panicking() {
            for host in &self.hosts {
                eprintln!("---- {}'s agent ----\n{}", host.name, host.log());
            }
        }
        for host in &mut self.hosts {
            // Docker ends first: it calls the agent for each of its containers.
            host.engine = None;
            host.kill();
        }
        self.etcd = None;
        remove_pins(&self.plan.bpffs);
        drop(fs::remove_dir_all(&self.plan.dir));
    }
}

/// Removes a folder of pins; bpffs knows no recursion of its own.
pub fn remove_pins(dir: &Path) {
    let mut remove = Command::new("find");
    remove
        .arg(dir)
        .args(["-depth", "(", "-type", "f", "-delete", "-o", "-type", "d", "-exec", "rmdir", "{}", ";", ")"]);
    drop(say(&mut remove));
}
