//! A host of the lab: a namespace with an uplink, an agent, its folders.

use std::{
    net::IpAddr,
    path::{Path, PathBuf},
    process::Command,
};

use margay::kernel::pins::Pins;
use margay_common::maps::Map;
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::{
    container::Namespace,
    engine::Engine,
    eventually::eventually,
    process::{Process, Said, say},
};

/// The uplink of every host.
pub const UPLINK: &str = "up0";
/// The error of an agent that could not serve a request in time.
const BUSY: &str = "the kernel or the store did not finish this within";

/// A host.
pub struct Host {
    /// Its name, and its node's.
    pub name: String,
    /// Its namespace.
    pub namespace: Namespace,
    /// Its addresses on the underlay.
    pub addresses: Vec<IpAddr>,
    /// Flags that its agent is started with, besides its own.
    pub flags: Vec<String>,
    pub(crate) dir: PathBuf,
    pub(crate) bpffs: PathBuf,
    /// Whether its agent runs without flags for node and uplink, and detects both.
    pub bare: bool,
    /// Whether its agent uses Docker's default plugin path: at most one host of a machine.
    pub usual: bool,
    /// Whether its agent masquerades.
    pub masquerade: bool,
    /// Where its agent finds the store.
    pub store: String,
    /// A folder of programs that its agent finds before those of this machine.
    pub programs: Option<PathBuf>,
    /// The agent's executable.
    pub program: PathBuf,
    /// Its Docker Engine.
    pub engine: Option<Engine>,
    agent: Option<Process>,
    bound: bool,
}

/// The binary under test: beside this one, or beside its folder.
pub fn margay() -> PathBuf {
    let here = std::env::current_exe().expect("a path");
    let found = here.ancestors().skip(1).map(|dir| dir.join("margay")).find(|path| path.is_file());
    found.expect("the agent is built before the tests: run them by cargo xtask")
}

/// The same with another layout of one map, `ROUTES`; none where it was not built.
pub fn other_layout() -> Option<PathBuf> {
    Some(margay().with_file_name("margay-other-layout")).filter(|path| path.is_file())
}

impl Host {
    pub(crate) fn new(
        name: &str,
        namespace: Namespace,
        addresses: Vec<IpAddr>,
        dir: PathBuf,
        bpffs: PathBuf,
        store: String,
        bound: bool,
    ) -> Self {
        std::fs::create_dir_all(&dir).expect("a folder");
        Self {
            name: name.into(),
            namespace,
            addresses,
            flags: Vec::new(),
            dir,
            bpffs,
            store,
            bare: false,
            usual: false,
            masquerade: false,
            programs: None,
            program: margay(),
            engine: None,
            agent: None,
            bound,
        }
    }

    /// Sets the uplink up, with the host's addresses.
    pub(crate) fn set_up_uplink(&self) {
        self.namespace.sh(&format!("ip link set {UPLINK} up"));
        for addr in &self.addresses {
            match addr {
                IpAddr::V4(addr) => self.namespace.sh(&format!("ip addr add {addr}/24 dev {UPLINK}")),
                IpAddr::V6(addr) => self.namespace.sh(&format!("ip addr add {addr}/64 dev {UPLINK} nodad")),
            };
        }
    }

    /// Where a map of the agent's is pinned.
    pub fn pin(&self, map: &Map) -> PathBuf {
        Pins::at(&self.bpffs).map(map)
    }

    /// Where the agent pins what it has.
    pub fn bpffs(&self) -> &Path {
        &self.bpffs
    }

    /// The agent's socket.
    pub fn socket(&self) -> PathBuf {
        self.dir.join("run/agent.sock")
    }

    /// The socket of the agent that Docker calls.
    pub fn plugin(&self) -> PathBuf {
        self.dir.join("run/docker.sock")
    }

    /// Starts this host's Docker Engine.
    pub fn start_docker(&mut self, flags: &[&str]) {
        let (dir, plugin) = (self.dir.join("docker"), self.plugin());
        let plugin = (!self.usual).then_some(plugin);
        self.engine = Some(Engine::start(&self.namespace, &dir, plugin.as_deref(), flags, self.bound));
    }

    /// This host's Docker Engine.
    pub fn engine(&self) -> &Engine {
        self.engine.as_ref().expect("docker runs")
    }

    /// The same, to be changed.
    pub fn engine_mut(&mut self) -> &mut Engine {
        self.engine.as_mut().expect("docker runs")
    }

    /// Runs a docker command of words on this host.
    pub fn try_docker(&self, line: &str) -> Said {
        self.engine().docker(&line.split_whitespace().collect::<Vec<_>>())
    }

    /// The same for a command that has to succeed.
    #[track_caller]
    pub fn docker(&self, line: &str) -> String {
        let said = self.try_docker(line);
        assert!(said.ok(), "{}: docker {line}: {}", self.name, said.err);
        said.out.trim().to_owned()
    }

    /// The same for a command that has to be refused: its reason.
    #[track_caller]
    pub fn docker_refuses(&self, line: &str) -> String {
        let said = self.try_docker(line);
        assert!(!said.ok(), "{}: docker {line}: {said:?}", self.name);
        said.err
    }

    /// The flags of this host's own agent.
    pub fn own_flags(&self) -> Vec<String> {
        let mut flags = vec!["agent".into(), "--node".into(), self.name.clone()];
        let path = |path: PathBuf| path.display().to_string();
        if !self.bare {
            for addr in &self.addresses {
                flags.extend(["--node-ip".into(), addr.to_string()]);
            }
            flags.extend(["--uplink".into(), UPLINK.into(), "--store".into(), self.store.clone()]);
        }
        flags.extend(["--state-dir".into(), path(self.dir.join("state"))]);
        flags.extend(["--run-dir".into(), path(self.dir.join("run"))]);
        flags.extend(["--bpffs".into(), path(self.bpffs.clone())]);
        let (plugin, api) = (path(self.plugin()), path(self.dir.join("docker/docker.sock")));
        if !self.usual {
            flags.extend(["--docker-plugin".into(), plugin]);
        }
        flags.extend(["--docker-socket".into(), api]);
        if !self.masquerade {
            flags.extend(["--masquerade".into(), "off".into()]);
        }
        if let Some(device) = self.usual_device() {
            flags.extend(["--container-device".into(), device]);
        }
        flags.extend(self.flags.clone());
        flags
    }

    /// Starts the agent and waits until its socket answers.
    pub fn start(&mut self) {
        let mut command = self.namespace.command(&self.program);
        command.args(self.own_flags()).env("MARGAY_LOG", "info");
        if let Some(programs) = &self.programs {
            let path = std::env::var("PATH").unwrap_or_default();
            command.env("PATH", format!("{}:{path}", programs.display()));
        }
        self.agent = Some(Process::start(command, &self.dir.join("agent.log"), self.bound));
        eventually("the agent answers", || {
            let ended = self.agent.as_mut().and_then(Process::ended);
            assert!(ended.is_none(), "{}'s agent ended: {}", self.name, self.log());
            // What is wrong with it is another matter.
            let said = self.margay(&["pool", "ls"]);
            if said.ok() { Ok(()) } else { Err(said) }
        });
    }

    /// Starts the agent and waits until it is in sync and joined.
    pub fn up(&mut self) {
        self.start();
        self.settled();
        if let Some(device) = self.usual_device() {
            assert_eq!(self.json(&["status"])["container_device"], device, "what containers get");
        }
    }

    /// The kind of device for containers, unless a test sets it.
    fn usual_device(&self) -> Option<String> {
        let device = std::env::var("MARGAY_TEST_CONTAINER_DEVICE").ok()?;
        (!self.flags.iter().any(|flag| flag == "--container-device")).then_some(device)
    }

    /// Waits until the agent is in sync and has joined, and the cluster knows this node as it is.
    pub fn settled(&self) {
        eventually("the agent is in sync and has joined", || {
            let status = self.json(&["status"]);
            let nodes = self.json(&["node", "ls"]);
            let known = nodes.as_array().expect("a list").iter().any(|node| self.is(node));
            let attached = status["attachments"].as_array().expect("a list").len() >= 2;
            // The node's key and its lease may be what the agent before this one left.
            let joined = !status["problems"].to_string().contains("has not joined");
            let in_sync = status["store"]["in_sync"] == true;
            if in_sync && joined && known && attached { Ok(()) } else { Err((status, nodes)) }
        });
    }

    /// Whether a node of a listing is this host, alive and with its addresses. A bare host's
    /// addresses are not compared, since its agent chooses them.
    fn is(&self, node: &Value) -> bool {
        let addresses = self.bare || node["addresses"] == json!(self.addresses);
        node["name"] == *self.name && node["healthy"] == true && addresses
    }

    /// Waits until nothing is wrong; what the agent's status says then.
    #[track_caller]
    pub fn well(&self) -> Said {
        eventually("all is well", || {
            let said = self.margay(&["status"]);
            if said.ok() { Ok(said) } else { Err(said) }
        })
    }

    /// The agent's process.
    pub fn agent(&mut self) -> &mut Process {
        self.agent.as_mut().expect("the agent runs")
    }

    /// The id of the agent's process.
    pub fn agent_id(&self) -> u32 {
        self.agent.as_ref().map_or(0, Process::id)
    }

    /// The agent's log.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.join("agent.log")).unwrap_or_default()
    }

    /// Ends the agent as an operator would.
    pub fn stop(&mut self) {
        if let Some(mut agent) = self.agent.take() {
            agent.signal(Signal::SIGTERM);
            assert!(agent.wait().success(), "{}", agent.log());
        }
    }

    /// Kills the agent.
    pub fn kill(&mut self) {
        if let Some(mut agent) = self.agent.take() {
            agent.kill();
        }
    }

    /// Lets the agent live on without this value.
    pub fn release(mut self) -> u32 {
        self.namespace.keep();
        let agent = self.agent.take().expect("the agent runs");
        let id = agent.id();
        agent.release();
        id
    }

    /// Runs `margay cleanup` on this host, with these flags besides its folders.
    pub fn cleanup(&self, more: &[&str]) -> Said {
        let path = |path: PathBuf| path.display().to_string();
        let (state, run) = (path(self.dir.join("state")), path(self.dir.join("run")));
        let bpffs = path(self.bpffs.clone());
        let folders = ["cleanup", "--bpffs", &bpffs, "--state-dir", &state, "--run-dir", &run];
        self.margay(&[&folders[..], more].concat())
    }

    /// Runs a margay command against this host's agent.
    pub fn margay(&self, args: &[&str]) -> Said {
        say(self.command().args(args))
    }

    fn command(&self) -> Command {
        let mut command = self.namespace.command(margay());
        command.arg("--socket").arg(self.socket());
        command
    }

    /// The same for a command that has to succeed.
    #[track_caller]
    pub fn ok(&self, args: &[&str]) -> String {
        let said = self.margay(args);
        assert!(said.ok(), "{}: margay {}: {}", self.name, args.join(" "), said.err);
        said.out
    }

    /// The same for a command that has to be refused: its reason.
    #[track_caller]
    pub fn refused(&self, args: &[&str]) -> String {
        let said = self.margay(args);
        assert_eq!(said.status, 1, "{}: margay {}: {said:?}", self.name, args.join(" "));
        said.err
    }

    /// What a listing says, as JSON. An agent that is too busy for it is asked again.
    #[track_caller]
    pub fn json(&self, args: &[&str]) -> Value {
        let said = eventually("the agent comes to it", || {
            let said = self.margay(&[args, &["-o", "json"]].concat());
            if said.err.contains(BUSY) { Err(said) } else { Ok(said) }
        });
        serde_json::from_str(&said.out)
            .unwrap_or_else(|error| panic!("margay {}: {error}: {said:?}", args.join(" ")))
    }

    /// Packets that a program counted under a label.
    #[track_caller]
    pub fn count(&self, program: &str, reason: &str) -> u64 {
        let counters = self.json(&["counters"]);
        let found = counters
            .as_array()
            .expect("a list")
            .iter()
            .find(|c| c["program"] == program && c["reason"] == reason);
        found.and_then(|c| c["packets"].as_u64()).unwrap_or_else(|| panic!("no counter {program} {reason}"))
    }

    /// Attaches a namespace, and gives its addresses.
    #[track_caller]
    pub fn attach(&self, namespace: &Namespace, network: &str, more: &[&str]) -> Vec<IpAddr> {
        let path = namespace.path().display().to_string();
        let args = ["endpoint", "attach", "--network", network, "--netns", &path, "-o", "json"];
        let made = self.ok(&[&args[..], more].concat());
        addresses(&made)
    }

    /// Detaches a namespace's `eth0`.
    #[track_caller]
    pub fn detach(&self, namespace: &Namespace) {
        self.ok(&["endpoint", "detach", "--netns", &namespace.path().display().to_string()]);
    }

    /// The folder of its files.
    pub fn dir(&self) -> &Path {
        &self.dir
    }
}

/// The addresses in what `endpoint attach -o json` prints.
fn addresses(made: &str) -> Vec<IpAddr> {
    let made: Value = serde_json::from_str(made).expect("JSON");
    let list = made[0]["addresses"].as_array().expect("addresses");
    list.iter().map(|addr| addr.as_str().and_then(|a| a.parse().ok()).expect("an address")).collect()
}
