//! Every program loads, and can be attached in every way that the kernel has.

use std::path::{Path, PathBuf};

use aya::programs::TcAttachType;
use margay::kernel::{
    self,
    attach::{self, TcMode},
    clear,
    table::HashTable,
    xdp,
};
use margay::tables::XdpAttachment;
use margay_common::{
    endpoint::{INTERNAL, Workload},
    maps::{self, MAX_WORKLOADS},
    verdict::Program,
};
use margay_tests::{
    bpf::{UPLINK, both, mac, node},
    frame::Frame,
    needs::skip,
    programs::{HASH, pin_map},
};

use super::{dropped, forwarded};

#[test]
fn xdp_attaches_in_native_and_generic_mode_and_detaches() {
    let mut node = node();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let netlink = kernel::netlink().expect("netlink");
        let (pins, program) = node.xdp_program();
        let id = program.info().expect("it is loaded").id();
        for native in [true, false, true] {
            // Twice: the second replaces the first, as does another mode.
            for _ in 0..2 {
                xdp::attach(&pins, &netlink, UPLINK, native, program).await.expect("attaches");
                let found = xdp::attached(&pins, &netlink, UPLINK, Some(id)).await.expect("netlink");
                assert_eq!(found, Some(XdpAttachment { native, current: true }));
            }
        }
        assert!(xdp::detach(&pins, UPLINK).expect("detaches"));
        assert_eq!(xdp::attached(&pins, &netlink, UPLINK, Some(id)).await.expect("netlink"), None);
        assert!(!xdp::detach(&pins, UPLINK).expect("nothing is there"));
    });
}

#[test]
fn every_program_attaches_by_clsact_and_detaches() {
    attaches_and_detaches(TcMode::Clsact);
}

#[test]
fn every_program_attaches_by_tcx_and_detaches() {
    match TcMode::probe() {
        TcMode::Tcx => attaches_and_detaches(TcMode::Tcx),
        TcMode::Clsact => skip("this kernel has no tcx"),
    }
}

fn attaches_and_detaches(mode: TcMode) {
    let mut node = node();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let netlink = kernel::netlink().expect("netlink");
        for program in Program::ALL {
            let Some(hook) = attach::hook(*program) else { continue };
            let (pins, loaded) = node.program(*program);
            // Twice: the second replaces the first.
            for _ in 0..2 {
                attach::attach(mode, &pins, &netlink, UPLINK, hook, loaded).await.expect("attaches");
            }
            let found = attach::attached(mode, &pins, &netlink, UPLINK).await.expect("netlink");
            let id = loaded.info().expect("it is loaded").id();
            let is_egress = matches!(hook, TcAttachType::Egress);
            let (at, by) = found.unwrap_or_else(|| panic!("{mode:?}: {} is not attached", program.label()));
            assert_eq!((matches!(at, TcAttachType::Egress), by), (is_egress, id), "{mode:?}");
            assert!(attach::detach(&pins, &netlink, UPLINK).await.expect("detaches"));
            let found = attach::attached(mode, &pins, &netlink, UPLINK).await.expect("netlink");
            assert!(found.is_none(), "{mode:?}: {found:?}");
        }
    });
}

#[test]
fn interfaces_with_colliding_slots_are_both_served() {
    let mut node = node();
    let own = node.ifindex("c1");
    let (other, workload) = (own + MAX_WORKLOADS, node.maps().workloads.read().expect("the map")[&own]);
    let workloads = &mut node.maps().workloads;
    workloads.remove(own).expect("it is there");
    workloads.put(other, Workload { network: 7, ..workload }).expect("there is room");
    let send = |node: &mut margay_tests::bpf::Node| {
        node.from_workload("c1", &Frame::udp(mac("c1"), both(1, 2)[0], both(1, 70)[0]).bytes())
    };
    let unknown = send(&mut node);
    node.maps().workloads.put(own, workload).expect("there is room");
    let beyond = send(&mut node);
    let workloads = &mut node.maps().workloads;
    workloads.remove(other).expect("it is there");
    // A spilled entry stays in the hash, and its replacement is atomic for readers.
    let changed = Workload { flags: INTERNAL, ..workload };
    workloads.put(own, changed).expect("it is there");
    let (all, spilled) = (workloads.read().expect("the map"), workloads.spilled().expect("the map"));
    let freed = send(&mut node);
    node.maps().workloads.remove(own).expect("it is there");
    let gone = send(&mut node);
    node.maps().workloads.put(own, workload).expect("there is room");
    dropped(&unknown, "from_workload", "unknown_interface");
    forwarded(&beyond, "from_workload", "remote");
    assert_eq!((all.get(&own), all.get(&other)), (Some(&changed), None));
    assert_eq!(spilled, [(own, changed)].into());
    forwarded(&freed, "from_workload", "remote");
    dropped(&gone, "from_workload", "unknown_interface");
}

/// An agent empties the tables of an earlier version in this way.
#[test]
fn a_table_of_another_layout_is_emptied() {
    let dir = Path::new("/sys/fs/bpf").join(format!("margay-test-layout-{}", std::process::id()));
    std::fs::create_dir(&dir).expect("a bpffs");
    let _removed = Removed(dir.clone());
    let pin = dir.join(maps::ROUTES.name);
    pin_map(&pin, HASH, 20, 32, 5_000);
    let mut routes: HashTable<[u8; 20], [u8; 32]> = HashTable::open(&pin).expect("the map");
    for i in 0..5_000_u32 {
        let mut key = [0; 20];
        key[..4].copy_from_slice(&i.to_ne_bytes());
        routes.put(key, [7; 32]).expect("there is room");
    }
    clear::map(&pin);
    assert!(routes.read().expect("the map").is_empty());
}

/// A folder that goes with its pins.
struct Removed(PathBuf);

impl Drop for Removed {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).expect("ours");
    }
}

#[test]
fn full_map_refuses_new_entries_and_keeps_old_ones() {
    let mut node = node();
    let workloads = &mut node.maps().workloads;
    let before = workloads.read().expect("the map");
    // All keys share one slot: the first takes it, the others spill into the hash.
    let keys = (64..).map(|i| i * MAX_WORKLOADS);
    let mut added = Vec::new();
    let refusal = keys.take(MAX_WORKLOADS as usize + 2).find_map(|key| {
        added.push(key);
        workloads.put(key, Workload::default()).err()
    });
    let refusal = format!("{:#}", refusal.expect("it has a capacity"));
    assert!(refusal.contains("the map is full"), "{refusal}");
    for key in added {
        workloads.remove(key).expect("what is not there is fine");
    }
    assert_eq!(workloads.read().expect("the map"), before);
}
