//! One host by itself: no etcd, no configuration.

use std::net::IpAddr;

use margay_tests::{container::Namespace, eventually::eventually, lab::Lab};

use crate::{PREFIX, claim, leave_up, list, note_process, plan, run, step};

/// An address beyond the wire.
const WORLD: &str = "203.0.113.1";

/// Shows a single host; whether everything was as expected.
pub fn show(keep: bool) -> bool {
    step("one host with an address and a default route; a router on its wire; no etcd, no settings");
    let plan = plan(1);
    let mut lab = Lab::single(plan);
    let mut router = lab.outsider();
    router.sh(&format!("ip addr add {WORLD}/32 dev lo"));
    lab.host(1).masquerade = true;
    lab.host(1).up();
    note_process(lab.host(1).agent().id());
    println!("    h1$ margay {}", lab.h(1).own_flags().join(" "));
    lab.h(1).log().lines().take(2).for_each(|line| println!("      {line}"));
    step("a network, its subnet from the pool, and two containers");
    run(&lab, 1, &["network", "create", "blue"]);
    let [(mut a, _), (mut b, addr_b)] = ["web", "db"].map(|name| attach(&lab, name));
    let good = [
        claim("the containers reach each other", a.pings(addr_b, 2)),
        claim("the host reaches them", lab.h(1).namespace.pings(addr_b, 2)),
        claim(&format!("they reach the world ({WORLD}) masqueraded as their host"), reaches_world(&a)),
        prove_durable(&mut lab, &a, addr_b),
    ];
    step("how it stands");
    println!("    h1$ margay status");
    lab.h(1).margay(&["status"]).out.lines().for_each(|line| println!("      {line}"));
    if keep {
        for namespace in [&mut a, &mut b, &mut router] {
            namespace.keep();
        }
        leave_up(lab, &format!("ip netns exec {PREFIX}-web ping {addr_b}"));
    }
    good.iter().all(|holds| *holds)
}

fn attach(lab: &Lab, name: &str) -> (Namespace, IpAddr) {
    let namespace = Namespace::new(&format!("{PREFIX}-{name}"));
    let addresses = lab.h(1).attach(&namespace, "blue", &["--name", name]);
    println!("    {name}: {}", list(&addresses));
    (namespace, addresses[0])
}

fn reaches_world(container: &Namespace) -> bool {
    let addr = WORLD.parse().expect("a literal");
    eventually("the world answers", || if container.reaches(addr) { Ok(true) } else { Err("not yet") })
}

fn prove_durable(lab: &mut Lab, a: &Namespace, addr: IpAddr) -> bool {
    step("the agent is killed, and started again");
    lab.host(1).kill();
    let alone = claim("traffic goes on without it", a.pings(addr, 5));
    lab.host(1).up();
    note_process(lab.host(1).agent().id());
    let networks = lab.h(1).json(&["network", "ls"]).as_array().map(Vec::len);
    let endpoints = lab.h(1).json(&["endpoint", "ls"]).as_array().map(Vec::len);
    let there = claim(
        "the embedded store has the network, the journal both containers",
        (networks, endpoints) == (Some(1), Some(2)),
    );
    alone & there & claim("and nothing of the traffic changed", a.pings(addr, 2))
}
