//! All maps, each declared once: the programs' statics, the agent's tables, the order in
//! which it fills them, what it may change while the store is not to be believed whole,
//! the pins, and what `margay status` and the metrics say follow from a map's line here.
//!
//! A map reads:
//!
//! ```text
//! NAME: Kind(types)[entries] { layout 5, by its writer, what the agent makes of it }
//! ```
//!
//! - The kind is one of [`Kind`]; its types are in [`types`].
//! - With a layout the map is pinned, and the next programs and agents take it over. Who
//!   changes its key, its value, its kind or its size gives it the number above the
//!   highest of all maps. The others keep their pins and what is in them. Without a
//!   layout it belongs to one load of the programs.
//! - `as field` names the map for parts of the agent that write or read it by themselves.
//! - `read table: Entry(key => value), "words", doubt, held hold, after [tables]` makes it one
//!   of the tables that the agent keeps as the store and the host want them. A person reads the
//!   words and then the key, as its `Display` writes it; the doubt is a [`Doubt`], the hold a
//!   [`Held`]. Its entries refer to entries of the tables that it is `after`, those of the agent
//!   without a map among them.
//!   They stand above it, or the agent does not compile: tables are filled in the order of
//!   this page and emptied against it.
//! - `opens table: …` is the same for entries that lead packets to an interface: they come
//!   after the programs are at their hooks, and go before these do.

use crate::verdict;

/// The types of keys and values.
pub mod types {
    pub use crate::{
        endpoint::{EndpointEntry, Workload, WorkloadSlot},
        log::Logged,
        net::Addr,
        own::{Budget, Flow},
        route::{Neighbour, Node, Prefix, PrefixKey, Route, RouteKey},
        sent::Sent,
        verdict::Count,
    };
}

/// Hands all maps to a macro of the caller's, after what the caller adds.
#[macro_export]
macro_rules! every_map {
    ($then:ident! { $($more:tt)* }) => {
        $then! {
            $($more)*

            /// This node: its addresses, `margay0` and the uplink.
            NODE: Single(Node)[1] {
                layout 5, by agent,
                read node: Node(() => Node), "this node's own entry", Replaced, held Never, after [interfaces]
            }
            /// Containers, each in the slot of its interface's index.
            WORKLOADS: Slots(WorkloadSlot)[MAX_WORKLOADS] {
                layout 5, by agent,
                read workloads: Workload(u32 => Workload), "the container behind interface", Own, held WithEndpoint, after [interfaces]
            }
            /// Containers by interface, for whom another has the slot.
            WORKLOAD_SPILL: Hash(u32 => Workload)[MAX_WORKLOADS] { layout 5, by agent }
            /// Blocks of other nodes, and their addresses that are routed singly, in the whole cluster.
            ROUTES: Hash(RouteKey => Route)[1 << 20] {
                layout ROUTES_LAYOUT, by agent,
                read routes: Route(RouteKey => Route), "the route to", Added, held Singly, after [node]
            }
            /// Subnets and nodes of the whole cluster.
            PREFIXES: Trie(Prefix)[1 << 16] {
                layout 5, by agent,
                read prefixes: Prefix(PrefixKey => Prefix), "the prefix", Added, held Singly, after [node]
            }
            /// Prefixes whose packets do not enter; the values mean nothing.
            GUARD: Trie(u32)[1 << 14] {
                layout 5, by agent,
                read denied: Denied(PrefixKey => ()), "denied prefix", Added, held Singly, after [node]
            }
            /// Whether any prefix is denied, 0 or 1.
            GUARDED: Single(u32)[1] { layout 5, by agent }
            /// Addresses of this host itself, on all of its interfaces.
            OWN_ADDRESSES: Set(Addr)[1 << 14] {
                layout 5, by agent,
                read own_addresses: OwnAddress(Addr => ()), "this host's own address", Free, held Never, after []
            }
            /// Addresses of this node's containers, one of each family for each.
            ENDPOINTS: Reserved(Addr => EndpointEntry)[2 * MAX_WORKLOADS] {
                layout 5, by agent,
                opens endpoints: Endpoint(Addr => EndpointEntry), "the endpoint", Own, held WithEndpoint, after [workloads, attachments]
            }
            /// Next hops that the agent keeps fresh: nodes of the cluster, both families.
            NEIGHBOURS: Hash(Addr => Neighbour)[1 << 14] { layout 5, by agent, as neighbours }
            /// Packets by program and verdict, [`crate::verdict::counter`].
            COUNTERS: PerCpu(Count)[verdict::COUNTERS] { layout 5, by programs, as counters }
            /// ICMP errors of this second by sender. Who is forgotten for another has a new budget.
            ICMP_BUDGET: Lru(Addr => Budget)[4_096] { layout 5, by programs }
            /// Whether drops are logged, 0 or 1.
            LOG_DROPS: Single(u32)[1] { layout 5, by agent, as log_drops }
            /// The same as `ICMP_BUDGET` for lines of the log.
            LOG_BUDGET: Lru(Addr => Budget)[4_096] { layout 5, by programs }
            /// Drops that wait for the agent to log them; its size is in bytes, a power of two and of pages.
            LOGGED: Ring(Logged)[1 << 18] { layout 5, by programs }
            /// Hash and trie look-ups so far.
            LOOKUPS: PerCpu(u64)[1] { layout 5, by tallying }
            /// Where the last packet went.
            SENT: Single(Sent)[1] { layout 5, by tallying }
            /// Slots of pairs of addresses: how XDP sends on what passes between them.
            FLOWS: PerCpu(Flow)[MAX_FLOWS] { by programs }
            /// The place of a loop in memory that the verifier does not follow.
            CURSOR: PerCpu([u32; 2])[1] { by programs }
            /// Room for an ICMP error under construction.
            SCRATCH: PerCpu(Draft)[1] { by programs }
        }
    };
}

/// Endpoints on one node that find room whatever the indices of their interfaces: as
/// many slots, and as many entries beyond. A power of two.
pub const MAX_WORKLOADS: u32 = 16_384;
/// Pairs of addresses that XDP remembers, on each CPU. A power of two.
pub const MAX_FLOWS: u32 = 1_024;
/// How long it does, nanoseconds of a clock that moves with the kernel's ticks. A change
/// in the tables is obeyed as much later, and a tick.
pub const FLOW_HOLD: u64 = 10_000_000;

/// The global that has look-ups tallied, 0 or 1.
pub const TALLY: &str = "TALLY";
/// The global that says how long XDP remembers a flow, nanoseconds; 0 for not at all.
pub const HOLD: &str = "HOLD";

/// The routes' own layout. That of the feature `other-layout` is for tests of upgrades alone.
const ROUTES_LAYOUT: u32 = if cfg!(feature = "other-layout") { 6 } else { 5 };

/// What a map is to the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// An array of one entry, which is there from the start, all zero.
    Single,
    /// An array, all of whose entries are there from the start.
    Slots,
    /// A hash that takes memory for each entry as it comes.
    Hash,
    /// A hash whose memory is there from the start.
    Reserved,
    /// A hash of keys alone.
    Set,
    /// Prefixes of addresses, the longest match first.
    Trie,
    /// A hash that forgets who was not seen for longest.
    Lru,
    /// An array with a value for each CPU.
    PerCpu,
    /// A ring buffer, whose entries are bytes.
    Ring,
}

/// Who writes a map; the other side reads it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(non_camel_case_types, reason = "as they are declared")]
pub enum Writer {
    /// The agent.
    agent,
    /// The programs.
    programs,
    /// The programs, where tests have them loaded to tally what they do.
    tallying,
}

/// What may change of a table while the store is not to be believed whole. What the
/// store no longer says may be what it lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Doubt {
    /// Everything: the host alone knows of it.
    Free,
    /// What is there is replaced, but not removed.
    Replaced,
    /// Of what is there, only what this node knows of its own endpoints.
    Own,
    /// What is missing is added; what is there is replaced once the host's word counts.
    Followed,
    /// What is missing is added.
    Added,
}

/// Which entries of a table stay although nothing asks for them. `S` asks of a single entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Held<S> {
    /// None.
    Never,
    /// All, while any network in the store cannot be read.
    Together,
    /// Those of an endpoint whose network is not in the store. The fold of the endpoints names
    /// their keys.
    WithEndpoint,
    /// Those for which a rule of the table's own says so (`agent/src/control/hold.rs`): its
    /// key or value names what they hang on.
    Singly(S),
}

/// A map as it is declared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Map {
    /// Its name, also that of its pin.
    pub name: &'static str,
    /// What it is to the kernel.
    pub kind: Kind,
    /// The most entries that it takes; bytes of a ring.
    pub capacity: u32,
    /// The version of its layout, if it is pinned.
    pub layout: Option<u32>,
    /// Who writes it.
    pub writer: Writer,
}

impl Map {
    /// Whether the agent adds entries to it until there is no room.
    pub const fn fills_up(&self) -> bool {
        matches!(self.writer, Writer::agent) && !matches!(self.kind, Kind::Single)
    }
}

macro_rules! constants {
    ($(#[doc = $doc:literal] $name:ident: $kind:ident $types:tt [$entries:expr] {
        $(layout $layout:expr,)? by $writer:ident $($more:tt)*
    })*) => {
        $(
            #[doc = $doc]
            pub const $name: Map = Map {
                name: stringify!($name),
                kind: Kind::$kind,
                capacity: $entries,
                layout: first(&[$($layout)?]),
                writer: Writer::$writer,
            };
        )*

        /// All maps, in the order of this page.
        pub const ALL: &[Map] = &[$($name),*];
    };
}

every_map!(constants! {});

const fn first(layouts: &[u32]) -> Option<u32> {
    if layouts.is_empty() { None } else { Some(layouts[0]) }
}

/// The highest layout of all maps: builds that have it in common have all layouts in common.
pub const LAYOUT: u32 = {
    let (mut highest, mut at) = (0, 0);
    while at < ALL.len() {
        if let Some(layout) = ALL[at].layout
            && layout > highest
        {
            highest = layout;
        }
        at += 1;
    }
    highest
};
