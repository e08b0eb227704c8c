//! An etcd of three members of which some are broken.

use margay_tests::{
    eventually::eventually,
    host::Host,
    lab::{Lab, Plan},
    members::{Broken, EVERY_WAY, MEMBERS, Members},
};

/// Two hosts whose agents use an etcd of three members.
fn lab() -> (Lab, Members) {
    let mut lab = Lab::without_etcd(Plan::for_test(2));
    let members = Members::start(&mut lab);
    lab.hosts.iter_mut().for_each(Host::up);
    (lab, members)
}

fn hears(host: &Host, network: &str) {
    eventually("the other agent hears of it", || {
        let networks = host.json(&["network", "ls"]);
        if networks.to_string().contains(&format!("\"{network}\"")) { Ok(()) } else { Err(networks) }
    });
}

/// Asks both agents for what changes the store, each in turn: nothing may be refused.
fn nothing_is_refused(lab: &Lab, round: usize) {
    for (i, host) in [1, 2, 1, 2].into_iter().enumerate() {
        let name = format!("n{round}x{i}");
        let subnet = format!("10.{}.{}.0/24", 100 + round, i);
        lab.h(host).ok(&["network", "create", &name, "--subnet", &subnet]);
        hears(lab.h(3 - host), &name);
        let container = lab.container();
        lab.h(host).attach(&container, &name, &[]);
        lab.h(host).detach(&container);
        lab.h(host).ok(&["network", "rm", &name]);
    }
}

#[test]
fn one_broken_member_of_three_has_nothing_refused() {
    let (lab, mut members) = lab();
    for (i, how) in EVERY_WAY.into_iter().enumerate() {
        for k in 0..MEMBERS {
            members.break_one(k, how);
            if how != Broken::Mute {
                let others: Vec<usize> = (0..MEMBERS).filter(|other| *other != k).collect();
                members.agree(&lab, &others);
            }
            println!("member {k}: {how:?}");
            nothing_is_refused(&lab, i * MEMBERS + k);
            members.mend(&lab, k);
        }
    }
    for host in &lab.hosts {
        assert!(!host.log().contains("the store is away"), "{}", host.log());
        host.settled();
    }
}
