//! Nodes that want the same thing at the same moment.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    thread,
};

use margay_tests::{container::Namespace, lab::Lab};

#[test]
fn blocks_and_addresses_are_nobody_elses() {
    let lab = Lab::new(3);
    // Blocks of four: every third attach needs a new one.
    lab.h(1).ok(&["network", "create", "blue", "--subnet", "10.1.0.0/24"]);
    let containers: Vec<Vec<Namespace>> =
        (0..3).map(|_| (0..10).map(|_| lab.container()).collect()).collect();
    let given: Vec<(usize, IpAddr)> = thread::scope(|scope| {
        let attach = |i: usize| {
            let (lab, containers) = (&lab, &containers);
            scope.spawn(move || {
                let attach = |c: &Namespace| (i, lab.h(i + 1).attach(c, "blue", &[])[0]);
                containers[i].iter().map(attach).collect::<Vec<_>>()
            })
        };
        let threads: Vec<_> = (0..3).map(attach).collect();
        threads.into_iter().flat_map(|thread| thread.join().expect("attaches")).collect()
    });
    let distinct: BTreeSet<IpAddr> = given.iter().map(|(_, addr)| *addr).collect();
    assert_eq!(distinct.len(), 30, "no address twice");
    let mut owner = BTreeMap::new();
    for (host, addr) in given {
        let IpAddr::V4(v4) = addr else { panic!("IPv4 only") };
        let block = v4.to_bits() >> 2;
        assert_eq!(*owner.entry(block).or_insert(host), host, "{addr}'s block has two owners");
    }
}

#[test]
fn many_attaches_at_once_on_one_node() {
    let lab = Lab::new(1);
    lab.h(1).ok(&["network", "create", "blue", "--subnet", "10.1.0.0/16", "--subnet", "fd00:1::/64"]);
    let containers: Vec<Namespace> = (0..24).map(|_| lab.container()).collect();
    let mut given: Vec<Vec<IpAddr>> = thread::scope(|scope| {
        let lab = &lab;
        let attach = |c| scope.spawn(move || lab.h(1).attach(c, "blue", &[]));
        let threads: Vec<_> = containers.iter().map(attach).collect();
        threads.into_iter().map(|thread| thread.join().expect("attaches")).collect()
    });
    given.sort();
    given.dedup();
    assert_eq!(given.len(), 24);
    for addresses in given.iter().step_by(5) {
        assert!(containers[0].pings(addresses[0], 1) && containers[0].pings(addresses[1], 1));
    }
}

#[test]
fn the_same_attach_at_once_is_one_attach() {
    let lab = Lab::new(1);
    lab.h(1).ok(&["network", "create", "blue", "--subnet", "10.1.0.0/16"]);
    let c = lab.container();
    let given: BTreeSet<Vec<IpAddr>> = thread::scope(|scope| {
        let threads: Vec<_> = (0..6).map(|_| scope.spawn(|| lab.h(1).attach(&c, "blue", &[]))).collect();
        threads.into_iter().map(|thread| thread.join().expect("attaches")).collect()
    });
    assert_eq!(given.len(), 1, "{given:?}");
}

#[test]
fn overlapping_networks_never_both_come_about() {
    let lab = Lab::new(3);
    for round in 0..10 {
        let won: Vec<bool> = thread::scope(|scope| {
            let create = |i: usize| {
                let lab = &lab;
                let (name, subnet) = (format!("n{round}x{i}"), format!("10.{round}.0.0/{}", 16 + i));
                scope.spawn(move || {
                    lab.h(i + 1).margay(&["network", "create", &name, "--subnet", &subnet]).ok()
                })
            };
            let threads: Vec<_> = (0..3).map(create).collect();
            threads.into_iter().map(|thread| thread.join().expect("runs")).collect()
        });
        assert_eq!(won.iter().filter(|won| **won).count(), 1, "round {round}: {won:?}");
    }
}

#[test]
fn attaching_and_removing_a_network_exclude_each_other() {
    let lab = Lab::new(2);
    for round in 0..8 {
        let name = format!("n{round}");
        lab.h(1).ok(&["network", "create", &name, "--subnet", &format!("10.{round}.0.0/16")]);
        let c = lab.container();
        let path = c.path().display().to_string();
        let (attached, removed) = thread::scope(|scope| {
            let attach = scope
                .spawn(|| lab.h(2).margay(&["endpoint", "attach", "--network", &name, "--netns", &path]));
            let remove = scope.spawn(|| lab.h(1).margay(&["network", "rm", &name]));
            (attach.join().expect("runs"), remove.join().expect("runs"))
        });
        assert!(attached.ok() != removed.ok(), "round {round}: {attached:?} {removed:?}");
        assert_eq!(c.run("ip link show eth0").ok(), attached.ok(), "whole or not at all");
    }
}
