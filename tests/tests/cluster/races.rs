//! Nodes that want the same thing at the same moment.

use std::{collections::BTreeSet, net::IpAddr, thread};

use margay_tests::{container::Namespace, lab::Lab};

#[test]
fn simultaneous_attaches_on_one_node_are_each_done_once() {
    let lab = Lab::new(1);
    many_attaches_at_once_on_one_node(&lab);
    the_same_attach_at_once_is_one_attach(&lab);
}

fn many_attaches_at_once_on_one_node(lab: &Lab) {
    lab.h(1).ok(&["network", "create", "blue", "--subnet", "10.1.0.0/16", "--subnet", "fd00:1::/64"]);
    let containers: Vec<Namespace> = (0..24).map(|_| lab.container()).collect();
    let mut given: Vec<Vec<IpAddr>> = thread::scope(|scope| {
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

fn the_same_attach_at_once_is_one_attach(lab: &Lab) {
    lab.h(1).ok(&["network", "create", "red", "--subnet", "10.2.0.0/16"]);
    let c = lab.container();
    let given: BTreeSet<Vec<IpAddr>> = thread::scope(|scope| {
        let threads: Vec<_> = (0..6).map(|_| scope.spawn(|| lab.h(1).attach(&c, "red", &[]))).collect();
        threads.into_iter().map(|thread| thread.join().expect("attaches")).collect()
    });
    assert_eq!(given.len(), 1, "{given:?}");
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
