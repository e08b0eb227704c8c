//! The kinds of work: what is sent, and what of it is measured.

mod http;
mod load;
mod requests;
mod servers;
mod stream;

use std::{collections::BTreeMap, time::Duration};

use margay_tests::container::Namespace;
use std::net::IpAddr;

use load::Kind;
pub use load::{Load, run as load};
pub use servers::{PORTS, Servers, UDP_PORTS};

use crate::cpu::Cpu;

/// How long iperf3 and wrk measure, which know whole seconds only.
pub const SECONDS: u32 = 1;
/// How long the bench's own client asks. What disturbs lies between measurements mostly (where the
/// scheduler puts both ends, what the machine below takes away), so many short ones tell
/// more than few long ones.
pub const ASKING: Duration = Duration::from_millis(400);
/// Streams of the kind that has many.
const MANY: u32 = 8;

/// From a client to a server.
pub struct Way {
    /// Where the client runs.
    pub client: Namespace,
    /// Where the server runs.
    pub server: Namespace,
    /// What the client calls.
    pub target: IpAddr,
}

/// Where a kind of work is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// From one host to another.
    Across,
    /// The same, client and server each on a processor of its own.
    Pinned,
    /// Within one host.
    Local,
}

impl Place {
    /// Its name in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Across => "across hosts",
            Self::Pinned => "across hosts, pinned",
            Self::Local => "within one host",
        }
    }
}

/// A kind of work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Work {
    /// One TCP stream
    Stream,
    /// One TCP stream from the server
    StreamBack,
    /// Eight TCP streams
    Streams,
    /// Eight TCP streams from the server
    StreamsBack,
    /// TCP request and response
    TcpRequests,
    /// UDP request and response
    UdpRequests,
    /// Connect, one exchange, close
    Connections,
    /// UDP packets of 64 bytes
    Packets,
    /// nginx, asked by wrk
    Http,
}

/// What one measurement gave: names to values. The first letters of a name say
/// whether more is better (`rate`) or less (`cost`, `time`).
pub type Sample = BTreeMap<&'static str, f64>;

/// Gbit/s, messages, connections or requests per second.
pub const RATE: &str = "rate";
/// Median latency, microseconds.
pub const P50: &str = "time p50";
/// The 99th percentile of latency, microseconds.
pub const P99: &str = "time p99";
/// Processor seconds of the whole machine for a gigabyte, or a million
/// packets, connections or requests.
pub const COST: &str = "cost";
/// Packets sent per second, delivered or not.
pub const SENT: &str = "sent";

impl Work {
    /// All, in the order of the report.
    pub const ALL: [Self; 9] = [
        Self::Stream,
        Self::StreamBack,
        Self::Streams,
        Self::StreamsBack,
        Self::TcpRequests,
        Self::UdpRequests,
        Self::Connections,
        Self::Packets,
        Self::Http,
    ];

    /// Its name in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Stream => "one TCP stream",
            Self::StreamBack => "one TCP stream, back",
            Self::Streams => "8 TCP streams",
            Self::StreamsBack => "8 TCP streams, back",
            Self::TcpRequests => "TCP request/response",
            Self::UdpRequests => "UDP request/response",
            Self::Connections => "connections",
            Self::Packets => "UDP, 64-byte packets",
            Self::Http => "HTTP",
        }
    }

    /// Unit of a measure.
    pub fn unit(self, measure: &str) -> &'static str {
        match (self, measure) {
            (_, time) if time.starts_with("time") => "us",
            (streams, COST) if streams.is_streams() => "CPU s/GB",
            (Self::Packets, COST) => "CPU s/million packets",
            (_, COST) => "CPU s/million",
            (streams, _) if streams.is_streams() => "Gbit/s",
            _ => "1/s",
        }
    }

    /// Whether it is TCP streams.
    pub fn is_streams(self) -> bool {
        matches!(self, Self::Stream | Self::StreamBack | Self::Streams | Self::StreamsBack)
    }

    /// Whether it is done in a place. Pinned are the kinds in which one client
    /// meets one server, except for requests by UDP, which tell what those by TCP do;
    /// within one host both directions are one.
    pub fn is_done(self, place: Place) -> bool {
        match place {
            Place::Across => true,
            Place::Pinned => {
                matches!(self, Self::Stream | Self::TcpRequests | Self::Connections | Self::Packets)
            }
            Place::Local => !matches!(self, Self::StreamBack | Self::StreamsBack),
        }
    }

    /// Does it once; what kept it from being done otherwise.
    pub fn measure(self, way: &Way, pinned: bool) -> Result<Sample, String> {
        let begun = Cpu::now();
        let client = Client { way, pinned };
        let (mut sample, million) = match self {
            Self::Stream => stream::run(&client, 1, false)?,
            Self::StreamBack => stream::run(&client, 1, true)?,
            Self::Streams => stream::run(&client, MANY, false)?,
            Self::StreamsBack => stream::run(&client, MANY, true)?,
            Self::TcpRequests => requests::run(&client, Kind::Tcp)?,
            Self::UdpRequests => requests::run(&client, Kind::Udp)?,
            Self::Connections => requests::run(&client, Kind::Connections)?,
            Self::Packets => requests::packets(&client)?,
            Self::Http => http::run(&client)?,
        };
        sample.insert(COST, Cpu::since(begun).busy / million);
        Ok(sample)
    }
}

/// What a kind of work measured, and how much was done: gigabytes or millions.
type Done = (Sample, f64);

/// The client's end of a way.
struct Client<'a> {
    way: &'a Way,
    pinned: bool,
}

impl Client<'_> {
    /// Runs a program of words to its end, at most for a while.
    fn run(&self, line: &str) -> Result<String, String> {
        let pin = if self.pinned { "taskset -c 0 " } else { "" };
        let said = self.way.client.run(&format!("{pin}timeout {} {line}", SECONDS + 4));
        if said.ok() { Ok(said.out) } else { Err(format!("{line}: {}{}", said.out.trim(), said.err.trim())) }
    }
}
