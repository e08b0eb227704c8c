//! A host that boots, and is not ready yet.

use margay_tests::{
    eventually::eventually,
    host::{Host, margay},
    lab::{Lab, Plan},
    process::Process,
};
use nix::sys::signal::Signal;

/// Starts an agent and does not wait for it.
fn start(host: &Host) -> Process {
    let mut command = host.namespace.command(margay());
    command.args(host.own_flags()).env("MARGAY_LOG", "info");
    Process::start(command, &host.dir().join("agent.log"), true)
}

/// Waits until whoever asks the agent is told what it waits for.
#[track_caller]
fn waits_for(host: &Host, what: &[&str]) {
    eventually(&format!("it waits: {what:?}"), || {
        let said = host.margay(&["status"]);
        let told = said.err.contains("the agent is starting; it is waiting:");
        if told && what.iter().all(|what| said.err.contains(what)) { Ok(()) } else { Err((said, host.log())) }
    });
}

#[test]
fn the_agent_waits_for_its_host_and_says_for_what() {
    let lab = Lab::without_agents(Plan::for_test(1));
    let (h, host) = (lab.h(1), &lab.h(1).namespace);
    host.sh("ip link set up0 down");
    host.sh("ip link set up0 name later0");
    let mut agent = start(h);
    waits_for(h, &["uplink up0 is not there", "--uplink"]);
    host.sh("ip link set later0 name up0");
    waits_for(h, &["uplink up0 is down", "ip link set up0 up"]);
    host.sh("ip addr flush dev up0");
    host.sh("ip link set up0 up");
    waits_for(h, &["node address 192.0.2.1 is not on uplink up0"]);
    assert!(!host.run("ip link show margay0").ok(), "nothing is begun");
    // Who waits can be told to end.
    agent.signal(Signal::SIGTERM);
    assert!(agent.wait().success(), "{}", agent.log());
    let mut agent = start(h);
    waits_for(h, &["192.0.2.1"]);
    host.sh("ip addr add 192.0.2.1/24 dev up0");
    host.sh("ip addr add 2001:db8::1/64 dev up0 nodad");
    h.well();
    h.settled();
    agent.signal(Signal::SIGTERM);
    assert!(agent.wait().success(), "{}", agent.log());
}

#[test]
fn an_uplink_that_nobody_named_is_waited_for_too() {
    let mut lab = Lab::without_etcd(Plan::for_test(1));
    lab.host(1).bare = true;
    lab.host(1).flags = ["--store", "embedded"].map(str::to_owned).into();
    let (h, host) = (lab.h(1), &lab.h(1).namespace);
    host.sh("ip addr flush dev up0 scope global");
    let mut agent = start(h);
    waits_for(h, &["no interface has an address"]);
    host.sh("ip addr add 192.0.2.1/24 dev up0");
    h.well();
    h.settled();
    agent.signal(Signal::SIGTERM);
    assert!(agent.wait().success(), "{}", agent.log());
}

#[test]
fn an_uplink_that_is_not_clear_is_asked_for() {
    let lab = Lab::single(Plan::for_test(1));
    let (h, host) = (lab.h(1), &lab.h(1).namespace);
    host.sh("ip route del default");
    host.sh("ip link add lan0 type veth peer name lan1");
    host.sh("ip addr add 198.51.100.1/24 dev lan0");
    host.sh("ip link set lan0 up");
    host.sh("ip link set lan1 up");
    let mut agent = start(h);
    waits_for(h, &["up0", "lan0", "--uplink"]);
    host.sh("ip link del lan0");
    h.well();
    h.settled();
    assert!(h.log().contains("the only one with an address"), "{}", h.log());
    agent.signal(Signal::SIGTERM);
    assert!(agent.wait().success(), "{}", agent.log());
}
