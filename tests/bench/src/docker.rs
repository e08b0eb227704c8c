//! What Margay costs Docker: starting a container, the driver's share in it,
//! and how soon a network is on other hosts.

use std::{collections::BTreeMap, time::Instant};

use margay_tests::{
    engine::IMAGE,
    eventually::eventually,
    host::Host,
    lab::{Lab, Plan},
};

use crate::{median, percentile};

/// Containers of each kind, one after the other in turn.
const ROUNDS: usize = 20;
/// What is compared.
const KINDS: [&str; 4] = ["margay", "margay-dual", "bridge", "none"];

/// Measures Docker on two hosts.
pub fn docker() {
    let mut lab = Lab::without_agents(Plan::for_test(2));
    for host in &mut lab.hosts {
        host.masquerade = true;
        host.up();
        host.start_docker(&[]);
    }
    let h1 = lab.h(1);
    h1.docker("network create -d margay --ipam-driver margay margay");
    h1.docker("network create -d margay --ipam-driver margay --ipv6 --subnet 10.9.0.0/16 --subnet fd00:9::/64 margay-dual");
    run(h1);
    presence(&lab);
}

/// `docker run` to the end of a container that does nothing.
fn run(host: &Host) {
    let start = |kind: &str| {
        let begun = Instant::now();
        host.docker(&format!("run --network {kind} --name r-{kind} {IMAGE} true"));
        let took = begun.elapsed().as_secs_f64() * 1e3;
        host.docker(&format!("rm r-{kind}"));
        took
    };
    for kind in KINDS {
        start(kind);
    }
    let mut times = BTreeMap::<&str, Vec<f64>>::new();
    let mut shares = BTreeMap::<&str, Vec<f64>>::new();
    let mut calls = BTreeMap::<String, Vec<f64>>::new();
    for _ in 0..ROUNDS {
        for kind in KINDS {
            let before = seconds(host);
            times.entry(kind).or_default().push(start(kind));
            let after = seconds(host);
            let spent = |call: &String| after[call] - before.get(call).copied().unwrap_or_default();
            let share = after.keys().filter(|call| is_start(call)).map(spent).sum::<f64>() * 1e3;
            shares.entry(kind).or_default().push(share);
            if kind == "margay" {
                after.keys().for_each(|call| calls.entry(call.clone()).or_default().push(spent(call) * 1e3));
            }
        }
    }
    println!("\ndocker run of a container that ends at once, ms, {ROUNDS} rounds in turn");
    for kind in KINDS {
        let times = &times[kind];
        println!(
            "  {kind:12} median {:>6.0}  least {:>6.0}  most {:>6.0}   the driver's share in starting: median {:.1}, most {:.1}",
            median(times.clone()),
            percentile(times.clone(), 0.0),
            percentile(times.clone(), 1.0),
            median(shares[kind].clone()),
            percentile(shares[kind].clone(), 1.0),
        );
    }
    println!("calls for one container on margay, ms, median (a call may come more than once)");
    for (call, times) in calls.into_iter().filter(|(_, times)| median(times.clone()) > 0.0) {
        println!("  {call:50} {:>6.2}", median(times));
    }
}

/// Whether a call is one of starting a container.
fn is_start(call: &str) -> bool {
    ["RequestAddress", "CreateEndpoint", ".Join", "EndpointOperInfo", "ProgramExternal"]
        .iter()
        .any(|part| call.contains(part))
}

/// Seconds spent in each of the plugin's calls since the agent started.
fn seconds(host: &Host) -> BTreeMap<String, f64> {
    let metrics = host.ok(&["metrics"]);
    let sums = metrics.lines().filter_map(|line| line.strip_prefix("margay_docker_call_seconds_sum{call=\""));
    let parsed = sums.filter_map(|line| {
        let (call, rest) = line.split_once('"')?;
        Some((call.to_owned(), rest.rsplit_once(' ')?.1.parse::<f64>().ok()?))
    });
    let mut seconds = BTreeMap::new();
    parsed.for_each(|(call, spent)| *seconds.entry(call).or_default() += spent);
    seconds
}

/// From `docker network create` on one host to the network in the other's
/// Docker.
fn presence(lab: &Lab) {
    let mut created = Vec::new();
    let mut there = Vec::new();
    for i in 0..ROUNDS {
        let begun = Instant::now();
        lab.h(1).docker(&format!("network create -d margay --ipam-driver margay n{i}"));
        let returned = begun.elapsed().as_secs_f64();
        eventually("the network is there", || {
            let said = lab.h(2).try_docker(&format!("network inspect n{i}"));
            if said.ok() { Ok(()) } else { Err(said) }
        });
        created.push(returned * 1e3);
        there.push((begun.elapsed().as_secs_f64() - returned) * 1e3);
    }
    println!("\ndocker network create, ms, {ROUNDS} times: the command itself median {:.0}", median(created));
    println!(
        "  from its return to the network in another host's Docker: median {:.0}, most {:.0}",
        median(there.clone()),
        percentile(there, 1.0)
    );
}
