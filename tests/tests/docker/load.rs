//! Many containers at once.

use std::{collections::BTreeSet, thread::scope};

use margay_tests::eventually::eventually;
use serde_json::Value;

use crate::{address, appears, containers::no_endpoints, lab, run, well};

/// Containers in all, over three hosts, each host's started a few at a time.
const CONTAINERS: usize = 60;
const AT_ONCE: usize = 4;

#[test]
fn sixty_containers_come_and_go_at_once() {
    let lab = lab(3);
    lab.h(1).docker("network create -d margay --ipam-driver margay --ipv6 --subnet 10.65.0.0/16 --subnet fd00:65::/64 blue");
    lab.hosts.iter().for_each(|host| appears(host, "blue"));
    let share = |host: usize, turn: usize| {
        (0..CONTAINERS).filter(move |i| i % 3 == host && (i / 3) % AT_ONCE == turn)
    };
    scope(|scope| {
        for (number, host) in lab.hosts.iter().enumerate() {
            for turn in 0..AT_ONCE {
                scope.spawn(move || {
                    share(number, turn).for_each(|i| run(host, &format!("c{i}"), "--network blue"))
                });
            }
        }
    });
    let mut taken = BTreeSet::new();
    for (number, host) in lab.hosts.iter().enumerate() {
        for i in (0..AT_ONCE).flat_map(|turn| share(number, turn)) {
            assert!(taken.insert(address(host, &format!("c{i}"), "blue")), "an address twice");
        }
    }
    assert_eq!(taken.len(), CONTAINERS);
    scope(|scope| {
        for (number, host) in lab.hosts.iter().enumerate() {
            for turn in 0..AT_ONCE {
                scope.spawn(move || {
                    share(number, turn).for_each(|i| drop(host.docker(&format!("rm -f c{i}"))))
                });
            }
        }
    });
    for host in &lab.hosts {
        no_endpoints(host);
        assert_eq!(host.docker("ps -aq"), "");
        well(host);
    }
    eventually("the store holds no address", || {
        let dump: Value = serde_json::from_str(&lab.h(1).ok(&["store", "export"])).expect("JSON");
        let blocks =
            dump["entries"].as_object().into_iter().flatten().filter(|(key, _)| key.contains("/ipam/"));
        let held =
            blocks.filter(|(_, value)| value["addresses"].as_object().is_some_and(|a| !a.is_empty())).count();
        if held == 0 { Ok(()) } else { Err(held) }
    });
    lab.h(2).docker("network rm blue");
    eventually("the network is gone", || {
        let networks = lab.h(3).json(&["network", "ls"]);
        if networks == Value::Array(vec![]) { Ok(()) } else { Err(networks) }
    });
}
