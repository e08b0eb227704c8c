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
    /// How to print
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
        /// A TOML file with the same settings; flags win
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
    },
    /// Networks of the cluster
    Network {
        /// What to do with them.
        #[command(subcommand)]
        command: NetworkCommand,
    },
    /// Endpoints of this host
    Endpoint {
        /// What to do with them.
        #[command(subcommand)]
        command: EndpointCommand,
    },
    /// What the datapath holds, and where a packet goes
    Route {
        /// What to do with it.
        #[command(subcommand)]
        command: RouteCommand,
    },
    /// Nodes of the cluster
    Node {
        /// What to do with them.
        #[command(subcommand)]
        command: NodeCommand,
    },
    /// Pools that networks take their subnets from
    Pool {
        /// What to do with them.
        #[command(subcommand)]
        command: PoolCommand,
    },
    /// Block prefixes at every node
    Guard {
        /// What to do with them.
        #[command(subcommand)]
        command: GuardCommand,
    },
    /// The store that holds the cluster's state
    Store {
        /// What to do with it.
        #[command(subcommand)]
        command: StoreCommand,
    },
    /// Agent, store, programs, maps and problems; exits 1 when there is a problem
    Status {
        /// How to print
        #[command(flatten)]
        format: Format,
        /// Print nothing, for scripts
        #[arg(short, long)]
        quiet: bool,
    },
    /// Forwarded and dropped packets by reason
    Counters {
        /// How to print
        #[command(flatten)]
        format: Format,
        /// Include counters that are zero
        #[arg(long)]
        all: bool,
    },
    /// Switch parts of the running agent's log
    Log {
        /// Which part
        #[command(subcommand)]
        command: LogCommand,
    },
    /// Print the metrics
    Metrics,
    /// Remove everything of Margay's from this host
    Cleanup(Cleanup),
    /// Print completions for a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
}

/// `margay route`.
#[derive(Subcommand)]
pub enum RouteCommand {
    /// List what the datapath holds
    #[command(alias = "list")]
    Ls(Format),
    /// Tell where a packet to an address goes from here, and why
    Get {
        /// Where to
        #[arg(value_name = "ADDR")]
        to: IpAddr,
        /// The endpoint that sends it, by id or name [default: this host]
        #[arg(long, value_name = "ENDPOINT", add = ArgValueCompleter::new(complete::endpoints))]
        from: Option<String>,
        /// How to print
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
    /// Remove a node that is gone for good and free what it held
    #[command(alias = "remove")]
    Rm {
        /// Its name
        #[arg(add = ArgValueCompleter::new(complete::nodes))]
        name: String,
        /// Remove it even if its lease is alive
        #[arg(long)]
        yes: bool,
    },
}

/// `margay log`.
#[derive(Subcommand)]
pub enum LogCommand {
    /// Log every dropped packet: program, endpoint, addresses, reason; at most 10 lines a second for
    /// each sender
    Datapath {
        /// On or off, until the agent ends
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
        /// Length of the prefix of each network's subnet [default: 20 for IPv4, 64 for IPv6]
        #[arg(long, value_name = "N")]
        network_size: Option<u8>,
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
    /// List what is blocked
    #[command(alias = "list")]
    Ls(Format),
    /// Unblock a prefix
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
    /// Accept the store as it is: nodes and data that it lost are no longer awaited
    Adopt,
    /// Print everything that the store holds, as JSON
    Export {
        /// Write to this file [default: standard output]
        file: Option<PathBuf>,
        /// Read this store, which no agent may have open [default: the agent's]
        #[command(flatten)]
        store: StoreSettings,
    },
    /// Write an export into an empty store
    Import {
        /// What `export` wrote
        file: PathBuf,
        /// Where to
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
    /// Its subnet; once for each family [default: a free one of a pool]
    #[arg(long, value_name = "CIDR")]
    pub subnet: Vec<IpNet>,
    /// Without --subnet: also a subnet of an IPv6 pool
    #[arg(long, conflicts_with = "subnet")]
    pub ipv6: bool,
    /// Its gateway, for a subnet of the same family [default: the first address]
    #[arg(long, value_name = "ADDR")]
    pub gateway: Vec<IpAddr>,
    /// Range for automatic allocation, within a subnet [default: the subnet]
    #[arg(long, value_name = "CIDR")]
    pub ip_range: Vec<IpNet>,
    /// An address in use by something else, never given to a container, and a name for it
    #[arg(long, value_name = "NAME=ADDR", value_parser = aux_address)]
    pub aux_address: Vec<(String, IpAddr)>,
    /// The containers' MTU [default: the uplink's]
    #[arg(long, value_name = "N")]
    pub mtu: Option<u32>,
    /// Keep the network's traffic inside: containers reach each other and the nodes only
    #[arg(long)]
    pub internal: bool,
    /// Let routers outside of the cluster send to the network, without masquerading
    #[arg(long)]
    pub routable: bool,
    /// Addresses in a block, a power of two [default: 64, fewer in small subnets]
    #[arg(long, value_name = "N")]
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
        /// A name for the endpoint
        #[arg(long, value_name = "NAME")]
        name: Option<String>,
        /// The address to use; once for each family [default: a free one]
        #[arg(long, value_name = "ADDR")]
        ip: Vec<IpAddr>,
        /// The MAC to use [default: derived from the address]
        #[arg(long, value_name = "MAC")]
        mac: Option<String>,
        /// Name of the interface in the container
        #[arg(long, value_name = "NAME", default_value = "eth0")]
        ifname: String,
        /// How to print
        #[command(flatten)]
        format: Format,
    },
    /// Detach a container
    Detach {
        /// The endpoint's id, as much of it as is unique, or its name
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
        /// Of all hosts, by who has which address in the store
        #[arg(long)]
        all: bool,
        /// How to print
        #[command(flatten)]
        format: Format,
    },
    /// Show an endpoint as JSON
    Inspect {
        /// Its id, as much of it as is unique, or its name
        #[arg(add = ArgValueCompleter::new(complete::endpoints))]
        id: String,
    },
}

/// `margay cleanup`.
#[derive(Args)]
pub struct Cleanup {
    /// Folder of programs, maps and links
    #[arg(long, value_name = "DIR", default_value = BPFFS_DIR)]
    pub bpffs: PathBuf,
    /// Folder of the journal
    #[arg(long, value_name = "DIR", default_value = STATE_DIR)]
    pub state_dir: PathBuf,
    /// Folder of the socket
    #[arg(long, value_name = "DIR", default_value = RUN_DIR)]
    pub run_dir: PathBuf,
    /// End the running agent first
    #[arg(long)]
    pub stop: bool,
    /// Also remove the embedded store, with every network of this host
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
