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
fn no_request_fails_while_one_etcd_member_of_three_is_broken() {
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

/// The agent's report of the problem, which must not quote etcd's error text.
fn problems(host: &Host) -> String {
    let status = host.json(&["status"]);
    let text = status["problems"].to_string();
    for jargon in ["grpc", "tonic", "transport error", "os error", "etcdserver"] {
        assert!(!text.contains(jargon) && !host.log().contains(jargon), "{jargon}: {text} {}", host.log());
    }
    text
}

#[test]
fn lost_etcd_majority_is_reported_and_agents_recover_after_it() {
    let (mut lab, mut members) = lab();
    lab.h(1).ok(&["network", "create", "blue", "--subnet", "10.1.0.0/16"]);
    let (_a, _) = lab.attached(1, "blue");
    for k in [0, 1] {
        members.break_one(k, Broken::Killed);
    }
    let told = |host: &Host| {
        eventually("it is told", || {
            let problems = problems(host);
            let told = ["has no leader", "refused the connection", "no agreement", "does not answer"];
            let told =
                told.iter().any(|words| problems.contains(words)) && problems.contains("store is away");
            if told { Ok(()) } else { Err(problems) }
        });
    };
    lab.hosts.iter().for_each(told);
    let refusal = lab.h(1).refused(&["network", "create", "red", "--subnet", "10.2.0.0/16"]);
    assert!(refusal.contains("the store is away: etcd at 192.0.2.24"), "{refusal}");
    let text = lab.h(1).margay(&["status"]).out;
    assert!(text.contains("away for "), "since when: {text}");
    let (b, _) = lab.attached(1, "blue");
    assert!(b.run("ip addr show eth0").ok(), "out of the stash");
    lab.host(2).kill();
    lab.host(2).start();
    eventually("a new agent says it, too", || {
        let problems = problems(lab.h(2));
        if problems.contains("has not answered since the agent started") { Ok(()) } else { Err(problems) }
    });
    members.mend(&lab, 0);
    members.mend(&lab, 1);
    for host in &lab.hosts {
        host.settled();
        host.well();
    }
    lab.h(2).ok(&["network", "create", "red", "--subnet", "10.2.0.0/16"]);
    hears(lab.h(1), "red");
}
