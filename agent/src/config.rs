//! The agent's settings: flags first, then the file.

use std::{
    collections::BTreeMap,
    fmt,
    io::ErrorKind,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use clap::Args;
use nix::unistd::{Group, User};
use serde::Deserialize;

use crate::{
    api::server::Access,
    kernel::{attach::TcMode, device, xdp},
    model::check::{is_name, is_underlay},
    store::{
        Store,
        embedded::Embedded,
        etcd::{self, Etcd},
    },
};

/// Where the units have settings, if there are any.
pub const CONFIG: &str = "/etc/margay/agent.toml";
/// Where the agent's socket is, unless said otherwise.
pub const RUN_DIR: &str = "/run/margay";
/// Where the agent keeps its journal.
pub const STATE_DIR: &str = "/var/lib/margay";
/// Where programs, maps and links are pinned.
pub const BPFFS_DIR: &str = "/sys/fs/bpf/margay";
/// Where Docker looks for a plugin of our name.
const DOCKER_PLUGIN: &str = "/run/docker/plugins/margay.sock";
/// Where Docker's API is.
const DOCKER_SOCKET: &str = "/var/run/docker.sock";
/// When what Docker asked for and did not use is taken back, in seconds.
const DOCKER_PATIENCE: u64 = 60;
/// The socket's name in the run folder.
pub const SOCKET: &str = "agent.sock";

/// How long a freed address rests, in seconds.
const ADDRESS_REST: u64 = 30;
/// When an empty block goes back, in seconds.
const BLOCK_IDLE: u64 = 600;

/// Where the store is, as flags and, with `_`, as keys of the file.
#[derive(Args, Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct StoreSettings {
    /// etcd://HOST:PORT[,HOST:PORT]..., or embedded[:DIR] for a single host
    /// [default: embedded, below the state folder]
    #[arg(long, value_name = "URL")]
    pub store: Option<String>,
    /// CA of etcd's certificates; turns TLS on
    #[arg(long, value_name = "FILE")]
    pub etcd_ca: Option<PathBuf>,
    /// Client certificate for etcd
    #[arg(long, value_name = "FILE")]
    pub etcd_cert: Option<PathBuf>,
    /// Key of the client certificate
    #[arg(long, value_name = "FILE")]
    pub etcd_key: Option<PathBuf>,
    /// Name of the etcd user
    #[arg(long, value_name = "NAME")]
    pub etcd_user: Option<String>,
    /// File with the etcd user's password
    #[arg(long, value_name = "FILE")]
    pub etcd_password_file: Option<PathBuf>,
}

/// Settings of the agent as flags and, with `_`, as keys of the file.
#[derive(Args, Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Settings {
    /// This node's name, unique in the cluster [default: the host's name]
    #[arg(long, value_name = "NAME")]
    pub node: Option<String>,
    /// This node's address on the underlay, once for each family [default: the uplink's]
    #[arg(long, value_name = "ADDR")]
    pub node_ip: Vec<IpAddr>,
    /// Interface towards the other nodes [default: the interface of the default route]
    #[arg(long, value_name = "IFACE")]
    pub uplink: Option<String>,
    /// The store.
    #[command(flatten)]
    #[serde(flatten)]
    pub store: StoreSettings,
    /// Folder of the journal and the embedded store [default: /var/lib/margay]
    #[arg(long, value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
    /// Folder of the agent's socket, agent.sock [default: /run/margay]
    #[arg(long, value_name = "DIR")]
    pub run_dir: Option<PathBuf>,
    /// Folder on a BPF file system for programs, maps and links [default: /sys/fs/bpf/margay]
    #[arg(long, value_name = "DIR")]
    pub bpffs: Option<PathBuf>,
    /// Kind of interface for new containers [default: veth]
    #[arg(long, value_name = "KIND")]
    pub container_device: Option<device::Wanted>,
    /// Way to attach the programs [default: tcx if the kernel has it, else clsact]
    #[arg(long, value_name = "MODE")]
    pub tc_mode: Option<TcMode>,
    /// Log dropped packets from the start; `margay log datapath on|off` switches it later
    #[arg(long)]
    pub datapath_log: bool,
    /// Attach an XDP program to the uplink [default: auto]
    #[arg(long, value_name = "MODE")]
    pub xdp: Option<xdp::Wanted>,
    /// Let TCP use super-packets above 64 KiB, in containers and on the uplink (BIG TCP)
    #[arg(long)]
    pub big_tcp: bool,
    /// Seconds before a freed address is reused while others are free [default: 30]
    #[arg(long, value_name = "SECONDS")]
    pub address_rest: Option<u64>,
    /// Seconds after which a node returns an empty block [default: 600]
    #[arg(long, value_name = "SECONDS")]
    pub block_idle: Option<u64>,
    /// Masquerade containers as the host when they send outside, unless their network is
    /// internal or routable [default: on]
    #[arg(long, value_name = "WHETHER")]
    pub masquerade: Option<Switch>,
    /// Address and port to serve metrics on over HTTP, at /metrics; the socket always serves them
    #[arg(long, value_name = "ADDR:PORT")]
    pub metrics: Option<SocketAddr>,
    /// Owner of the socket [default: the agent's user]
    #[arg(long, value_name = "USER")]
    pub socket_owner: Option<String>,
    /// Group of the socket [default: the agent's group]
    #[arg(long, value_name = "GROUP")]
    pub socket_group: Option<String>,
    /// Permissions of the socket, octal [default: 600, or 660 with --socket-group]
    #[arg(long, value_name = "MODE")]
    pub socket_mode: Option<String>,
    /// Socket of the plugin that Docker calls, or `off`
    /// [default: /run/docker/plugins/margay.sock, where Docker looks]
    #[arg(long, value_name = "PATH")]
    pub docker_plugin: Option<PathBuf>,
    /// Socket of this host's Docker API [default: /var/run/docker.sock]
    #[arg(long, value_name = "PATH")]
    pub docker_socket: Option<PathBuf>,
    /// Seconds after which the agent takes back addresses and subnets that Docker requested and
    /// did not use [default: 60]
    #[arg(long, value_name = "SECONDS")]
    pub docker_patience: Option<u64>,
    /// Format of the log [default: text]
    #[arg(long, value_name = "FORMAT")]
    pub log: Option<LogFormat>,
    /// Keys of the file that are no settings.
    #[arg(skip)]
    #[serde(flatten)]
    pub unknown: BTreeMap<String, toml::Value>,
}

/// On or off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Switch {
    /// On.
    On,
    /// Off.
    Off,
}

/// How the log is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object in a line.
    Json,
}

/// Where the store is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreAt {
    /// In etcd.
    Etcd(etcd::Options),
    /// In a folder of this host.
    Embedded(PathBuf),
}

/// The settings, complete and checked.
#[derive(Clone, Debug)]
pub struct Config {
    /// This node's name.
    pub node: String,
    /// This node's addresses; empty to take them from the uplink.
    pub addresses: Vec<IpAddr>,
    /// The interface towards the other nodes; found out if not said.
    pub uplink: Option<String>,
    /// Where the store is.
    pub store: StoreAt,
    /// Folder of the journal.
    pub state_dir: PathBuf,
    /// Folder of the socket.
    pub run_dir: PathBuf,
    /// Folder of the pins.
    pub bpffs: PathBuf,
    /// What interfaces new containers get.
    pub container_device: device::Wanted,
    /// How programs are attached; probed if not said.
    pub tc_mode: Option<TcMode>,
    /// Whether the programs log drops.
    pub datapath_log: bool,
    /// Whether the uplink gets an XDP program.
    pub xdp: xdp::Wanted,
    /// Whether super-packets may be above 64 KiB.
    pub big_tcp: bool,
    /// Seconds that a freed address rests.
    pub address_rest: u64,
    /// Seconds after which an empty block goes back.
    pub block_idle: u64,
    /// Whether containers are masqueraded.
    pub masquerade: bool,
    /// Where metrics are served besides the socket.
    pub metrics: Option<SocketAddr>,
    /// Who may use the socket.
    pub access: Access,
    /// Docker's way to the agent and back, unless it is switched off.
    pub docker: Option<DockerAt>,
}

/// Docker's way to the agent and back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DockerAt {
    /// Socket of the plugin.
    pub plugin: PathBuf,
    /// Whether somebody named it: a usual place that cannot be used is no
    /// reason not to start.
    pub asked: bool,
    /// Socket of Docker's API.
    pub api: PathBuf,
    /// How long what Docker asked for may go unused.
    pub patience: Duration,
}

impl StoreAt {
    /// Opens the store.
    pub fn open(&self) -> Result<Arc<dyn Store>> {
        Ok(match self {
            Self::Etcd(options) => Arc::new(Etcd::new(options)?),
            Self::Embedded(dir) => Arc::new(Embedded::open(dir)?),
        })
    }
}

impl fmt::Display for StoreAt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Etcd(options) => write!(f, "etcd at {}", options.endpoints.join(", ")),
            Self::Embedded(dir) => write!(f, "embedded in {}", dir.display()),
        }
    }
}

impl StoreSettings {
    fn or(self, file: Self) -> Self {
        Self {
            store: self.store.or(file.store),
            etcd_ca: self.etcd_ca.or(file.etcd_ca),
            etcd_cert: self.etcd_cert.or(file.etcd_cert),
            etcd_key: self.etcd_key.or(file.etcd_key),
            etcd_user: self.etcd_user.or(file.etcd_user),
            etcd_password_file: self.etcd_password_file.or(file.etcd_password_file),
        }
    }

    /// Checks the settings; the embedded store lies below the state folder
    /// unless said otherwise.
    pub fn check(self, state_dir: &Path) -> Result<StoreAt> {
        let embedded = || state_dir.join("store");
        match self.store.as_deref() {
            None | Some("embedded") => Ok(StoreAt::Embedded(embedded())),
            Some(url) => match url.strip_prefix("embedded:") {
                Some("") => bail!("store {url:?}: name the folder, or use `embedded` alone"),
                Some(dir) => Ok(StoreAt::Embedded(dir.into())),
                None => Ok(StoreAt::Etcd(etcd::Options {
                    endpoints: endpoints(url)?,
                    ca: self.etcd_ca,
                    cert: self.etcd_cert,
                    key: self.etcd_key,
                    user: self.etcd_user,
                    password_file: self.etcd_password_file,
                })),
            },
        }
    }
}

impl Settings {
    /// Fills in from a file what the flags leave open. The usual file need not be there.
    pub fn or_file(self, path: Option<&Path>) -> Result<Self> {
        let Some(path) = path else { return Ok(self) };
        let text = match std::fs::read_to_string(path) {
            Err(error) if error.kind() == ErrorKind::NotFound && path == Path::new(CONFIG) => {
                return Ok(self);
            }
            text => text.with_context(|| format!("settings in {}", path.display()))?,
        };
        let file = read(&text).with_context(|| format!("{}", path.display()))?;
        Ok(self.or(file))
    }

    fn or(self, file: Self) -> Self {
        Self {
            node: self.node.or(file.node),
            node_ip: if self.node_ip.is_empty() { file.node_ip } else { self.node_ip },
            uplink: self.uplink.or(file.uplink),
            store: self.store.or(file.store),
            state_dir: self.state_dir.or(file.state_dir),
            run_dir: self.run_dir.or(file.run_dir),
            bpffs: self.bpffs.or(file.bpffs),
            container_device: self.container_device.or(file.container_device),
            tc_mode: self.tc_mode.or(file.tc_mode),
            datapath_log: self.datapath_log || file.datapath_log,
            xdp: self.xdp.or(file.xdp),
            big_tcp: self.big_tcp || file.big_tcp,
            address_rest: self.address_rest.or(file.address_rest),
            block_idle: self.block_idle.or(file.block_idle),
            masquerade: self.masquerade.or(file.masquerade),
            metrics: self.metrics.or(file.metrics),
            socket_owner: self.socket_owner.or(file.socket_owner),
            socket_group: self.socket_group.or(file.socket_group),
            socket_mode: self.socket_mode.or(file.socket_mode),
            docker_plugin: self.docker_plugin.or(file.docker_plugin),
            docker_socket: self.docker_socket.or(file.docker_socket),
            docker_patience: self.docker_patience.or(file.docker_patience),
            log: self.log.or(file.log),
            unknown: BTreeMap::new(),
        }
    }

    /// Checks the settings.
    pub fn check(self) -> Result<Config> {
        let access = self.access()?;
        let docker = self.docker();
        let node = match self.node {
            Some(node) => node,
            None => host_name()?,
        };
        if !is_name(&node) {
            bail!("node name {node:?}: use 1 to 63 letters, digits, '-', '_' and '.' (--node NAME)");
        }
        check_addresses(&self.node_ip)?;
        let state_dir = self.state_dir.unwrap_or_else(|| STATE_DIR.into());
        Ok(Config {
            node,
            access,
            metrics: self.metrics,
            addresses: self.node_ip,
            uplink: self.uplink,
            store: self.store.check(&state_dir)?,
            state_dir,
            run_dir: self.run_dir.unwrap_or_else(|| RUN_DIR.into()),
            bpffs: self.bpffs.unwrap_or_else(|| BPFFS_DIR.into()),
            container_device: self.container_device.unwrap_or_default(),
            tc_mode: self.tc_mode,
            datapath_log: self.datapath_log,
            xdp: self.xdp.unwrap_or_default(),
            big_tcp: self.big_tcp,
            address_rest: self.address_rest.unwrap_or(ADDRESS_REST),
            block_idle: self.block_idle.unwrap_or(BLOCK_IDLE),
            masquerade: self.masquerade != Some(Switch::Off),
            docker,
        })
    }
}

impl Settings {
    fn docker(&self) -> Option<DockerAt> {
        let named = self.docker_plugin.clone();
        if named.as_deref() == Some(Path::new("off")) {
            return None;
        }
        Some(DockerAt {
            asked: named.is_some(),
            plugin: named.unwrap_or_else(|| DOCKER_PLUGIN.into()),
            api: self.docker_socket.clone().unwrap_or_else(|| DOCKER_SOCKET.into()),
            patience: Duration::from_secs(self.docker_patience.unwrap_or(DOCKER_PATIENCE)),
        })
    }

    fn access(&self) -> Result<Access> {
        let owner = match &self.socket_owner {
            Some(name) => {
                let user =
                    User::from_name(name)?.with_context(|| format!("--socket-owner: no user {name}"))?;
                Some(user.uid)
            }
            None => None,
        };
        let group = match &self.socket_group {
            Some(name) => {
                let group =
                    Group::from_name(name)?.with_context(|| format!("--socket-group: no group {name}"))?;
                Some(group.gid)
            }
            None => None,
        };
        let usual = if group.is_some() { 0o660 } else { 0o600 };
        let mode = match &self.socket_mode {
            Some(text) => match u32::from_str_radix(text, 8) {
                Ok(mode) if mode <= 0o777 => mode,
                _ => bail!("--socket-mode {text:?}: use octal digits like 660"),
            },
            None => usual,
        };
        Ok(Access { owner, group, mode })
    }
}

/// A node's addresses are hosts', at most one of each family.
fn check_addresses(given: &[IpAddr]) -> Result<()> {
    if let Some(addr) = given.iter().find(|addr| !is_underlay(**addr)) {
        bail!("--node-ip {addr}: other nodes cannot send to this address; use one of the uplink's");
    }
    match *given {
        [] | [_] => Ok(()),
        [a, b] if a.is_ipv4() != b.is_ipv4() => Ok(()),
        [a, b, ..] => bail!("--node-ip {a} and {b}: a node has at most one address of each family"),
    }
}

/// Reads the file; a setting that nobody knows is a mistake.
fn read(text: &str) -> Result<Settings> {
    let settings: Settings = toml::from_str(text)?;
    if let Some(name) = settings.unknown.keys().next() {
        bail!("unknown setting {name}; margay agent --help lists the settings, with - for _");
    }
    Ok(settings)
}

fn endpoints(store: &str) -> Result<Vec<String>> {
    let Some(hosts) = store.strip_prefix("etcd://") else {
        bail!("store {store:?}: use etcd://HOST:PORT[,HOST:PORT]... or embedded[:DIR]");
    };
    let hosts: Vec<String> = hosts.trim_end_matches('/').split(',').map(str::to_owned).collect();
    for host in &hosts {
        let port = host.rsplit_once(':').and_then(|(name, port)| (!name.is_empty()).then_some(port));
        if port.is_none_or(|port| port.parse::<u16>().is_err()) {
            bail!("store {store:?}: {host:?} is not HOST:PORT");
        }
    }
    Ok(hosts)
}

fn host_name() -> Result<String> {
    let name = nix::unistd::gethostname().context("the host's name")?;
    Ok(name.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> Result<Settings> {
        read(text)
    }

    #[test]
    fn flags_win_over_the_file() {
        let flags = Settings { node: Some("flag".into()), ..Settings::default() };
        let merged = flags.or(file("node = 'file'\nuplink = 'up0'\nnode_ip = ['192.0.2.1']").expect("valid"));
        assert_eq!(merged.node.as_deref(), Some("flag"));
        assert_eq!(merged.uplink.as_deref(), Some("up0"));
        assert_eq!(merged.node_ip.len(), 1);
    }

    #[test]
    fn wrong_and_unknown_settings_are_refused_by_name() {
        let at = |url: &str| {
            let store = StoreSettings { store: Some(url.into()), ..StoreSettings::default() };
            Settings { node: Some("h1".into()), store, ..Settings::default() }
        };
        let etcd = etcd::Options { endpoints: vec!["a:1".into(), "b:2".into()], ..etcd::Options::default() };
        assert_eq!(at("etcd://a:1,b:2").check().expect("complete").store, StoreAt::Etcd(etcd));
        let refused = |settings: Settings| settings.check().expect_err("wrong").to_string();
        assert!(refused(at("http://a:1")).contains("etcd://"));
        assert!(refused(at("etcd://a")).contains("HOST:PORT"));
        assert!(refused(at("embedded:")).contains("folder"));
        assert!(refused(Settings { node: Some("a/b".into()), ..at("embedded") }).contains("--node"));
        for given in [&["127.0.0.1"][..], &["fe80::1"], &["192.0.2.1", "192.0.2.2"]] {
            let node_ip = given.iter().map(|addr| addr.parse().expect("a literal")).collect();
            assert!(refused(Settings { node_ip, ..at("embedded") }).contains(given[given.len() - 1]));
        }
        // Nobody's tests write the usual one.
        let usual: &Path = CONFIG.as_ref();
        assert!(usual.exists() || Settings::default().or_file(Some(usual)).is_ok());
        let missing = Settings::default().or_file(Some("/nonexistent/agent.toml".as_ref()));
        assert!(
            format!("{:#}", missing.expect_err("not the usual file")).contains("/nonexistent/agent.toml")
        );
        assert!(file("colour = 'blue'").expect_err("unknown").to_string().contains("colour"));
    }

    #[test]
    fn socket_belongs_to_root_unless_configured_otherwise() {
        let access = |owner: Option<&str>, mode: Option<&str>| {
            let (socket_owner, socket_mode) = (owner.map(str::to_owned), mode.map(str::to_owned));
            Settings { socket_owner, socket_mode, ..Settings::default() }.access()
        };
        assert_eq!(access(None, None).expect("usual"), Access { owner: None, group: None, mode: 0o600 });
        assert_eq!(access(Some("root"), Some("640")).expect("root exists").mode, 0o640);
        for (owner, mode, reason) in [(Some("no-such-user"), None, "no user"), (None, Some("9"), "octal")] {
            assert!(access(owner, mode).expect_err(reason).to_string().contains(reason));
        }
    }

    #[test]
    fn a_single_host_needs_no_setting() {
        let config =
            Settings { state_dir: Some("/s".into()), ..Settings::default() }.check().expect("complete");
        assert_eq!(config.store, StoreAt::Embedded("/s/store".into()));
        assert_eq!(config.uplink, None);
    }
}
