//! Restarts and crashes of the agent and of dockerd, each without the other.

use std::{fs, os::fd::AsRawFd, os::unix::net::UnixListener};

use margay_tests::{
    eventually::eventually,
    host::{Host, margay},
    lab::{ETCD, Lab},
    plugin::call,
    process::{Process, sh},
};
use nix::sys::signal::Signal;

use crate::{address, appears, flow, lab, problems, reaches, run, well, with};

const CREATE: &str = "network create -d margay --ipam-driver margay";

fn two_containers(lab: &Lab) -> String {
    two_containers_on(lab, "--subnet 10.65.0.0/16")
}

fn two_containers_on(lab: &Lab, flags: &str) -> String {
    lab.h(1).docker(&format!("{CREATE} {flags} blue"));
    appears(lab.h(2), "blue");
    run(lab.h(1), "c1", "--network blue");
    run(lab.h(2), "c2", "--network blue");
    address(lab.h(2), "c2", "blue")
}

/// Waits until the store has exactly these addresses of a host's containers.
#[track_caller]
fn holds(host: &Host, wanted: &[&str]) {
    eventually("the store has what containers have", || {
        let dump: serde_json::Value = serde_json::from_str(&host.ok(&["store", "export"])).expect("JSON");
        let mut held = Vec::new();
        for (key, value) in dump["entries"].as_object().into_iter().flatten() {
            if key.contains("/ipam/") {
                held.extend(
                    value["addresses"].as_object().into_iter().flatten().map(|(addr, _)| addr.clone()),
                );
            }
        }
        if held == wanted { Ok(()) } else { Err(held) }
    });
}

#[test]
fn running_containers_survive_a_killed_agent() {
    let mut lab = lab(2);
    let peer = two_containers(&lab);
    let flow = flow(lab.h(1), "c1", &peer);
    for _ in 0..3 {
        lab.host(1).kill();
        lab.host(1).up();
    }
    flow.end();
    run(lab.h(1), "new", "--network blue");
    assert!(reaches(lab.h(1), "new", &peer));
    lab.h(1).docker("rm -f c1 new");
    holds(lab.h(1), &[&peer]);
}

#[test]
fn endpoints_are_reconciled_after_docker_or_the_agent_forgot_them() {
    let mut lab = lab(2);
    let peer = two_containers_on(&lab, "");
    run(lab.h(1), "stays", "--network blue");
    let stays = address(lab.h(1), "stays", "blue");
    // Docker waits for the agent for a while and then forgets the endpoint.
    lab.host(1).kill();
    lab.h(1).docker("rm -f c1");
    lab.host(1).up();
    let mut wanted = [&*peer, &*stays];
    wanted.sort_unstable();
    holds(lab.h(1), &wanted);
    assert!(reaches(lab.h(1), "stays", &peer));
    // The other way: the agent has forgotten everything.
    lab.host(1).kill();
    fs::remove_file(lab.h(1).dir().join("state/journal.redb")).expect("a file");
    lab.host(1).up();
    eventually("the container is connected again", || {
        let listed = lab.h(1).json(&["endpoint", "ls"]);
        if listed[0]["name"] == "stays" { Ok(()) } else { Err((listed, problems(lab.h(1)))) }
    });
    assert_eq!(address(lab.h(1), "stays", "blue"), stays, "with the address that it had");
    assert!(reaches(lab.h(1), "stays", &peer));
    well(lab.h(1));
    holds(lab.h(1), &wanted);
}

#[test]
fn network_lost_by_the_store_is_not_removed_from_docker() {
    let mut lab = lab(2);
    lab.h(1).docker(&format!("{CREATE} --subnet 10.65.0.0/16 idle"));
    appears(lab.h(2), "idle");
    lab.h(1).docker(&format!("create --name c1 --network idle {} sleep 1000", margay_tests::engine::IMAGE));
    // Emptied: nobody has a container on the network that runs.
    lab.kill_etcd();
    lab.swap_etcd_data();
    lab.start_etcd();
    eventually("the network is back", || {
        let networks = lab.h(2).json(&["network", "ls"]);
        if networks[0]["name"] == "idle" { Ok(()) } else { Err((networks, problems(lab.h(2)))) }
    });
    for host in &lab.hosts {
        appears(host, "idle");
    }
    eventually("the container starts", || {
        let said = lab.h(1).try_docker("start c1");
        if said.ok() { Ok(()) } else { Err(said) }
    });
}

#[test]
fn containers_keep_addresses_when_dockerd_restarts_or_dies() {
    let mut lab = lab(2);
    let peer = two_containers(&lab);
    let own = address(lab.h(1), "c1", "blue");
    let mut wanted = [&*own, &*peer];
    wanted.sort_unstable();
    lab.host(1).engine_mut().stop();
    holds(lab.h(1), &wanted);
    lab.host(1).engine_mut().run();
    lab.h(1).docker("start c1");
    assert!(reaches(lab.h(1), "c1", &peer));
    assert_eq!(address(lab.h(1), "c1", "blue"), own);
    // A killed dockerd ends its old containers when it starts again.
    lab.host(1).engine_mut().kill();
    lab.host(1).engine_mut().run();
    holds(lab.h(1), &wanted);
    lab.h(1).docker("start c1");
    assert!(reaches(lab.h(1), "c1", &peer));
    assert_eq!(address(lab.h(1), "c1", "blue"), own);
    assert_eq!(lab.h(1).json(&["endpoint", "ls"]).as_array().map(Vec::len), Some(1));
}

#[test]
fn with_live_restore_containers_outlive_dockerd_and_agent() {
    let mut lab = with(2, &["--live-restore"]);
    let peer = two_containers(&lab);
    let own = address(lab.h(1), "c1", "blue");
    let peer_addr: std::net::IpAddr = own.parse().expect("an address");
    lab.host(1).engine_mut().kill();
    lab.host(1).kill();
    assert!(lab.h(1).namespace.pings(peer_addr, 3), "alone");
    lab.host(1).up();
    lab.host(1).engine_mut().run();
    assert_eq!(lab.h(1).docker("inspect -f {{.State.Running}} c1"), "true");
    assert!(reaches(lab.h(1), "c1", &peer));
    run(lab.h(1), "new", "--network blue");
    assert!(reaches(lab.h(1), "new", &peer));
    lab.h(1).docker("rm -f c1 new");
    holds(lab.h(1), &[&peer]);
}

#[test]
fn unused_address_and_subnet_reservations_are_freed() {
    let lab = lab(1);
    let h1 = lab.h(1);
    h1.docker(&format!("{CREATE} --subnet 10.65.0.0/16 blue"));
    let pool = r#"{"PoolID":"10.65.0.0/16","Address":"10.65.9.9"}"#;
    assert_eq!(call(h1, "/IpamDriver.RequestAddress", pool).0, 200);
    // The reservation may be freed already, so the store's history is read.
    let mut history = lab.wire.command("etcdctl");
    let etcd = format!("http://{ETCD}:2379");
    history.args(["--endpoints", &etcd, "watch", "--rev=1", "--prefix", "/margay/v1/ipam/"]);
    history.env("ETCDCTL_API", "3");
    let history = Process::start(history, &h1.dir().join("history.log"), true);
    eventually("it was held", || match history.log() {
        log if log.contains("10.65.9.9") => Ok(()),
        log => Err(log),
    });
    holds(h1, &[]);
    // The same for subnets.
    let (status, answer) = call(h1, "/IpamDriver.RequestPool", r#"{"AddressSpace":"margay","Pool":""}"#);
    assert_eq!(status, 200, "{answer}");
    eventually("the subnet is given up", || {
        let dump = h1.ok(&["store", "export"]);
        if dump.contains("reservations/") { Err(dump) } else { Ok(()) }
    });
}

/// Starts the agent as a service manager does, with handed-over sockets.
fn start_with(host: &Host, sockets: &[&UnixListener]) -> Process {
    let mut script = String::new();
    for (i, socket) in sockets.iter().enumerate() {
        // Move the sockets away from the descriptors that they will get.
        script += &format!("exec {}<&{}; ", 50 + i, socket.as_raw_fd());
    }
    for i in 0..sockets.len() {
        script += &format!("exec {}<&{}; ", 3 + i, 50 + i);
    }
    script += &format!("LISTEN_PID=$$ LISTEN_FDS={} exec \"$@\"", sockets.len());
    for socket in sockets {
        nix::fcntl::fcntl(socket, nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::empty()))
            .expect("our own");
    }
    let mut command = host.namespace.command("bash");
    command.args(["-c", &script, "agent"]).arg(margay()).args(host.own_flags());
    Process::start(command, &host.dir().join("agent.log"), true)
}

#[test]
fn handed_over_sockets_stay_open_while_the_agent_restarts() {
    let mut lab = lab(1);
    lab.h(1).docker(&format!("{CREATE} --subnet 10.65.0.0/16 blue"));
    lab.host(1).stop();
    assert!(!lab.h(1).plugin().exists() && !lab.h(1).socket().exists(), "its own sockets go with it");
    let plugin = UnixListener::bind(lab.h(1).plugin()).expect("a socket");
    let api = UnixListener::bind(lab.h(1).socket()).expect("a socket");
    let mut agent = start_with(lab.h(1), &[&plugin, &api]);
    lab.h(1).settled();
    run(lab.h(1), "c1", "--network blue");
    agent.signal(Signal::SIGTERM);
    assert!(agent.wait().success(), "{}", agent.log());
    assert!(lab.h(1).plugin().exists() && lab.h(1).socket().exists(), "they are not the agent's to remove");
    // A request while no agent runs is answered by the next agent.
    let mut command = lab.h(1).engine().command();
    command.args([
        "run",
        "-d",
        "--name",
        "waits",
        "--network",
        "blue",
        margay_tests::engine::IMAGE,
        "sleep",
        "1000",
    ]);
    let mut waiting = Process::start(command, &lab.h(1).dir().join("waiting.log"), true);
    let _agent = start_with(lab.h(1), &[&plugin, &api]);
    assert!(waiting.wait().success(), "{}", waiting.log());
    assert!(reaches(lab.h(1), "waits", &address(lab.h(1), "c1", "blue")));
    // An unknown socket is a mistake in the unit.
    let stray = UnixListener::bind(lab.h(1).dir().join("stray.sock")).expect("a socket");
    let mut refused = start_with(lab.h(1), &[&stray]);
    assert!(!refused.wait().success());
    assert!(refused.log().contains("stray.sock, which the agent does not serve"), "{}", refused.log());
    lab.host(1).engine = None;
}

/// An etcd that hangs is worse than a dead one, since every request waits.
#[test]
fn without_the_store_containers_restart_with_their_addresses() {
    let mut lab = lab(1);
    lab.h(1).docker(&format!("{CREATE} --subnet 10.65.0.0/16 blue"));
    run(lab.h(1), "any", "--network blue");
    run(lab.h(1), "fixed", "--network blue --ip 10.65.0.40 --restart always");
    let any = address(lab.h(1), "any", "blue");
    let restart = |lab: &Lab| {
        let h1 = lab.h(1);
        for (name, addr) in [("any", &*any), ("fixed", "10.65.0.40")] {
            h1.docker(&format!("restart -t 0 {name}"));
            assert_eq!(address(h1, name, "blue"), addr);
        }
        // Docker starts it again by itself.
        let before = h1.docker("inspect -f {{.State.StartedAt}} fixed");
        let pid = h1.docker("inspect -f {{.State.Pid}} fixed");
        sh(&format!("kill -9 {pid}"));
        eventually("it runs again", || {
            let said = h1.docker("inspect -f {{.State.Running}}{{.State.StartedAt}} fixed");
            if said.starts_with("true") && !said.ends_with(&before) { Ok(()) } else { Err(said) }
        });
        assert_eq!(address(h1, "fixed", "blue"), "10.65.0.40");
        run(h1, "stashed", "--network blue");
        assert!(reaches(h1, "stashed", "10.65.0.40"));
        h1.docker("rm -f stashed");
    };
    let etcd = lab.etcd_id();
    sh(&format!("kill -STOP {etcd}"));
    restart(&lab);
    sh(&format!("kill -CONT {etcd}"));
    well(lab.h(1));
    lab.kill_etcd();
    restart(&lab);
    lab.start_etcd();
    well(lab.h(1));
    let mut wanted = [&*any, "10.65.0.40"];
    wanted.sort_unstable();
    holds(lab.h(1), &wanted);
}
