//! Blocks and addresses of several nodes: shared, borrowed, and never given twice.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    thread,
};

use margay_tests::{container::Namespace, eventually::eventually, host::Host, lab::Lab, process::Said};

use crate::{matrix::routed, store::etcdctl};

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// The blocks of a network, as a host lists them.
fn blocks(host: &Host, network: &str) -> Vec<String> {
    let networks = host.json(&["network", "ls"]);
    let found = networks.as_array().expect("a list").iter().find(|found| found["name"] == network);
    let blocks = found.and_then(|found| found["blocks"].as_array()).expect("the network");
    blocks.iter().map(|block| block["cidr"].as_str().expect("a block").to_owned()).collect()
}

#[test]
fn nodes_share_subnets_by_blocks_and_give_no_address_twice() {
    let lab = Lab::new(3);
    a_new_block_is_seen_by_the_others(&lab);
    a_fixed_address_may_lie_in_another_nodes_block(&lab);
    a_full_subnet_is_shared_by_borrowing(&lab);
    no_block_or_address_has_two_owners(&lab);
    overlapping_networks_are_never_both_created(&lab);
}

fn a_new_block_is_seen_by_the_others(lab: &Lab) {
    lab.h(1).ok(&["network", "create", "new", "--subnet", "10.2.0.0/24"]);
    // Blocks of four: one holds the gateway and two endpoints.
    let mut here = Vec::new();
    for _ in 0..7 {
        here.push(lab.attached(1, "new"));
    }
    routed(lab);
    assert_eq!(blocks(lab.h(2), "new").len(), 3);
    let (c, _) = lab.attached(2, "new");
    routed(lab);
    for (_, addresses) in &here {
        assert!(c.pings(addresses[0], 1), "{addresses:?}");
    }
}

fn a_fixed_address_may_lie_in_another_nodes_block(lab: &Lab) {
    lab.h(1).ok(&["network", "create", "fixed", "--subnet", "10.1.0.0/24", "--subnet", "fd00:1::/64"]);
    let (a, addr_a) = lab.attached(1, "fixed");
    assert_eq!(blocks(lab.h(1), "fixed")[0], "10.1.0.0/30");
    let b = lab.container();
    let wanted = ["--ip", "10.1.0.3", "--ip", "fd00:1::5"];
    let attach = |host: usize, container: &Namespace, more: &[&str]| {
        let path = container.path().display().to_string();
        let args = ["endpoint", "attach", "--network", "fixed", "--netns", &path];
        lab.h(host).refused(&[&args[..], more].concat())
    };
    let kept = attach(2, &b, &wanted[..2]);
    assert!(kept.contains("in the stash of node h1"), "{kept}");
    // In IPv6, blocks are larger than the stash.
    let addr_b = lab.h(2).attach(&b, "fixed", &wanted[2..]);
    assert_eq!(addr_b[1], ip("fd00:1::5"));
    let (c, addr_c) = lab.attached(3, "fixed");
    eventually("the others route the single address", || {
        let of = |host: usize| lab.h(host).json(&["route", "ls"]).to_string();
        let routes = [of(1), of(3)];
        if routes.iter().all(|routes| routes.contains("fd00:1::5/128")) { Ok(()) } else { Err(routes) }
    });
    routed(lab);
    for (container, addresses) in
        [(&a, [addr_b[1], addr_c[1]]), (&b, [addr_a[1], addr_c[1]]), (&c, [addr_a[1], addr_b[1]])]
    {
        for addr in addresses {
            assert!(container.pings(addr, 1), "{} to {addr}", container.name());
        }
    }
    let taken = attach(1, &lab.container(), &wanted[2..]);
    assert!(taken.contains("is gone") || taken.contains("taken"), "{taken}");
    lab.h(2).detach(&b);
    eventually("its route goes with it", || {
        let routes = lab.h(1).json(&["route", "ls"]).to_string();
        if routes.contains("fd00:1::5/128") { Err(routes) } else { Ok(()) }
    });
    let d = lab.container();
    let addr_d = lab.h(1).attach(&d, "fixed", &wanted[2..]);
    assert!(addr_d.contains(&ip("fd00:1::5")) && c.pings(ip("fd00:1::5"), 1));
}

fn a_full_subnet_is_shared_by_borrowing(lab: &Lab) {
    // Two blocks of four; h3 finds none.
    lab.h(1).ok(&["network", "create", "tiny", "--subnet", "10.3.0.0/29"]);
    let members: Vec<_> = [1, 2, 3].map(|host| lab.attached(host, "tiny")).into();
    routed(lab);
    for (from, _) in &members {
        for (_, to) in &members {
            eventually("all reach all", || if from.reaches(to[0]) { Ok(()) } else { Err(to[0]) });
        }
    }
    let mut more = Vec::new();
    let refusal = loop {
        let c = lab.container();
        let path = c.path().display().to_string();
        let said = lab.h(3).margay(&["endpoint", "attach", "--network", "tiny", "--netns", &path]);
        more.push(c);
        if said.status != 0 {
            break said.err;
        }
        assert!(more.len() < 6, "a subnet of eight has five addresses for endpoints");
    };
    assert!(refusal.contains("10.3.0.0/29 is exhausted"), "{refusal}");
}

fn no_block_or_address_has_two_owners(lab: &Lab) {
    // Blocks of four: every third attach needs a new one.
    lab.h(1).ok(&["network", "create", "contended", "--subnet", "10.4.0.0/24"]);
    let containers: Vec<Vec<Namespace>> =
        (0..3).map(|_| (0..10).map(|_| lab.container()).collect()).collect();
    let given: Vec<(usize, IpAddr)> = thread::scope(|scope| {
        let attach = |i: usize| {
            let containers = &containers;
            scope.spawn(move || {
                let attach = |c: &Namespace| (i, lab.h(i + 1).attach(c, "contended", &[])[0]);
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

fn overlapping_networks_are_never_both_created(lab: &Lab) {
    for round in 0..10 {
        let said: Vec<(String, Said)> = thread::scope(|scope| {
            let create = |i: usize| {
                let (name, subnet) = (format!("n{round}x{i}"), format!("10.{}.0.0/{}", 100 + round, 16 + i));
                scope.spawn(move || {
                    let said = lab.h(i + 1).margay(&["network", "create", &name, "--subnet", &subnet]);
                    (name, said)
                })
            };
            let threads: Vec<_> = (0..3).map(create).collect();
            threads.into_iter().map(|thread| thread.join().expect("runs")).collect()
        });
        let there = eventually("one of them is there", || match &named(lab, &format!("n{round}x"))[..] {
            [one] => Ok(one.clone()),
            other => Err(other.to_vec()),
        });
        for (name, said) in &said {
            let right = if *name == there { said.ok() } else { said.err.contains("overlaps") };
            // A request that timed out may have succeeded or not.
            let late = ["the store is away", "did not finish this within"];
            let late = late.iter().any(|reason| said.err.contains(reason));
            assert!(right || late, "{name}, while {there} is there: {said:?}");
        }
    }
}

/// The names of the store's networks that begin with a prefix.
fn named(lab: &Lab, prefix: &str) -> Vec<String> {
    let values = etcdctl(lab, &["get", "--prefix", "--print-value-only", "/margay/v1/networks/"]);
    let name = |line: &str| {
        let network: serde_json::Value = serde_json::from_str(line).expect("JSON");
        network["name"].as_str().expect("a name").to_owned()
    };
    let names = values.lines().filter(|line| !line.is_empty()).map(name);
    names.filter(|name| name.starts_with(prefix)).collect()
}
