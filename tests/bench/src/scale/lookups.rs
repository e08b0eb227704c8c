//! The look-up alone: a hash of the masked address, as routes have it, and a trie
//! of the same prefixes, as routes could have it.

use std::{
    fs,
    os::fd::{AsFd, AsRawFd},
    path::{Path, PathBuf},
};

use aya::{
    TestRun, TestRunOptions,
    maps::{MapData, lpm_trie::LpmTrie},
    programs::Xdp,
};
use aya_obj::programs::XdpAttachType;
use margay::kernel::table::HashTable;
use margay_common::{
    net::Addr,
    route::{Route, RouteKey},
};
use margay_tests::programs::{Hook, lookup, pin, pin_map};
use zerocopy::IntoBytes;

use super::{DRAWS, HOPS, SIZES, block, dst, route};

/// `enum bpf_map_type`.
const HASH: u32 = 1;
const LPM_TRIE: u32 = 11;

/// Length of a key in such a map: a route's, or the length of a prefix and its address.
const fn key_len(kind: u32) -> usize {
    if kind == HASH { size_of::<RouteKey>() } else { size_of::<u32>() + size_of::<Addr>() }
}

/// Prints the times above a program that does all but the look-up.
pub fn measure() {
    println!("\n| routes | hash: hot, ns | random, ns | trie: hot, ns | random, ns |\n|--:|--:|--:|--:|--:|");
    for routes in SIZES {
        let [hash, trie] = [("hash", HASH), ("trie", LPM_TRIE)].map(|(name, kind)| {
            let map = make(name, kind, routes);
            let nothing = Prober::new("nothing", kind, None);
            let prober = Prober::new(name, kind, Some(map.fd().as_fd().as_raw_fd() as u32));
            [1, routes].map(|among| prober.time(among) - nothing.time(among))
        });
        let words = [hash[0], hash[1], trie[0], trie[1]].map(|time| format!("{time:.0}"));
        println!("| {routes} | {} |", words.join(" | "));
    }
}

fn path(name: &str) -> PathBuf {
    Path::new("/sys/fs/bpf").join(format!("margay-bench-{name}"))
}

/// A map of the blocks.
fn make(name: &str, kind: u32, routes: u32) -> MapData {
    let path = path(name);
    pin_map(&path, kind, key_len(kind) as u32, size_of::<Route>() as u32, routes);
    let map = MapData::from_pin(&path).expect("just pinned");
    if kind == HASH {
        let mut table: HashTable<RouteKey, Route> = HashTable::open(&path).expect("a hash");
        (0..routes).for_each(|i| table.put(block(i), route(HOPS[0])).expect("it takes them"));
    } else {
        let map = MapData::from_pin(&path).expect("just pinned");
        let mut trie =
            LpmTrie::<_, [u8; 16], [u8; size_of::<Route>()]>::try_from(aya::maps::Map::LpmTrie(map))
                .expect("a trie");
        for i in 0..routes {
            let block = block(i);
            let key = aya::maps::lpm_trie::Key::new(block.prefix_len(), bytes(&block.addr));
            let value: [u8; size_of::<Route>()] = route(HOPS[0]).as_bytes().try_into().expect("its size");
            trie.insert(&key, value, 0).expect("it takes them");
        }
    }
    fs::remove_file(path).expect("our own");
    map
}

fn bytes(addr: &margay_common::net::Addr) -> [u8; 16] {
    addr.as_bytes().try_into().expect("its size")
}

/// A program that looks up, and the kind of map that it does it in.
struct Prober(Xdp, u32);

impl Prober {
    fn new(name: &str, kind: u32, map: Option<u32>) -> Self {
        let path = path(&format!("{name}-prober"));
        pin(&path, Hook::Xdp, &lookup(key_len(kind) as u32, map));
        let program = Xdp::from_pin(&path, XdpAttachType::Interface).expect("just pinned");
        fs::remove_file(path).expect("our own");
        Self(program, kind)
    }

    /// Nanoseconds of a run, with keys drawn among the first blocks.
    fn time(&self, among: u32) -> f64 {
        let mut rng = fastrand::Rng::with_seed(1);
        let before = margay_tests::bpf::statistics(self.0.fd().expect("loaded").as_fd());
        for _ in 0..DRAWS {
            let i = rng.u32(0..among);
            let mut frame = [0; 64];
            let key = match self.1 {
                HASH => block(i).as_bytes().to_vec(),
                _ => [128_u32.as_bytes(), Addr::from(dst(i)).as_bytes()].concat(),
            };
            frame[..key.len()].copy_from_slice(&key);
            let options = TestRunOptions { data_in: Some(&frame), ..TestRunOptions::default() };
            self.0.test_run(options).expect("it runs");
        }
        let after = margay_tests::bpf::statistics(self.0.fd().expect("loaded").as_fd());
        (after.0 - before.0) / (after.1 - before.1)
    }
}
