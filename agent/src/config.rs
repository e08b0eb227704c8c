//! The agent's settings: flags first, then the file.

use std::{net::IpAddr, path::PathBuf};

use anyhow::{Context, Result, bail};
use clap::Args;
use serde::Deserialize;

use crate::{kernel::attach::TcMode, store::etcd};

/// Where the agent's socket is, unless said otherwise.
pub const RUN_DIR: &str = "/run/margay";
/// Where the agent keeps its journal.
pub const STATE_DIR: &str = "/var/lib/margay";
/// Where programs, maps and links are pinned.
pub const BPFFS_DIR: &str = "/sys/fs/bpf/margay";
/// The socket's name in the run folder.
pub const SOCKET: &str = "agent.sock";

/// Settings of the agent as flags and, with `_`, as keys of the file.
#[derive(Args, Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// This node's name, unique in the cluster [default: the host's name]
    #[arg(long, value_name = "NAME")]
    pub node: Option<String>,
    /// This node's address on the underlay; once for each family
    #[arg(long, value_name = "ADDR")]
    pub node_ip: Vec<IpAddr>,
    /// The interface towards the other nodes
    #[arg(long, value_name = "IFACE")]
    pub uplink: Option<String>,
    /// etcd://HOST:PORT[,HOST:PORT]...
    #[arg(long, value_name = "URL")]
    pub store: Option<String>,
    /// Folder of the journal [default: /var/lib/margay]
    #[arg(long, value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
    /// Folder of the socket, agent.sock [default: /run/margay]
    #[arg(long, value_name = "DIR")]
    pub run_dir: Option<PathBuf>,
    /// Folder on a BPF file system for programs, maps and links [default: /sys/fs/bpf/margay]
    #[arg(long, value_name = "DIR")]
    pub bpffs: Option<PathBuf>,
    /// How programs are attached [default: tcx where the kernel has it]
    #[arg(long, value_name = "MODE")]
    pub tc_mode: Option<TcMode>,
    /// Have the programs log every drop
    #[arg(long)]
    pub datapath_log: bool,
    /// The CA of etcd's certificates; switches TLS on
    #[arg(long, value_name = "FILE")]
    pub etcd_ca: Option<PathBuf>,
    /// This client's certificate for etcd
    #[arg(long, value_name = "FILE")]
    pub etcd_cert: Option<PathBuf>,
    /// The key of that certificate
    #[arg(long, value_name = "FILE")]
    pub etcd_key: Option<PathBuf>,
    /// User at etcd
    #[arg(long, value_name = "NAME")]
    pub etcd_user: Option<String>,
    /// File with that user's password
    #[arg(long, value_name = "FILE")]
    pub etcd_password_file: Option<PathBuf>,
}

/// The settings, complete and checked.
#[derive(Clone, Debug)]
pub struct Config {
    /// This node's name.
    pub node: String,
    /// This node's addresses; empty to take them from the uplink.
    pub addresses: Vec<IpAddr>,
    /// The interface towards the other nodes.
    pub uplink: String,
    /// How to reach etcd.
    pub etcd: etcd::Options,
    /// Folder of the journal.
    pub state_dir: PathBuf,
    /// Folder of the socket.
    pub run_dir: PathBuf,
    /// Folder of the pins.
    pub bpffs: PathBuf,
    /// How programs are attached; probed if not said.
    pub tc_mode: Option<TcMode>,
    /// Whether the programs log drops.
    pub datapath_log: bool,
}

impl Settings {
    /// Fills in from a file what the flags leave open.
    pub fn or_file(self, path: Option<&PathBuf>) -> Result<Self> {
        let Some(path) = path else { return Ok(self) };
        let text = std::fs::read_to_string(path).with_context(|| format!("{}", path.display()))?;
        let file: Self = toml::from_str(&text).with_context(|| format!("{}", path.display()))?;
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
            tc_mode: self.tc_mode.or(file.tc_mode),
            datapath_log: self.datapath_log || file.datapath_log,
            etcd_ca: self.etcd_ca.or(file.etcd_ca),
            etcd_cert: self.etcd_cert.or(file.etcd_cert),
            etcd_key: self.etcd_key.or(file.etcd_key),
            etcd_user: self.etcd_user.or(file.etcd_user),
            etcd_password_file: self.etcd_password_file.or(file.etcd_password_file),
        }
    }

    /// Checks the settings.
    pub fn check(self) -> Result<Config> {
        let node = match self.node {
            Some(node) => node,
            None => host_name()?,
        };
        let plain = node.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
        if node.is_empty() || node.len() > 63 || !plain {
            bail!("node name {node:?}: use 1 to 63 letters, digits, '-', '_' and '.' (--node NAME)");
        }
        let Some(uplink) = self.uplink else {
            bail!("which interface leads to the other nodes? --uplink IFACE");
        };
        let Some(store) = self.store else {
            bail!("where is the cluster's etcd? --store etcd://HOST:PORT");
        };
        Ok(Config {
            node,
            addresses: self.node_ip,
            uplink,
            etcd: etcd::Options {
                endpoints: endpoints(&store)?,
                ca: self.etcd_ca,
                cert: self.etcd_cert,
                key: self.etcd_key,
                user: self.etcd_user,
                password_file: self.etcd_password_file,
            },
            state_dir: self.state_dir.unwrap_or_else(|| STATE_DIR.into()),
            run_dir: self.run_dir.unwrap_or_else(|| RUN_DIR.into()),
            bpffs: self.bpffs.unwrap_or_else(|| BPFFS_DIR.into()),
            tc_mode: self.tc_mode,
            datapath_log: self.datapath_log,
        })
    }
}

fn endpoints(store: &str) -> Result<Vec<String>> {
    let Some(hosts) = store.strip_prefix("etcd://") else {
        bail!("store {store:?}: use etcd://HOST:PORT, several with commas between");
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

    fn file(text: &str) -> Result<Settings, toml::de::Error> {
        toml::from_str(text)
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
    fn what_is_missing_or_wrong_is_named() {
        let base = || Settings {
            node: Some("h1".into()),
            uplink: Some("up0".into()),
            store: Some("etcd://a:1,b:2".into()),
            ..Settings::default()
        };
        assert_eq!(base().check().expect("complete").etcd.endpoints, ["a:1", "b:2"]);
        let refused = |settings: Settings| settings.check().expect_err("incomplete").to_string();
        assert!(refused(Settings { uplink: None, ..base() }).contains("--uplink"));
        assert!(refused(Settings { store: None, ..base() }).contains("--store"));
        assert!(refused(Settings { store: Some("http://a:1".into()), ..base() }).contains("etcd://"));
        assert!(refused(Settings { store: Some("etcd://a".into()), ..base() }).contains("HOST:PORT"));
        assert!(refused(Settings { node: Some("a/b".into()), ..base() }).contains("--node"));
        assert!(file("colour = 'blue'").expect_err("unknown").to_string().contains("colour"));
    }
}
