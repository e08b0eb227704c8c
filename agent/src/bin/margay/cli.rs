//! The command line. Names and exit status (0, 1 refused or failed, 2 usage)
//! are a contract.

use std::{net::IpAddr, path::PathBuf};

use clap::{ArgGroup, Args, Parser, Subcommand, ValueEnum, ValueHint};
use clap_complete::ArgValueCompleter;
use ipnet::IpNet;
use margay::config::{BPFFS_DIR, RUN_DIR, STATE_DIR, Settings, StoreSettings};

use crate::complete;

/// A container network in which every host is a router.
#[derive(Parser)]
#[command(name = "margay", version = margay::version(), max_term_width = 100)]
pub struct Cli {
    /// The agent's socket
    #[arg(
        long,
        global = true,
        value_name = "PATH",
        default_value = "/run/margay/agent.sock",
        env = "MARGAY_SOCKET"
    )]
    pub socket: PathBuf,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// How a listing is printed.
#[derive(Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people.
    #[default]
    Table,
    /// For programs; the names of the fields are stable.
    Json,
}

/// `-o`, the same on every listing.
#[derive(Args, Clone, Copy)]
pub struct Format {
    /// Output format
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Output,
}

/// What to do.
#[derive(Subcommand)]
pub enum Command {
    /// Run the agent of this host
    Agent {
        /// Settings, as flags
        #[command(flatten)]
        settings: Box<Settings>,
        /// TOML file with the same settings; flags take precedence
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
    },
    /// Create, list and remove networks
    Network {
        /// What to do with them.
        #[command(subcommand)]
        command: NetworkCommand,
    },
    /// Attach and detach containers, list endpoints
    Endpoint {
        /// What to do with them.
        #[command(subcommand)]
        command: EndpointCommand,
    },
    /// List routes, and trace where a packet goes
    Route {
        /// What to do with it.
        #[command(subcommand)]
        command: RouteCommand,
    },
    /// List and remove nodes
    Node {
        /// What to do with them.
        #[command(subcommand)]
        command: NodeCommand,
    },
    /// Add, list and remove pools, which networks take their subnets from
    Pool {
        /// What to do with them.
        #[command(subcommand)]
        command: PoolCommand,
    },
    /// Deny prefixes at every node: the deny list
    Guard {
        /// What to do with them.
        #[command(subcommand)]
        command: GuardCommand,
    },
    /// Export, import or adopt the store, which holds the cluster's state
    Store {
        /// What to do with it.
        #[command(subcommand)]
        command: StoreCommand,
    },
    /// Show the state of agent, store, programs and maps; exit with 1 if there is a problem
    Status {
        /// Output format
        #[command(flatten)]
        format: Format,
        /// Print nothing; for scripts
        #[arg(short, long)]
        quiet: bool,
    },
    /// Show forwarded and dropped packets by reason
    Counters {
        /// Output format
        #[command(flatten)]
        format: Format,
        /// Include counters that are zero
        #[arg(long)]
        all: bool,
    },
    /// Switch parts of the running agent's log on or off
    Log {
        /// Which part
        #[command(subcommand)]
        command: LogCommand,
    },
    /// Print the metrics in Prometheus' format
    Metrics,
    /// Remove everything that Margay created on this host
    Cleanup(Cleanup),
    /// Print the completion script of a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
}

/// `margay route`.
#[derive(Subcommand)]
pub enum RouteCommand {
    /// List the routes of the datapath
    #[command(alias = "list")]
    Ls(Format),
    /// Show where a packet to an address goes from here, and why
    Get {
        /// Destination address
        #[arg(value_name = "ADDR")]
        to: IpAddr,
        /// Endpoint that sends it, by id or name [default: this host]
        #[arg(long, value_name = "ENDPOINT", add = ArgValueCompleter::new(complete::endpoints))]
        from: Option<String>,
        /// Output format
        #[command(flatten)]
        format: Format,
    },
}

/// `margay node`.
#[derive(Subcommand)]
pub enum NodeCommand {
    /// List nodes
    #[command(alias = "list")]
    Ls(Format),
    /// Remove a node that will not come back, and free its blocks and addresses
    #[command(alias = "remove")]
    Rm {
        /// Its name
        #[arg(add = ArgValueCompleter::new(complete::nodes))]
        name: String,
        /// Remove it even if its agent is running
        #[arg(long)]
        yes: bool,
    },
}

/// `margay log`.
#[derive(Subcommand)]
pub enum LogCommand {
    /// Log dropped packets with program, endpoint, addresses and reason, at most 10 lines a second
    /// for each sender
    Datapath {
        /// On or off; the setting ends with the agent
        switch: Switch,
    },
}

/// On or off.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Switch {
    /// Log them.
    On,
    /// Do not.
    Off,
}

/// `margay pool`.
#[derive(Subcommand)]
pub enum PoolCommand {
    /// Add a pool
    Add {
        /// The pool's CIDR
        cidr: IpNet,
        /// Prefix length of each network's subnet [default: 20 for IPv4, 64 for IPv6]
        #[arg(long, value_name = "LEN", alias = "network-size")]
        network_prefix: Option<u8>,
    },
    /// List pools
    #[command(alias = "list")]
    Ls(Format),
    /// Remove a pool; networks keep their subnets
    #[command(alias = "remove")]
    Rm {
        /// The pool's CIDR
        cidr: IpNet,
    },
}

/// `margay guard`.
#[derive(Subcommand)]
pub enum GuardCommand {
    /// Drop every packet from a prefix at every node
    Add {
        /// The prefix, or one address
        #[arg(value_parser = prefix)]
        cidr: IpNet,
        /// Why it is denied, shown by `guard ls`
        #[arg(long, value_name = "TEXT")]
        comment: Option<String>,
    },
    /// List the denied prefixes
    #[command(alias = "list")]
    Ls(Format),
    /// Take a prefix off the deny list
    #[command(alias = "remove")]
    Rm {
        /// The prefix, or one address
        #[arg(value_parser = prefix)]
        cidr: IpNet,
    },
}

/// A prefix, or an address as the prefix of itself.
fn prefix(text: &str) -> Result<IpNet, String> {
    let addr = text.parse::<std::net::IpAddr>().map(IpNet::from);
    addr.or_else(|_| text.parse()).map_err(|_| "use a prefix like 203.0.113.0/24, or an address".into())
}

/// `margay store`.
#[derive(Subcommand)]
pub enum StoreCommand {
    /// Accept the store as it is; agents stop waiting for data and nodes that it lost
    Adopt,
    /// Print the contents of the store as JSON
    Export {
        /// Write to this file [default: standard output]
        file: Option<PathBuf>,
        /// Read this store while no agent uses it [default: the agent's store]
        #[command(flatten)]
        store: StoreSettings,
    },
    /// Write an export into an empty store
    Import {
        /// File that `export` wrote
        file: PathBuf,
        /// Store to write to
        #[command(flatten)]
        store: StoreSettings,
    },
}

/// `margay network`.
#[derive(Subcommand)]
pub enum NetworkCommand {
    /// Create a network
    Create(Box<Create>),
    /// List networks
    #[command(alias = "list")]
    Ls(Format),
    /// Show a network as JSON
    Inspect {
        /// Its name
        #[arg(add = ArgValueCompleter::new(complete::networks))]
        name: String,
    },
    /// Remove a network without endpoints
    #[command(alias = "remove")]
    Rm {
        /// Its name
        #[arg(add = ArgValueCompleter::new(complete::networks))]
        name: String,
    },
}

/// `margay network create`.
#[derive(Args)]
pub struct Create {
    /// Its name
    pub name: String,
    /// Subnet, once for each family [default: a free one of a pool]
    #[arg(long, value_name = "CIDR")]
    pub subnet: Vec<IpNet>,
    /// Without --subnet: also take a subnet from an IPv6 pool
    #[arg(long, conflicts_with = "subnet")]
    pub ipv6: bool,
    /// Gateway, once for each family [default: the subnet's first address]
    #[arg(long, value_name = "ADDR")]
    pub gateway: Vec<IpAddr>,
    /// Range for automatic allocation, within a subnet [default: the subnet]
    #[arg(long, value_name = "CIDR")]
    pub ip_range: Vec<IpNet>,
    /// Address that something else uses, with a name for it; no container gets it
    #[arg(long, value_name = "NAME=ADDR", value_parser = aux_address)]
    pub aux_address: Vec<(String, IpAddr)>,
    /// MTU of the containers [default: the uplink's]
    #[arg(long, value_name = "N")]
    pub mtu: Option<u32>,
    /// Isolate the network: containers reach only each other and the nodes
    #[arg(long)]
    pub internal: bool,
    /// Let routers outside the cluster send to the network, and do not masquerade it
    #[arg(long)]
    pub routable: bool,
    /// Prefix length of the blocks that nodes take, once for each family [default: 26 for IPv4,
    /// 122 for IPv6, longer in small subnets]
    #[arg(long, value_name = "LEN")]
    pub block_prefix: Vec<u8>,
    /// Addresses in a block: an earlier way to say the same.
    #[arg(long, value_name = "N", hide = true, conflicts_with = "block_prefix")]
    pub block_size: Option<u32>,
}

fn aux_address(text: &str) -> Result<(String, IpAddr), String> {
    let parsed = text.split_once('=').and_then(|(name, addr)| Some((name.to_owned(), addr.parse().ok()?)));
    parsed.ok_or_else(|| "use NAME=ADDRESS".into())
}

/// `margay endpoint`.
#[derive(Subcommand)]
pub enum EndpointCommand {
    /// Attach a container to a network
    #[command(group = ArgGroup::new("target").required(true).args(["netns", "pid"]))]
    Attach {
        /// The network's name
        #[arg(long, value_name = "NAME", add = ArgValueCompleter::new(complete::networks))]
        network: String,
        /// The container's network namespace
        #[arg(long, value_name = "PATH", value_hint = ValueHint::FilePath)]
        netns: Option<PathBuf>,
        /// PID of a process in the container
        #[arg(long, value_name = "PID")]
        pid: Option<u32>,
        /// Name of the endpoint
        #[arg(long, value_name = "NAME")]
        name: Option<String>,
        /// Address, once for each family [default: a free one]
        #[arg(long, value_name = "ADDR")]
        ip: Vec<IpAddr>,
        /// MAC address [default: derived from the address]
        #[arg(long, value_name = "MAC")]
        mac: Option<String>,
        /// Name of the interface in the container
        #[arg(long, value_name = "NAME", default_value = "eth0")]
        ifname: String,
        /// Output format
        #[command(flatten)]
        format: Format,
    },
    /// Detach a container
    Detach {
        /// The endpoint's id, a unique prefix of it, or its name
        #[arg(
            required_unless_present = "netns",
            conflicts_with = "netns",
            add = ArgValueCompleter::new(complete::endpoints)
        )]
        id: Option<String>,
        /// The container's network namespace
        #[arg(long, value_name = "PATH")]
        netns: Option<PathBuf>,
        /// Name of the interface in the container
        #[arg(long, value_name = "NAME", default_value = "eth0", requires = "netns")]
        ifname: String,
    },
    /// List endpoints of this host
    #[command(alias = "list")]
    Ls {
        /// List the endpoints of all hosts, from the addresses in the store
        #[arg(long)]
        all: bool,
        /// Output format
        #[command(flatten)]
        format: Format,
    },
    /// Show an endpoint as JSON
    Inspect {
        /// Its id, a unique prefix of it, or its name
        #[arg(add = ArgValueCompleter::new(complete::endpoints))]
        id: String,
    },
}

/// `margay cleanup`.
#[derive(Args)]
pub struct Cleanup {
    /// Folder of the pinned programs, maps and links
    #[arg(long, value_name = "DIR", default_value = BPFFS_DIR)]
    pub bpffs: PathBuf,
    /// Folder of the journal
    #[arg(long, value_name = "DIR", default_value = STATE_DIR)]
    pub state_dir: PathBuf,
    /// Folder of the socket
    #[arg(long, value_name = "DIR", default_value = RUN_DIR)]
    pub run_dir: PathBuf,
    /// Stop the running agent first
    #[arg(long)]
    pub stop: bool,
    /// Also remove the embedded store, and with it every network of this host
    #[arg(long)]
    pub store: bool,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        super::Cli::command().debug_assert();
    }
}
