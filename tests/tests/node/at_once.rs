//! An attached container is reachable at once: the first packet gets through, even if the
//! kernel is still working when it has answered.

use std::{
    fs::File,
    net::IpAddr,
    thread::{ScopedJoinHandle, scope},
};

use margay::kernel::{netlink, netns::Netns, ready};
use margay_tests::{
    container::Namespace,
    eventually::eventually,
    lab::{Lab, Plan},
    process::Process,
};
use nix::sched::{CloneFlags, setns};
use tokio::runtime::{Builder, Runtime};

use crate::attach::one_host;

/// Pairs of interfaces. The kernel's link watch opens the queues of 200 at once and has the
/// others wait for up to a second.
const PAIRS: usize = 150;
/// Rounds of two simultaneous attaches.
const ROUNDS: usize = 10;
/// Containers that are attached meanwhile.
const CONTAINERS: usize = 12;

#[test]
fn first_packets_after_an_attach_get_through_while_many_interfaces_change() {
    let lab = one_host();
    let elsewhere = lab.container();
    let pair =
        |i| format!("link add v{i} type veth peer name p{i}\nlink set v{i} group 7\nlink set p{i} group 7\n");
    let batch = lab.h(1).dir().join("batch");
    std::fs::write(&batch, (0..PAIRS).map(pair).collect::<String>()).expect("a file");
    elsewhere.sh(&format!("ip -batch {}", batch.display()));
    // One command sets all interfaces of a group up.
    let mut toggle = elsewhere.command("sh");
    toggle.args(["-c", "while true; do ip link set group 7 up; ip link set group 7 down; done"]);
    let _busy = Process::start(toggle, &lab.h(1).dir().join("busy.log"), true);
    first_packets_get_through(&lab);
}

/// Attaches containers, and has the first packet of each kind come back.
fn first_packets_get_through(lab: &Lab) {
    let host = &lab.h(1).namespace;
    let (neighbour, neighbours) = lab.attached(1, "blue");
    let gateways: [IpAddr; 2] = ["10.1.0.1", "fd00:1::1"].map(|addr| addr.parse().expect("a literal"));
    let mut lost = Vec::new();
    for i in 0..CONTAINERS {
        let (container, addresses) = lab.attached(1, "blue");
        for family in [0, 1] {
            let ways = [
                ("to the gateway", &container, gateways[family]),
                ("from the host", host, addresses[family]),
                ("from a neighbour", &neighbour, addresses[family]),
                ("to a neighbour", &container, neighbours[family]),
            ];
            let missing = ways.into_iter().filter(|(_, from, to)| !from.pings(*to, 1));
            lost.extend(missing.map(|(way, _, to)| format!("container {i}: {way}, {to}")));
        }
        lab.h(1).detach(&container);
    }
    assert!(lost.is_empty(), "{lost:#?}");
}

/// A test cannot delay the kernel's acceptance of an IPv6 address. Removing the routing rule for
/// local addresses has the same effect.
#[test]
fn attach_returns_once_ipv6_is_delivered() {
    let lab = one_host();
    let container = lab.container();
    container.sh("ip -6 rule del pref 0");
    let pings = scope(|scope| {
        let attached = scope.spawn(|| {
            let addresses = lab.h(1).attach(&container, "blue", &[]);
            lab.h(1).namespace.pings(addresses[1], 1)
        });
        eventually("the container has its routes", || {
            let routes = container.sh("ip -6 route show default");
            if routes.contains("fd00:1::1") { Ok(()) } else { Err(routes) }
        });
        lab.h(1).json(&["status"]);
        container.sh("ip -6 rule add pref 0 lookup local");
        container.sh("ip -6 route add blackhole fd00:99::/64");
        attached.join().expect("no panic")
    });
    assert!(pings, "the first packet");
}

#[test]
fn attach_waits_until_the_namespace_has_the_address() {
    let namespace = Namespace::new(&format!("{}-own", Plan::every_prefix()));
    let runtime = Runtime::new().expect("a runtime");
    let netns = runtime.block_on(Netns::open(&namespace.path())).expect("a namespace");
    let netlink = runtime.block_on(netns.netlink()).expect("netlink");
    let addr = "fd00:1::7".parse().expect("a literal");
    scope(|scope| {
        let waiting = scope.spawn(|| runtime.block_on(ready::address(&netlink, &netns, addr)));
        still_waits(&namespace, &waiting);
        namespace.sh(&format!("ip addr add {addr}/128 dev lo nodad"));
        waiting.join().expect("no panic").expect("it is the namespace's own");
    });
}

#[test]
fn attach_waits_until_the_peer_interface_is_up() {
    let namespace = Namespace::new(&format!("{}-queue", Plan::every_prefix()));
    namespace.sh("ip link add v0 type veth peer name v1");
    namespace.sh("ip link set v0 up");
    let netns = File::open(namespace.path()).expect("a namespace");
    scope(|scope| {
        let waiting = scope.spawn(|| {
            setns(&netns, CloneFlags::CLONE_NEWNET).expect("root may enter");
            // The runtime's only thread is this one, which is in the namespace.
            let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async { ready::queue(&netlink().expect("netlink"), "v0").await })
        });
        still_waits(&namespace, &waiting);
        namespace.sh("ip link set v1 up");
        waiting.join().expect("no panic").expect("it takes packets");
    });
}

/// Checks that a thread still waits. Without a reason to wait it would end before a process
/// has started and ended.
#[track_caller]
fn still_waits<T>(namespace: &Namespace, waiting: &ScopedJoinHandle<'_, T>) {
    namespace.sh("ip addr");
    assert!(!waiting.is_finished(), "it does not wait");
}

/// An endpoint that is being attached has no interface yet, like one whose container is gone.
#[test]
fn one_of_two_simultaneous_attaches_under_one_name_is_refused() {
    let lab = one_host();
    for round in 0..ROUNDS {
        let containers = [lab.container(), lab.container()];
        let said = scope(|scope| {
            let attach = |container: &Namespace| {
                let path = container.path().display().to_string();
                lab.h(1).margay(&[
                    "endpoint",
                    "attach",
                    "--network",
                    "blue",
                    "--netns",
                    &path,
                    "--name",
                    "web",
                ])
            };
            let both = [&containers[0], &containers[1]].map(|c| scope.spawn(move || attach(c)));
            both.map(|one| one.join().expect("no panic"))
        });
        let [winner, loser] = if said[0].ok() { [0, 1] } else { [1, 0] };
        assert!(said[winner].ok() && !said[loser].ok(), "round {round}: {said:?}");
        let told = &said[loser].err;
        assert!(told.contains("of network blue is named web already"), "round {round}: {told}");
        let found = lab.h(1).json(&["endpoint", "ls"]);
        assert_eq!(found.as_array().map(Vec::len), Some(1), "round {round}: {found}");
        lab.h(1).detach(&containers[winner]);
    }
}
