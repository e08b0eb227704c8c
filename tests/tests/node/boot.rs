//! A host that boots, and is not ready yet.

use std::{io::ErrorKind, os::unix::net::UnixDatagram, path::PathBuf};

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
    command.args(host.own_flags()).env("MARGAY_LOG", "info").env("NOTIFY_SOCKET", manager(host));
    Process::start(command, &host.dir().join("agent.log"), true)
}

/// Where the host's service manager hears of its services (sd_notify(3)).
fn manager(host: &Host) -> PathBuf {
    host.dir().join("manager.sock")
}

/// Waits until the service manager gets a message.
#[track_caller]
fn manager_hears(socket: &UnixDatagram, what: &str) {
    eventually(&format!("the service manager hears {what}"), || {
        let mut bytes = [0; 4096];
        let len = socket.recv(&mut bytes).map_err(|error| error.to_string())?;
        let said = String::from_utf8_lossy(&bytes[..len]).into_owned();
        if said.contains(what) { Ok(()) } else { Err(said) }
    });
}

/// Waits until the agent's status says what it waits for.
#[track_caller]
fn waits_for(host: &Host, what: &[&str]) {
    eventually(&format!("it waits: {what:?}"), || {
        let said = host.margay(&["status"]);
        let told = said.err.contains("the agent is starting; it is waiting:");
        if told && what.iter().all(|what| said.err.contains(what)) { Ok(()) } else { Err((said, host.log())) }
    });
}

#[test]
fn agent_waits_for_its_uplink_and_reports_what_is_missing() {
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
    // An agent that waits can be ended.
    agent.signal(Signal::SIGTERM);
    assert!(agent.wait().success(), "{}", agent.log());
    // The service manager gets the same message, and READY only when the agent serves.
    let told = UnixDatagram::bind(manager(h)).expect("a socket");
    told.set_nonblocking(true).expect("a socket's mode");
    let mut agent = start(h);
    waits_for(h, &["192.0.2.1"]);
    manager_hears(&told, "STATUS=waiting: node address 192.0.2.1 is not on uplink up0");
    let more = told.recv(&mut [0; 64]).expect_err("it is not ready");
    assert_eq!(more.kind(), ErrorKind::WouldBlock);
    host.sh("ip addr add 192.0.2.1/24 dev up0");
    host.sh("ip addr add 2001:db8::1/64 dev up0 nodad");
    h.well();
    manager_hears(&told, "READY=1");
    h.settled();
    agent.signal(Signal::SIGTERM);
    assert!(agent.wait().success(), "{}", agent.log());
}

#[test]
fn agent_without_the_uplink_option_waits_for_an_address() {
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
fn ambiguous_uplink_is_reported() {
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

#[test]
fn systemd_unit_restarts_forever_and_needs_no_environment_file() {
    let unit = include_str!("../../../agent/systemd/margay.service");
    let has = |line: &str| unit.lines().any(|found| found == line);
    for line in ["Type=notify", "Restart=always", "StartLimitIntervalSec=0"] {
        assert!(has(line), "{line}");
    }
    // This file may be missing, as the settings' own test shows.
    assert!(unit.contains(&format!(" agent --config {}\n", margay::config::CONFIG)), "{unit}");
}
