//! The maps: names, capacities, and the version of their layout.

/// The version of the layout of every map below. It is part of the path where
/// they are pinned, so an agent never reads another layout as its own.
pub const LAYOUT_VERSION: u32 = 5;

/// [`crate::route::Node`], one entry.
pub const NODE: &str = "NODE";
/// Slots, [`crate::endpoint::WorkloadSlot`].
pub const WORKLOADS: &str = "WORKLOADS";
/// Interface index to [`crate::endpoint::Workload`], where another has the slot.
pub const WORKLOAD_SPILL: &str = "WORKLOAD_SPILL";
/// [`crate::net::Addr`] to [`crate::endpoint::Endpoint`].
pub const ENDPOINTS: &str = "ENDPOINTS";
/// [`crate::route::RouteKey`] to [`crate::route::Route`].
pub const ROUTES: &str = "ROUTES";
/// Prefix to [`crate::route::Prefix`], longest match.
pub const PREFIXES: &str = "PREFIXES";
/// Prefixes whose packets do not enter, longest match; the values mean nothing.
pub const GUARD: &str = "GUARD";
/// Whether [`GUARD`] has entries at all, one entry.
pub const GUARDED: &str = "GUARDED";
/// [`crate::net::Addr`] of a next hop to [`crate::route::Neighbour`].
pub const NEIGHBOURS: &str = "NEIGHBOURS";
/// Index from [`crate::verdict::counter`] to [`crate::verdict::Count`], per CPU.
pub const COUNTERS: &str = "COUNTERS";
/// [`crate::net::Addr`] of this host's own; the values mean nothing.
pub const OWN_ADDRESSES: &str = "OWN_ADDRESSES";
/// [`crate::net::Addr`] of a sender to its budget of ICMP errors; the programs' own.
pub const ICMP_BUDGET: &str = "ICMP_BUDGET";
/// Whether drops are logged, one entry.
pub const LOG_DROPS: &str = "LOG_DROPS";
/// The same as [`ICMP_BUDGET`] for lines of the log.
pub const LOG_BUDGET: &str = "LOG_BUDGET";
/// [`crate::log::Logged`], a ring buffer.
pub const LOGGED: &str = "LOGGED";
/// Hash and trie look-ups so far, one entry per CPU, where programs are loaded
/// to tally them.
pub const LOOKUPS: &str = "LOOKUPS";
/// [`crate::sent::Sent`], one entry, where programs are loaded to tally look-ups.
pub const SENT: &str = "SENT";
/// The global that has them tallied, 0 or 1.
pub const TALLY: &str = "TALLY";
/// Slots of pairs of addresses to how XDP sends on what passes between them, per CPU;
/// the programs' own.
pub const FLOWS: &str = "FLOWS";
/// The global that says how long they are remembered, nanoseconds; 0 for not at all.
pub const HOLD: &str = "HOLD";
/// Scratch space for the building of ICMP errors, per CPU; the programs' own.
pub const SCRATCH: &str = "SCRATCH";

/// Endpoints on one node that find room whatever the indices of their interfaces: as
/// many slots, and as many entries beyond. A power of two.
pub const MAX_WORKLOADS: u32 = 16_384;
/// Addresses of endpoints on one node: one of each family.
pub const MAX_ENDPOINTS: u32 = 2 * MAX_WORKLOADS;
/// Blocks and borrowed addresses of the whole cluster.
pub const MAX_ROUTES: u32 = 1 << 20;
/// Subnets and nodes of the whole cluster.
pub const MAX_PREFIXES: u32 = 1 << 16;
/// Prefixes that are blocked.
pub const MAX_GUARDS: u32 = 1 << 14;
/// Next hops: nodes of the cluster, both families.
pub const MAX_NEIGHBOURS: u32 = 1 << 14;
/// Pairs of addresses that XDP remembers, on each CPU. A power of two.
pub const MAX_FLOWS: u32 = 1_024;
/// How long it does, nanoseconds of a clock that moves with the kernel's ticks. A change
/// in the tables is obeyed as much later, and a tick.
pub const FLOW_HOLD: u64 = 10_000_000;
/// Addresses of this host, on all of its interfaces.
pub const MAX_OWN_ADDRESSES: u32 = 1 << 14;
/// Senders whose budgets are remembered. Who is forgotten for another has a new one.
pub const MAX_BUDGETS: u32 = 4_096;
/// Bytes of drops that wait for the agent to log them. A power of two and of pages.
pub const LOGGED_BYTES: u32 = 1 << 18;
