//! The command line. Names and exit status (0, 1 refused or failed, 2 usage)
//! are a contract.

use std::{net::IpAddr, path::PathBuf};

use clap::{Args, Parser, Subcommand, ValueEnum};
use ipnet::IpNet;
use margay::config::{BPFFS_DIR, RUN_DIR, STATE_DIR, Settings, StoreSettings};

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
    /// What the datapath holds
    Route {
        /// What to do with it.
        #[command(subcommand)]
        command: ListCommand,
    },
    /// Nodes of the cluster
    Node {
        /// What to do with them.
        #[command(subcommand)]
        command: NodeCommand,
    },
    /// Where networks take their subnets from
    Pool {
        /// What to do with them.
        #[command(subcommand)]
        command: PoolCommand,
    },
    /// Prefixes whose packets enter no node
    Guard {
        /// What to do with them.
        #[command(subcommand)]
        command: GuardCommand,
    },
    /// Where the cluster's state lives
    Store {
        /// What to do with it.
        #[command(subcommand)]
        command: StoreCommand,
    },
    /// How the agent stands; exits 1 when something is wrong
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
        /// Also those that are zero
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
    /// Take everything of Margay's off this host
    Cleanup(Cleanup),
    /// Print completions for a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
}

/// A command that only lists.
#[derive(Subcommand)]
pub enum ListCommand {
    /// List them
    Ls(Format),
}

/// `margay node`.
#[derive(Subcommand)]
pub enum NodeCommand {
    /// List nodes
    Ls(Format),
    /// Free what a host that is gone for good held
    Rm {
        /// Its name
        name: String,
        /// Also if it looks alive
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
        /// All of it
        cidr: IpNet,
        /// Length of the prefix of each network's subnet [default: 20 for IPv4, 64 for IPv6]
        #[arg(long, value_name = "N")]
        network_size: Option<u8>,
    },
    /// List pools
    Ls(Format),
    /// Remove a pool; networks keep their subnets
    Rm {
        /// All of it
        cidr: IpNet,
    },
}

/// `margay guard`.
#[derive(Subcommand)]
pub enum GuardCommand {
    /// Let no packet from a prefix enter any node, whatever it is for
    Add {
        /// The prefix, or one address
        #[arg(value_parser = prefix)]
        cidr: IpNet,
        /// Why, for those who list it
        #[arg(long, value_name = "TEXT")]
        comment: Option<String>,
    },
    /// List what is blocked
    Ls(Format),
    /// Block a prefix no longer
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
    /// Declare the store, as it is, to be the cluster's: nothing lost is awaited any longer
    Adopt,
    /// Print everything that the store holds, as JSON
    Export {
        /// Write it there instead
        file: Option<PathBuf>,
        /// A store that no agent has open; without one the agent's own is read
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
    Ls(Format),
    /// Show a network as JSON
    Inspect {
        /// Its name
        name: String,
    },
    /// Remove a network without endpoints
    Rm {
        /// Its name
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
    /// Where addresses come from that nobody asked for, within a subnet [default: all of it]
    #[arg(long, value_name = "CIDR")]
    pub ip_range: Vec<IpNet>,
    /// An address that something else has, and a name for it
    #[arg(long, value_name = "NAME=ADDR", value_parser = aux_address)]
    pub aux_address: Vec<(String, IpAddr)>,
    /// The containers' MTU [default: the uplink's]
    #[arg(long, value_name = "N")]
    pub mtu: Option<u32>,
    /// Nothing leaves the network except to the cluster's nodes
    #[arg(long)]
    pub internal: bool,
    /// Any router may send to the network
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
    Attach {
        /// The network's name
        #[arg(long, value_name = "NAME")]
        network: String,
        /// The container's network namespace
        #[arg(long, value_name = "PATH", required_unless_present = "pid", conflicts_with = "pid")]
        netns: Option<PathBuf>,
        /// A process in the container
        #[arg(long, value_name = "PID")]
        pid: Option<u32>,
        /// A name for people
        #[arg(long, value_name = "NAME")]
        name: Option<String>,
        /// An address wanted; once for each family
        #[arg(long, value_name = "ADDR")]
        ip: Vec<IpAddr>,
        /// The MAC wanted
        #[arg(long, value_name = "MAC")]
        mac: Option<String>,
        /// The interface inside
        #[arg(long, value_name = "NAME", default_value = "eth0")]
        ifname: String,
        /// How to print
        #[command(flatten)]
        format: Format,
    },
    /// Detach a container
    Detach {
        /// The endpoint's id or name
        #[arg(required_unless_present = "netns", conflicts_with = "netns")]
        id: Option<String>,
        /// The container's network namespace
        #[arg(long, value_name = "PATH")]
        netns: Option<PathBuf>,
        /// The interface inside
        #[arg(long, value_name = "NAME", default_value = "eth0", requires = "netns")]
        ifname: String,
    },
    /// List endpoints of this host
    Ls(Format),
    /// Show an endpoint as JSON
    Inspect {
        /// Its id or name
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
