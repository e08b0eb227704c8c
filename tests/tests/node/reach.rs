//! Host and container in both directions, whatever the host's own switches
//! say; traceroute; both ways of attaching programs.

use aya::programs::{
    TcAttachType,
    links::LinkOrder,
    tc::{NlOptions, TcAttachOptions, TcHandle},
};
use margay::kernel::{counters, datapath::Datapath, pins::Pins};
use margay_common::verdict::Program;
use margay_tests::{
    eventually::eventually,
    host::UPLINK,
    lab::{Lab, Plan},
};
use nix::sched::{CloneFlags, setns};

use crate::attach::one_host;

/// Every pair of one host and its containers, both families.
#[track_caller]
fn everything_answers(lab: &Lab) {
    let host = lab.h(1);
    let (a, addr_a) = lab.attached(1, "blue");
    let (b, addr_b) = lab.attached(1, "blue");
    for family in 0..2 {
        assert!(a.pings(addr_b[family], 2), "container to container");
        assert!(b.pings(addr_a[family], 2), "and back");
        assert!(host.namespace.pings(addr_a[family], 2), "host to container");
        assert!(a.pings(host.addresses[family], 2), "container to host");
    }
}

/// Sets a switch before anything is made, as an administrator would have.
fn with_switches(rp_filter: &str, forwarding: &str) {
    let mut lab = Lab::without_agents(Plan::for_test(1));
    for place in ["all", "default"] {
        lab.h(1).namespace.sysctl(&format!("net.ipv4.conf.{place}.rp_filter"), rp_filter);
    }
    lab.h(1).namespace.sysctl("net.ipv4.ip_forward", forwarding);
    lab.host(1).up();
    lab.h(1).ok(&["network", "create", "blue", "--subnet", "10.1.0.0/16", "--subnet", "fd00:1::/64"]);
    everything_answers(&lab);
}

#[test]
fn host_and_containers_reach_each_other_with_rp_filter_off() {
    with_switches("0", "0");
    with_switches("0", "1");
}

#[test]
fn host_and_containers_reach_each_other_with_strict_rp_filter() {
    with_switches("1", "0");
    with_switches("1", "1");
}

#[test]
fn host_and_containers_reach_each_other_with_loose_rp_filter() {
    with_switches("2", "0");
    with_switches("2", "1");
}

#[test]
fn tcx_mode_serves_containers_and_leaves_foreign_packets_to_others() {
    attached_by("tcx");
}

#[test]
fn clsact_mode_serves_containers_and_leaves_foreign_packets_to_others() {
    attached_by("clsact");
}

fn attached_by(mode: &str) {
    let mut lab = Lab::without_agents(Plan::for_test(1));
    lab.host(1).flags = vec!["--tc-mode".into(), mode.into()];
    lab.host(1).up();
    containers_answer_in_the_given_mode(&lab, mode);
    // Last: this thread enters the host's namespace.
    other_tc_programs_see_what_is_not_ours(&lab, mode);
}

fn containers_answer_in_the_given_mode(lab: &Lab, mode: &str) {
    lab.h(1).ok(&["network", "create", "blue", "--subnet", "10.1.0.0/16", "--subnet", "fd00:1::/64"]);
    everything_answers(lab);
    assert_eq!(lab.h(1).json(&["status"])["tc_mode"], mode);
    let filters = lab.h(1).namespace.sh("tc filter show dev up0 ingress");
    assert_eq!(filters.contains("from_network"), mode == "clsact", "{filters}");
}

#[test]
fn containers_stay_reachable_after_a_change_between_clsact_and_tcx() {
    let mut lab = one_host();
    let (a, _) = lab.attached(1, "blue");
    let (_b, addr_b) = lab.attached(1, "blue");
    for mode in ["clsact", "tcx", "clsact"] {
        lab.host(1).stop();
        lab.host(1).flags = vec!["--tc-mode".into(), mode.into()];
        lab.host(1).up();
        assert!(a.pings(addr_b[0], 2) && a.pings(addr_b[1], 2), "{mode}");
        let links = std::fs::read_dir(lab.plan.bpffs.join("h1/links")).expect("a folder").count();
        assert_eq!(links == 0, mode == "clsact", "{links} links with {mode}");
    }
}

/// Another program at the same hook, behind ours: it counts what it sees.
fn other_program(lab: &Lab, mode: &str) -> Datapath {
    let pins = Pins::create(&lab.plan.bpffs.join("other")).expect("a bpffs");
    let mut other = Datapath::load(&pins, Default::default()).expect("the programs load");
    let file = std::fs::File::open(lab.h(1).namespace.path()).expect("the namespace");
    setns(file, CloneFlags::CLONE_NEWNET).expect("root may enter");
    let options = match mode {
        "tcx" => TcAttachOptions::TcxOrder(LinkOrder::default()),
        _ => TcAttachOptions::Netlink(NlOptions {
            priority: 60_000,
            handle: TcHandle::new(0, 7),
            classid: None,
        }),
    };
    let program = other.programs.get_mut(&Program::FromNetwork).expect("loaded");
    program.attach_with_options(UPLINK, TcAttachType::Ingress, options).expect("attaches");
    other
}

fn other_tc_programs_see_what_is_not_ours(lab: &Lab, mode: &str) {
    let other = other_program(lab, mode);
    assert!(lab.h(1).namespace.pings("192.0.2.254".parse().expect("a literal"), 3));
    eventually("the answers are counted", || {
        let seen = counters::read(&other.maps.counters).expect("counters");
        let seen: u64 = seen.iter().filter(|c| c.program == "from_network").map(|c| c.packets).sum();
        if seen >= 3 { Ok(()) } else { Err((mode, seen)) }
    });
}
