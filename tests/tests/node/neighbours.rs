//! Other software on the host (interface managers, another XDP program), and few privileges.

use std::{net::IpAddr, os::unix::fs::chown, process::Command};

use margay_tests::{
    container::Namespace,
    eventually::eventually,
    host::{UPLINK, margay},
    lab::{Lab, Plan},
    process::{Process, say},
    programs::{Hook, PASS, pin as pin_program},
};

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

#[track_caller]
fn recovers(lab: &Lab, container: &Namespace, other: IpAddr) {
    eventually("all is as it was", || {
        let reached = [container.reaches(other), lab.h(1).namespace.reaches(other)];
        if reached == [true, true] { Ok(()) } else { Err((reached, lab.h(1).margay(&["status"]).out)) }
    });
}

#[test]
fn foreign_changes_to_margay_interfaces_are_undone() {
    let lab = Lab::new(1);
    lab.h(1).ok(&["network", "create", "blue", "--subnet", "10.1.0.0/16"]);
    let (a, _) = lab.attached(1, "blue");
    let (_b, addr) = lab.attached(1, "blue");
    let veth = lab.h(1).json(&["endpoint", "ls"])[0]["host_interface"].as_str().expect("a name").to_owned();
    let host = &lab.h(1).namespace;
    for line in [
        "ip link set margay0 down",
        "ip link set margay0 mtu 1280",
        "ip link del margay0",
        "ip route flush dev margay0",
        &format!("ip link set {veth} down"),
    ] {
        host.sh(line);
        recovers(&lab, &a, addr[0]);
    }
    for line in ["rp_filter=0", "forwarding=1"] {
        let (name, value) = line.split_once('=').expect("both");
        host.sysctl(&format!("net.ipv4.conf.all.{name}"), value);
        recovers(&lab, &a, addr[0]);
    }
    lab.h(1).well();
}

#[test]
fn another_xdp_program_on_the_uplink_is_left_alone() {
    let mut lab = Lab::without_agents(Plan::for_test(2));
    let pin = lab.plan.bpffs.join("pass");
    std::fs::create_dir_all(&lab.plan.bpffs).expect("a bpffs");
    pin_program(&pin, Hook::Xdp, PASS);
    let attach = format!("ip link set dev {UPLINK} xdpgeneric pinned {}", pin.display());
    let shown =
        |lab: &Lab| lab.h(1).namespace.sh(&format!("ip -d link show {UPLINK}")).contains("xdpgeneric");
    // An XDP program that was attached before the agent started, and one attached later.
    lab.h(1).namespace.sh(&attach);
    for i in [1, 2] {
        lab.host(i).up();
    }
    lab.h(1).ok(&["network", "create", "blue", "--subnet", "10.1.0.0/16"]);
    let (a, _) = lab.attached(1, "blue");
    let (_b, addr) = lab.attached(2, "blue");
    let reach =
        || eventually("they reach each other", || if a.reaches(addr[0]) { Ok(()) } else { Err("not yet") });
    reach();
    assert!(shown(&lab), "ours is at another hook");
    lab.h(1).namespace.sh(&format!("ip link set dev {UPLINK} xdpgeneric off"));
    reach();
    lab.h(1).namespace.sh(&attach);
    reach();
    lab.host(1).stop();
    assert!(shown(&lab));
}

#[test]
fn agent_runs_with_exactly_the_capabilities_of_its_unit() {
    const NOBODY: u32 = 65534;
    let caps = of_the_unit();
    let mut lab = Lab::single(Plan::for_test(1));
    lab.host(1).masquerade = true;
    std::fs::create_dir_all(&lab.plan.bpffs).expect("a bpffs");
    for dir in [lab.plan.bpffs.clone(), lab.h(1).dir().to_owned()] {
        chown(&dir, Some(NOBODY), Some(NOBODY)).expect("root may");
    }
    let mut command = lab.h(1).namespace.command("setpriv");
    command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups"]);
    for set in ["--bounding-set", "--inh-caps", "--ambient-caps"] {
        command.args([set, &format!("-all,{caps}")]);
    }
    command.arg(margay()).args(lab.h(1).own_flags());
    let log = lab.h(1).dir().join("agent.log");
    let agent = Process::start(command, &log, true);
    eventually("the agent is a member", || {
        let said = lab.h(1).margay(&["status"]);
        if said.ok() { Ok(()) } else { Err((said, agent.log())) }
    });
    lab.h(1).ok(&["network", "create", "blue"]);
    let (a, _) = lab.attached(1, "blue");
    // Also by the pid of another user's process.
    let c = lab.container();
    let mut sleeper = c.command("setpriv");
    sleeper.args(["--reuid", "12345", "--clear-groups", "sleep", "infinity"]);
    let sleeper = Process::start(sleeper, &lab.plan.dir.join("sleep.log"), true);
    sleeper.becomes("sleep");
    lab.h(1).ok(&["endpoint", "attach", "--network", "blue", "--pid", &sleeper.id().to_string()]);
    let addr = lab.h(1).json(&["endpoint", "ls"]);
    let of_c = addr.as_array().expect("a list").iter().filter_map(|e| e["addresses"][0].as_str());
    assert!(of_c.map(ip).all(|addr| a.pings(addr, 1)));
    eventually("masquerading is set up", || {
        let status = lab.h(1).margay(&["status"]);
        if status.ok() && status.out.contains("masqueraded") { Ok(()) } else { Err(status) }
    });
}

/// The capabilities of the service's unit, as setpriv names them.
fn of_the_unit() -> String {
    let unit = include_str!("../../../agent/systemd/margay.service");
    let set = unit.lines().find_map(|line| line.strip_prefix("CapabilityBoundingSet=")).expect("a set");
    let documented = include_str!("../../../docs/operating.md");
    let cap = |name: &str| {
        assert!(documented.contains(&format!("`{name}`")), "docs/operating.md names {name}");
        format!("+{}", name.trim_start_matches("CAP_").to_lowercase())
    };
    set.split_whitespace().map(cap).collect::<Vec<_>>().join(",")
}

/// As the unit runs it: root, with these capabilities alone.
#[test]
fn capabilities_of_the_unit_suffice_for_nft_and_legacy_iptables() {
    for kind in ["nft", "legacy"] {
        let mut lab = Lab::single(Plan::for_test(1));
        lab.host(1).masquerade = true;
        let programs = lab.plan.dir.join(kind);
        std::fs::create_dir_all(&programs).expect("a folder");
        for name in ["iptables", "ip6tables"] {
            let program = format!("/usr/sbin/xtables-{kind}-multi");
            std::os::unix::fs::symlink(program, programs.join(name)).expect("a folder");
            lab.h(1).namespace.sh(&format!("{} -P FORWARD DROP", programs.join(name).display()));
        }
        let mut command = lab.h(1).namespace.command("setpriv");
        for set in ["--bounding-set", "--inh-caps"] {
            command.args([set, &format!("-all,{}", of_the_unit())]);
        }
        let path = std::env::var("PATH").unwrap_or_default();
        command.env("PATH", format!("{}:{path}", programs.display()));
        command.arg(margay()).args(lab.h(1).own_flags());
        let agent = Process::start(command, &lab.h(1).dir().join("agent.log"), true);
        eventually("the agent is a member", || {
            let said = lab.h(1).margay(&["status"]);
            if said.ok() { Ok(()) } else { Err((said, agent.log())) }
        });
        lab.h(1).ok(&["network", "create", "blue"]);
        let (_container, _) = lab.attached(1, "blue");
        eventually(&format!("the {kind} chain has its exception"), || {
            let status = lab.h(1).margay(&["status"]);
            let rules = lab.h(1).namespace.sh(&format!("{}/iptables -S FORWARD", programs.display()));
            let there = status.ok() && rules.contains("--comment margay");
            if there { Ok(()) } else { Err((status, rules, agent.log())) }
        });
    }
}

#[test]
fn each_missing_capability_is_named() {
    let lab = Lab::without_agents(Plan::for_test(1));
    for cap in ["bpf", "net_admin", "perfmon", "sys_admin"] {
        let mut command = Command::new("timeout");
        command.args(["120", "setpriv", &format!("--bounding-set=-{cap}"), &format!("--inh-caps=-{cap}")]);
        let said = say(command.arg(margay()).args(lab.h(1).own_flags()));
        assert_eq!(said.status, 1, "{said:?}");
        assert!(said.err.contains(&format!("CAP_{}", cap.to_uppercase())), "{said:?}");
    }
}
