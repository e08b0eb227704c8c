//! Every map, private behind the look-ups that the programs make.
//!
//! Values are read in place. The agent replaces a value as a whole; the kernel may use the memory
//! of a replaced one again at once, for another entry of the same map. A run would have to hold a
//! value across two writes of the agent to read another's, and the agent writes at attaching and
//! detaching only; even then the run reads a valid value.
//!
//! Slots of an array are written in place. While a container lives, its
//! [`Workload`] changes in its flags and its sandbox alone, words of their own, so a
//! run that meets the write has the old or the new. One that is removed keeps its
//! body, since a program may still run that has just been detached, and the agent
//! writes a new body before it names the owner. What is one CPU's own only programs write,
//! on that CPU. `NODE`'s numbers, too, each mean
//! something by themselves.

use aya_ebpf::{
    Global,
    bindings::BPF_F_NO_PREALLOC,
    helpers::{bpf_ktime_get_coarse_ns, bpf_ktime_get_ns},
    macros::map,
    maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, RingBuf, lpm_trie::Key},
};
use margay_common::{
    every_map,
    icmp::ERRORS_PER_SECOND,
    log::LINES_PER_SECOND,
    maps::{self, types::*},
    route::SUBNET,
};
use margay_packet::{Cursor, icmp::Draft};

/// The map of a kind.
macro_rules! of_kind {
    (Single($value:ty)) => { Array<$value> };
    (Slots($value:ty)) => { Array<$value> };
    (Hash($key:ty => $value:ty)) => { HashMap<$key, $value> };
    (Reserved($key:ty => $value:ty)) => { HashMap<$key, $value> };
    (Set($key:ty)) => { HashMap<$key, u32> };
    (Trie($value:ty)) => { LpmTrie<Addr, $value> };
    (Lru($key:ty => $value:ty)) => { LruHashMap<$key, $value> };
    (PerCpu($value:ty)) => { PerCpuArray<$value> };
    (Ring($value:ty)) => { RingBuf };
}

/// A new one.
macro_rules! new {
    (Hash $map:expr) => {
        HashMap::with_max_entries($map.capacity, BPF_F_NO_PREALLOC)
    };
    (Set $map:expr) => {
        HashMap::with_max_entries($map.capacity, BPF_F_NO_PREALLOC)
    };
    (Trie $map:expr) => {
        LpmTrie::with_max_entries($map.capacity, BPF_F_NO_PREALLOC)
    };
    (Ring $map:expr) => {
        RingBuf::with_byte_size($map.capacity, 0)
    };
    (Reserved $map:expr) => {
        HashMap::with_max_entries($map.capacity, 0)
    };
    (Lru $map:expr) => {
        LruHashMap::with_max_entries($map.capacity, 0)
    };
    (PerCpu $map:expr) => {
        PerCpuArray::with_max_entries($map.capacity, 0)
    };
    ($array:ident $map:expr) => {
        Array::with_max_entries($map.capacity, 0)
    };
}

macro_rules! statics {
    ($(#[doc = $doc:literal] $name:ident: $kind:ident $types:tt [$entries:expr] $more:tt)*) => {
        $(
            #[map]
            static $name: of_kind!($kind $types) = new!($kind maps::$name);
        )*
    };
}

every_map!(statics! {});

/// Whether look-ups are tallied. The agent sets it to 0, and the verifier then removes the
/// code that depends on it.
#[unsafe(no_mangle)]
static TALLY: Global<u8> = Global::new(0);

/// How long XDP remembers a flow, nanoseconds. With 0 the verifier removes the code that
/// depends on it.
#[unsafe(no_mangle)]
static HOLD: Global<u64> = Global::new(maps::FLOW_HOLD);

/// Adds a look-up to the tally, where there is one. Arrays do not count: the kernel
/// compiles an access to them in place, to those per CPU from Linux 6.10 on.
#[inline(always)]
fn tally() {
    if TALLY.load() != 0
        && let Some(lookups) = LOOKUPS.get_ptr_mut(0)
    {
        // SAFETY: as in `count`.
        unsafe { *lookups += 1 };
    }
}

/// Records where a packet goes, in programs that tally look-ups.
#[inline(always)]
pub fn tell_sent(way: u32, ifindex: u32, next_hop: &Addr) {
    if TALLY.load() != 0
        && let Some(sent) = SENT.get_ptr_mut(0)
    {
        // SAFETY: the one entry is the map's for as long as the program is loaded. All CPUs share
        // it, so two may write it at once and mix their words; only programs that tests load get
        // here, every bit pattern is a `Sent`, and no reference to it is made.
        unsafe { *sent = Sent { way, ifindex, next_hop: *next_hop } };
    }
}

/// A whole address as a key of a trie. The padding before the key aligns the address: the
/// verifier refuses unaligned access to the stack.
#[repr(C, align(8))]
struct TrieKey {
    padding: u32,
    key: Key<Addr>,
}

impl TrieKey {
    #[inline(always)]
    fn new(addr: &Addr) -> Self {
        Self { padding: 0, key: Key::new(128, *addr) }
    }
}

/// What the programs know of this node.
#[inline(always)]
pub fn node() -> Option<&'static Node> {
    NODE.get(0)
}

/// The container behind an interface.
#[inline(always)]
pub fn workload(ifindex: u32) -> Option<&'static Workload> {
    if let Some(slot) = WORKLOADS.get(WorkloadSlot::of(ifindex))
        && slot.ifindex == ifindex
    {
        return Some(&slot.workload);
    }
    tally();
    // SAFETY: the memory is the map's for as long as the program is loaded, and
    // every bit pattern in it is a value; see the module's text.
    unsafe { WORKLOAD_SPILL.get(ifindex) }
}

/// The local endpoint that has an address.
#[inline(always)]
pub fn endpoint(addr: &Addr) -> Option<&'static EndpointEntry> {
    tally();
    // SAFETY: as in `workload`.
    unsafe { ENDPOINTS.get(addr) }
}

/// The route for exactly this prefix.
#[inline(always)]
pub fn route(key: &RouteKey) -> Option<&'static Route> {
    tally();
    // SAFETY: as in `workload`.
    unsafe { ROUTES.get(key) }
}

/// The longest subnet or node that contains an address.
#[inline(always)]
pub fn prefix(addr: &Addr) -> Option<&'static Prefix> {
    tally();
    PREFIXES.get(&TrieKey::new(addr).key)
}

/// Whether any prefix is denied.
#[inline(always)]
pub fn denies_any() -> bool {
    GUARDED.get(0).is_some_and(|any| *any != 0)
}

/// Whether an address is in a denied prefix.
#[inline(always)]
pub fn is_denied(addr: &Addr) -> bool {
    tally();
    GUARD.get(&TrieKey::new(addr).key).is_some()
}

/// A fresh next hop: one that the agent has confirmed lately.
#[inline(always)]
pub fn neighbour(next_hop: &Addr) -> Option<&'static Neighbour> {
    tally();
    // SAFETY: as in `workload`.
    let found = unsafe { NEIGHBOURS.get(next_hop) }?;
    (found.until > coarse_now()).then_some(found)
}

/// The monotonic clock, nanoseconds, as of the last tick.
#[inline(always)]
fn coarse_now() -> u64 {
    // SAFETY: the helper only reads the clock.
    unsafe { bpf_ktime_get_coarse_ns() }
}

/// How a frame between these addresses was sent on a moment ago, from this CPU.
#[inline(always)]
pub fn known_flow(src: &Addr, dst: &Addr) -> Option<&'static Neighbour> {
    if HOLD.load() == 0 {
        return None;
    }
    let flow = FLOWS.get(flow_slot(src, dst))?;
    (flow.src == *src && flow.dst == *dst && flow.way.until > coarse_now()).then_some(&flow.way)
}

/// Remembers for a moment how a frame between these addresses is sent on. The flow that had
/// the slot before is looked up again.
#[inline(always)]
pub fn remember_flow(src: &Addr, dst: &Addr, way: &Neighbour) {
    if HOLD.load() == 0 {
        return;
    }
    let until = way.until.min(coarse_now() + HOLD.load());
    if let Some(flow) = FLOWS.get_ptr_mut(flow_slot(src, dst)) {
        // SAFETY: as in `count`. If two runs interleave, as on a real-time kernel, a mixed entry
        // sends a frame to a node that decides about it like about any frame from the wire.
        unsafe { *flow = Flow { src: *src, dst: *dst, way: Neighbour { until, ..*way } } };
    }
}

/// The slot of a pair of addresses. A sender with many addresses can evict other flows, which
/// then cost as much as without this memory.
#[inline(always)]
fn flow_slot(src: &Addr, dst: &Addr) -> u32 {
    let fold = |addr: &Addr| {
        let both = u64::from_be(addr.0[0] ^ addr.0[1]);
        (both ^ both >> 32) as u32
    };
    // Multiplying by odd numbers puts neighbouring addresses into different slots.
    let mixed = (fold(src).wrapping_mul(0x9e37_79b1) ^ fold(dst)).wrapping_mul(0x85eb_ca6b);
    mixed >> (32 - maps::MAX_FLOWS.ilog2())
}

/// Adds one packet to a counter.
#[inline(always)]
pub fn count(index: u32, bytes: u32) {
    if let Some(count) = COUNTERS.get_ptr_mut(index) {
        // SAFETY: the value is this CPU's own, and programs do not preempt
        // one another on a CPU.
        unsafe {
            (*count).packets += 1;
            (*count).bytes += u64::from(bytes);
        }
    }
}

/// This CPU's scratch space.
#[inline(always)]
pub fn draft() -> Option<&'static mut Draft> {
    // SAFETY: the value is this CPU's own, programs do not preempt one another
    // on a CPU, and one run takes it once.
    SCRATCH.get_ptr_mut(0).map(|p| unsafe { &mut *p })
}

/// This CPU's two numbers.
#[derive(Clone, Copy)]
pub struct Numbers(*mut [u32; 2]);

impl Numbers {
    /// Sets both.
    #[inline(always)]
    pub fn new(at: u32, end: u32) -> Option<Self> {
        let numbers = Self(CURSOR.get_ptr_mut(0)?);
        numbers.set(at);
        // SAFETY: as in `set`.
        unsafe { core::ptr::write_volatile(&raw mut (*numbers.0)[1], end) };
        Some(numbers)
    }
}

impl Cursor for Numbers {
    #[inline(always)]
    fn set(&self, at: u32) {
        // SAFETY: the value is this CPU's own and valid for this run; volatile
        // keeps the compiler from holding it in a register instead.
        unsafe { core::ptr::write_volatile(&raw mut (*self.0)[0], at) }
    }

    #[inline(always)]
    fn at(&self) -> u32 {
        // SAFETY: as in `set`.
        unsafe { core::ptr::read_volatile(&raw const (*self.0)[0]) }
    }

    #[inline(always)]
    fn end(&self) -> u32 {
        // SAFETY: as in `set`.
        unsafe { core::ptr::read_volatile(&raw const (*self.0)[1]) }
    }
}

/// Whether an address is one of this host's own, on any interface.
#[inline(always)]
pub fn is_own_address(addr: &Addr) -> bool {
    tally();
    // SAFETY: as in `workload`.
    unsafe { OWN_ADDRESSES.get(addr) }.is_some()
}

/// The key of a source address in the budgets of ICMP errors: the address itself if it belongs
/// to a network, a node or this host, else the unspecified address, which all outsiders share.
#[inline(always)]
pub fn sender(src: &Addr) -> Addr {
    if prefix(src).is_some() || is_own_address(src) { *src } else { Addr::UNSPECIFIED }
}

/// The key in the budgets of the log, where a whole network shares one: a machine on the link
/// can forge all addresses of a subnet, and must not fill the log by that.
#[inline(always)]
pub fn logged_for(src: &Addr) -> Addr {
    match prefix(src) {
        Some(found) if found.kind == SUBNET => found.via,
        Some(_) => *src,
        None if is_own_address(src) => *src,
        None => Addr::UNSPECIFIED,
    }
}

/// Takes one ICMP error out of a sender's budget of this second.
#[inline(always)]
pub fn may_send_error(sender: &Addr) -> bool {
    grant(&ICMP_BUDGET, sender, ERRORS_PER_SECOND)
}

/// Whether drops are logged now.
#[inline(always)]
pub fn is_logging() -> bool {
    LOG_DROPS.get(0).is_some_and(|on| *on != 0)
}

/// Passes a drop to the agent's log if the sender's budget allows. Returns whether it did.
#[inline(always)]
pub fn log(sender: &Addr, drop: &Logged) -> bool {
    grant(&LOG_BUDGET, sender, LINES_PER_SECOND) && LOGGED.output::<Logged>(drop, 0).is_ok()
}

/// Takes one out of a budget of so many in a second.
#[inline(always)]
fn grant(budgets: &LruHashMap<Addr, Budget>, sender: &Addr, per_second: u32) -> bool {
    tally();
    // SAFETY: the helper only reads the clock.
    let now = unsafe { bpf_ktime_get_ns() };
    if let Some(budget) = budgets.get_ptr_mut(sender) {
        // SAFETY: the pointer is valid for this run. Two CPUs may race; then
        // one more or less is granted, which the limit does not mind.
        unsafe {
            if now - (*budget).since < 1_000_000_000 {
                (*budget).spent += 1;
                return (*budget).spent <= u64::from(per_second);
            }
        }
    }
    budgets.insert(sender, Budget { since: now, spent: 1 }, 0).is_ok()
}
