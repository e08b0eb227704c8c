//! The declarations of all eBPF maps. From them follow the programs' statics, the agent's
//! tables and their order, the changes that the agent may make while it does not trust the
//! store, the pins, and what `margay status` and the metrics say of each map.
//!
//! A declaration has this form:
//!
//! ```text
//! NAME: Kind(types)[entries] { layout 5, by its writer, the agent's use of it }
//! ```
//!
//! - [`Kind`] is the type of the map in the kernel. [`types`] has the types of keys and values.
//! - `layout N`: the agent pins the map, and later programs and agents take it over. A commit
//!   that changes the key, the value, the kind or the size of a map gives it a new layout, one
//!   above the highest of all maps. All other maps keep their pins and entries. A map without
//!   a layout exists as long as the programs that were loaded with it.
//! - `as field`: the agent's loader opens the map under this name, for a part of the agent that
//!   reads or writes it directly.
//! - `read table: Entry(key => value), "words", doubt, held hold, after [tables]`: the map is a
//!   table of the agent, which makes it equal to the desired state. Messages name an entry by
//!   the words and the key's `Display`. The doubt is a [`Doubt`], the hold a [`Held`]. Entries
//!   refer to entries of the tables in `after`, which may be tables without a map. Those tables
//!   stand above this one, or the agent does not compile: the agent adds entries in the order
//!   of this page, and removes them in the reverse order.
//! - `opens table: ...`: the same, for entries that make the programs deliver packets to an
//!   interface. The agent adds them after the programs are attached, and removes them before
//!   it detaches the programs.

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

/// The number of endpoints for which one node has room with any interface indices: so many
/// slots, and so many entries for those whose slot is taken. A power of two.
pub const MAX_WORKLOADS: u32 = 16_384;
/// Pairs of addresses that XDP remembers, on each CPU. A power of two.
pub const MAX_FLOWS: u32 = 1_024;
/// How long XDP remembers a pair, in nanoseconds of a clock that advances with the kernel's
/// ticks. XDP follows a change of the tables after this time and one tick at most.
pub const FLOW_HOLD: u64 = 10_000_000;

/// The global variable that makes the programs count their look-ups, 0 or 1.
pub const TALLY: &str = "TALLY";
/// The global variable with the time for which XDP remembers a flow, in nanoseconds. With 0 it
/// remembers none.
pub const HOLD: &str = "HOLD";

/// The layout of the routes. The feature `other-layout` changes it for tests of upgrades.
const ROUTES_LAYOUT: u32 = if cfg!(feature = "other-layout") { 6 } else { 5 };

/// The type of a map in the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// An array of one entry. The entry always exists and begins as zeros.
    Single,
    /// An array of many entries, which always exist and begin as zeros.
    Slots,
    /// A hash. The kernel allocates memory for an entry when it is added.
    Hash,
    /// A hash. The kernel allocates memory for all entries when the map is created.
    Reserved,
    /// A hash that is used as a set: its values mean nothing.
    Set,
    /// A trie of address prefixes (longest prefix match).
    Trie,
    /// A hash that, when full, replaces the least recently used entry.
    Lru,
    /// An array whose entries have one value for each CPU.
    PerCpu,
    /// A ring buffer, whose size is in bytes.
    Ring,
}

/// The side that writes a map. The other side reads it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(non_camel_case_types, reason = "as they are declared")]
pub enum Writer {
    /// The agent.
    agent,
    /// The programs.
    programs,
    /// The programs, if a test loads them with [`TALLY`] set.
    tallying,
}

/// The changes that the agent may make in a table while it does not trust the store: before it
/// has read the store, after the store lost data, or if the store is another cluster's. An entry
/// that such a store does not justify may be one that the store lost. A detach still removes the
/// entries of its own endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Doubt {
    /// All changes: the entries follow from the host, not from the store.
    Free,
    /// The agent adds and replaces entries, and removes none.
    Replaced,
    /// The agent adds entries. In an existing one it changes only the fields that this node
    /// knows of its own endpoints. It removes none.
    Own,
    /// The agent adds entries. Once it has read a store of its own cluster, it also replaces
    /// existing ones, except programs of another object. It removes none.
    Followed,
    /// The agent adds entries, and replaces and removes none.
    Added,
}

/// Which entries of a table the agent keeps although the desired state has no such entry. `S`
/// names a single entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Held<S> {
    /// None.
    Never,
    /// All, while the value of any network in the store cannot be read.
    Together,
    /// The entries of an own endpoint whose network is not in the store.
    WithEndpoint,
    /// The entries that a rule for this table selects (`agent/src/control/hold.rs`). The rule
    /// finds in the entry's key or value which values of the store the entry depends on.
    Singly(S),
}

/// The declaration of a map.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Map {
    /// The name of the map and of its pin.
    pub name: &'static str,
    /// The type of the map in the kernel.
    pub kind: Kind,
    /// The maximum number of entries, or the size of a ring buffer in bytes.
    pub capacity: u32,
    /// The version of the layout, if the map is pinned.
    pub layout: Option<u32>,
    /// The side that writes the map.
    pub writer: Writer,
}

impl Map {
    /// Whether the agent adds entries to the map, so that it can become full.
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
