//! A container as far as its network goes: a namespace.

use std::{
    net::IpAddr,
    path::{Path, PathBuf},
    process::Command,
};

use crate::process::{Process, Said, say, sh};

/// A named network namespace.
pub struct Namespace {
    name: String,
    keep: bool,
}

impl Namespace {
    /// Makes one, with its loopback up.
    pub fn new(name: &str) -> Self {
        sh(&format!("ip netns add {name}"));
        sh(&format!("ip -n {name} link set lo up"));
        Self { name: name.into(), keep: false }
    }

    /// A handle that does not remove the namespace when it is dropped.
    pub fn existing(name: &str) -> Self {
        Self { name: name.into(), keep: true }
    }

    /// Handles of all whose names begin so.
    pub fn starting_with(prefix: &str) -> Vec<Self> {
        let list = sh("ip netns list");
        let names = list.lines().filter_map(|line| line.split_whitespace().next());
        names.filter(|name| name.starts_with(prefix)).map(Self::existing).collect()
    }

    /// Gives the network namespace of a process a name.
    pub fn of_process(name: &str, pid: u32) -> Self {
        sh(&format!("ip netns attach {name} {pid}"));
        Self { name: name.into(), keep: false }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where it is.
    pub fn path(&self) -> PathBuf {
        Path::new("/run/netns").join(&self.name)
    }

    /// A command inside. Mounts stay as they are outside.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.path().display())).arg(program);
        command
    }

    /// Runs a command of words inside, to its end.
    pub fn run(&self, line: &str) -> Said {
        let mut words = line.split_whitespace();
        let program = words.next().expect("a command");
        say(self.command(program).args(words))
    }

    /// The same for a command that has to succeed.
    #[track_caller]
    pub fn sh(&self, line: &str) -> String {
        let said = self.run(line);
        assert!(said.ok(), "{}: {line}: {said:?}", self.name);
        said.out
    }

    /// Sets a kernel switch inside.
    pub fn sysctl(&self, name: &str, value: &str) {
        let path = format!("/proc/sys/{}", name.replace('.', "/"));
        let line = format!("echo {value} > {path}");
        let said = say(self.command("sh").args(["-c", &line]));
        assert!(said.ok(), "{}: {line}: {said:?}", self.name);
    }

    /// Starts a command of words inside.
    pub fn start(&self, line: &str, log: &Path) -> Process {
        let mut words = line.split_whitespace();
        let mut command = self.command(words.next().expect("a command"));
        command.args(words);
        Process::start(command, log, true)
    }

    /// Whether each of the first `count` echoes to an address comes back, however late. Use
    /// [`Self::reaches`] if the echo is expected to fail, or is retried.
    pub fn pings(&self, addr: IpAddr, count: u32) -> bool {
        self.pings_with("", addr, count)
    }

    /// The same with more flags of ping's.
    pub fn pings_with(&self, flags: &str, addr: IpAddr, count: u32) -> bool {
        // Without a deadline ping waits for the last ones hardly longer than for those before,
        // and succeeds if any came back. With one it sends more than `count` until as many did.
        let said = self.run(&format!("ping -n {flags} -c {count} -i 0.05 -w 30 {addr}"));
        let answered = |seq: u32| said.out.contains(&format!("icmp_seq={seq} ttl="));
        let all = said.ok() && (1..=count).all(answered);
        if !all {
            eprintln!("{} to {addr}, {count} echoes: {said:?}", self.name);
        }
        all
    }

    /// Whether one echo comes back within a second.
    pub fn reaches(&self, addr: IpAddr) -> bool {
        self.run(&format!("ping -n -q -c 1 -W 1 {addr}")).ok()
    }

    /// The MTU that the kernel has learnt for a destination.
    pub fn path_mtu(&self, addr: IpAddr) -> Option<u32> {
        let said = self.run(&format!("ip route get {addr}")).out;
        let mut words = said.split_whitespace().skip_while(|word| *word != "mtu");
        words.nth(1).and_then(|mtu| mtu.parse().ok())
    }

    /// Lets it outlive this value.
    pub fn keep(&mut self) {
        self.keep = true;
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if !self.keep {
            drop(say(Command::new("ip").args(["netns", "del", &self.name])));
        }
    }
}
