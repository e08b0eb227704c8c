//! An etcd of three members, each of which a test can break separately.

use std::fs;

use nix::sys::signal::Signal;

use crate::{
    container::Namespace,
    eventually::eventually,
    lab::Lab,
    process::{Process, Said, say, sh},
};

/// How many members there are.
pub const MEMBERS: usize = 3;

/// In what way a member is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Broken {
    /// Its process is dead; its host refuses connections.
    Killed,
    /// It is cut off from the other members, and has no leader.
    CutOff,
    /// It accepts connections and never answers.
    Hanging,
    /// It executes requests, and its answers are lost.
    Mute,
}

/// Every way to break a member.
pub const EVERY_WAY: [Broken; 4] = [Broken::Killed, Broken::CutOff, Broken::Hanging, Broken::Mute];

/// The members, on the wire of a lab.
pub struct Members {
    members: Vec<Member>,
}

struct Member {
    namespace: Namespace,
    process: Option<Process>,
}

fn address(k: usize) -> String {
    format!("192.0.2.{}", 240 + k)
}

impl Members {
    /// Starts them; the lab's hosts are to use them.
    pub fn start(lab: &mut Lab) -> Self {
        let namespaces = (0..MEMBERS).map(|k| {
            let namespace = Namespace::new(&format!("{}-e{k}", lab.plan.prefix));
            let (inner, wire) = (namespace.name(), lab.wire.name());
            sh(&format!("ip link add eth0 netns {inner} type veth peer name e{k} netns {wire}"));
            lab.wire.sh(&format!("ip link set e{k} master br0 up"));
            namespace.sh("ip link set eth0 up");
            namespace.sh(&format!("ip addr add {}/24 dev eth0", address(k)));
            Member { namespace, process: None }
        });
        let mut members = Self { members: namespaces.collect() };
        (0..MEMBERS).for_each(|k| members.run(lab, k));
        members.agree(lab, &[0, 1, 2]);
        let all: Vec<String> = (0..MEMBERS).map(|k| format!("{}:2379", address(k))).collect();
        for host in &mut lab.hosts {
            host.store = format!("etcd://{}", all.join(","));
        }
        members
    }

    fn run(&mut self, lab: &Lab, k: usize) {
        let all: Vec<String> = (0..MEMBERS).map(|k| format!("m{k}=http://{}:2380", address(k))).collect();
        let (client, peer) = (format!("http://{}:2379", address(k)), format!("http://{}:2380", address(k)));
        let data = lab.plan.dir.join(format!("etcd{k}"));
        let mut command = self.members[k].namespace.command("etcd");
        command
            .args(["--name", &format!("m{k}"), "--data-dir"])
            .arg(&data)
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &all.join(",")])
            .args(["--unsafe-no-fsync", "--log-level", "error"]);
        fs::create_dir_all(&lab.plan.dir).expect("a folder");
        let log = lab.plan.dir.join(format!("etcd{k}.log"));
        self.members[k].process = Some(Process::start(command, &log, lab.plan.bound));
    }

    /// Runs etcdctl against some members.
    pub fn etcdctl(&self, lab: &Lab, members: &[usize], args: &[&str]) -> Said {
        let endpoints: Vec<String> = members.iter().map(|k| format!("http://{}:2379", address(*k))).collect();
        let mut command = lab.wire.command("etcdctl");
        command.env("ETCDCTL_API", "3").arg("--endpoints").arg(endpoints.join(","));
        say(command.args(args))
    }

    /// Waits until each of some members answers, and they agree on what is written.
    pub fn agree(&self, lab: &Lab, members: &[usize]) {
        eventually("etcd answers", || {
            let said = self.etcdctl(lab, members, &["endpoint", "health"]);
            if said.ok() { Ok(()) } else { Err(said) }
        });
    }

    /// Breaks a member.
    pub fn break_one(&mut self, k: usize, how: Broken) {
        let member = &mut self.members[k];
        match how {
            Broken::Killed => member.process = None,
            Broken::Hanging => member.signal(Signal::SIGSTOP),
            Broken::CutOff => member.drop_packets(&["dport 2380", "sport 2380"]),
            Broken::Mute => member.drop_packets(&["sport 2379"]),
        }
    }

    /// Repairs a member.
    pub fn mend(&mut self, lab: &Lab, k: usize) {
        if self.members[k].process.is_none() {
            self.run(lab, k);
        }
        self.members[k].signal(Signal::SIGCONT);
        self.members[k].namespace.run("nft delete table inet cut");
        let running = (0..MEMBERS).filter(|k| self.members[*k].process.is_some());
        self.agree(lab, &running.collect::<Vec<_>>());
    }
}

impl Member {
    fn signal(&self, signal: Signal) {
        if let Some(process) = &self.process {
            process.signal(signal);
        }
    }

    fn drop_packets(&self, of: &[&str]) {
        self.namespace.sh("nft add table inet cut");
        for hook in ["input", "output"] {
            let chain = format!("add chain inet cut {hook} {{ type filter hook {hook} priority 0; }}");
            self.nft(&chain);
            for part in of {
                self.nft(&format!("add rule inet cut {hook} tcp {part} drop"));
            }
        }
    }

    fn nft(&self, command: &str) {
        let said = say(self.namespace.command("nft").arg(command));
        assert!(said.ok(), "{command}: {said:?}");
    }
}
