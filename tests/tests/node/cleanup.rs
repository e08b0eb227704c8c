//! `margay cleanup` in every state of a host.

use margay_common::maps;
use margay_tests::{
    eventually::eventually,
    lab::{Lab, Plan},
    programs::{HASH, pin_map},
};

/// Tells the kernel's switches.
const SWITCHES: &str =
    "grep -r . /proc/sys/net/ipv4/conf /proc/sys/net/ipv6/conf /proc/sys/net/ipv4/ip_forward";

/// Everything of a host that an agent may touch.
fn look(lab: &Lab) -> Vec<String> {
    let n = &lab.h(1).namespace;
    let all = [
        "ip -o link",
        "ip -d -o link show up0",
        "ip route",
        "ip -6 route",
        "ip rule",
        "ip -6 rule",
        "ip -o addr",
        "ip neigh show nud permanent",
        "nft list ruleset",
        "iptables -S",
        "ip6tables -S",
        "tc qdisc show dev up0",
        "tc filter show dev up0 ingress",
    ];
    // Left out: whether the kernel still probes its addresses, and the secret that it generates
    // for each interface.
    let stable = |text: String| {
        let lines = text.lines().filter(|line| !line.contains("stable_secret"));
        lines.map(|line| line.replace(" tentative", "")).collect::<Vec<_>>().join("\n")
    };
    let mut found: Vec<String> = all.map(|command| stable(n.sh(command))).into();
    // Some cannot be read, and grep says so.
    let switches = n.run(SWITCHES).out;
    assert!(switches.contains("/forwarding:"), "{switches}");
    found.push(stable(switches));
    found
}

/// A host that drops forwarding, with an agent that masquerades and a
/// container; and what the host was before.
fn populated(flags: &[&str]) -> (Lab, Vec<String>) {
    let mut lab = Lab::without_agents(Plan::for_test(1));
    for program in ["iptables", "ip6tables"] {
        lab.h(1).namespace.sh(&format!("{program} -P FORWARD DROP"));
    }
    let before = look(&lab);
    lab.host(1).masquerade = true;
    lab.host(1).flags = flags.iter().map(|flag| (*flag).to_owned()).collect();
    lab.host(1).up();
    lab.h(1).ok(&["network", "create", "blue", "--subnet", "10.1.0.0/16", "--subnet", "fd00:1::/64"]);
    lab.attached(1, "blue");
    let host = &lab.h(1).namespace;
    eventually("all of the host that is touched is touched", || {
        let (rules, ruleset) = (host.sh("ip6tables -S"), host.sh("nft list ruleset"));
        let forwarding = host.sh("cat /proc/sys/net/ipv4/conf/up0/forwarding");
        let all = rules.contains("margay") && ruleset.contains("10.1.0.0/16") && forwarding.trim() == "1";
        if all { Ok(()) } else { Err((rules, ruleset, forwarding)) }
    });
    (lab, before)
}

fn clean(lab: &Lab, more: &[&str]) -> String {
    let said = lab.h(1).cleanup(more);
    assert!(said.ok(), "{said:?}");
    assert!(!lab.plan.bpffs.join("h1").exists(), "{said:?}");
    assert!(!lab.h(1).dir().join("state").exists(), "{said:?}");
    said.out
}

#[test]
fn cleanup_stops_a_running_agent_only_with_the_stop_option() {
    let (mut lab, before) = populated(&[]);
    let refusal = lab.h(1).cleanup(&[]);
    assert_eq!(refusal.status, 1, "{refusal:?}");
    assert!(refusal.err.contains("is running") && refusal.err.contains("--stop"), "{refusal:?}");
    let said = clean(&lab, &["--stop"]);
    assert!(said.contains("stopped the agent") && said.contains("removed interface margay0"), "{said}");
    assert!(lab.host(1).agent().wait().success());
    assert_eq!(look(&lab), before);
    assert_eq!(clean(&lab, &[]), "", "nothing is left to remove");
}

#[test]
fn cleanup_restores_a_half_broken_host() {
    let (mut lab, before) = populated(&["--tc-mode", "clsact", "--big-tcp"]);
    lab.host(1).kill();
    let host = &lab.h(1).namespace;
    host.sh("ip link del margay0");
    host.sh("nft flush ruleset");
    for program in ["iptables", "ip6tables"] {
        host.sh(&format!("{program} -P FORWARD DROP"));
    }
    std::fs::remove_file(lab.h(1).pin(&maps::ROUTES)).expect("a pin");
    // Pins that agents of other layouts have left behind.
    for layout in [1, maps::LAYOUT + 1] {
        let dir = lab.h(1).bpffs().join(format!("v{layout}"));
        std::fs::create_dir(&dir).expect("a bpffs");
        pin_map(&dir.join(maps::ROUTES.name), HASH, 20, 32, 5_000);
    }
    let said = clean(&lab, &[]);
    assert!(said.contains("removed program on up0"), "{said}");
    // The qdisc that filters need was not there before, and harms nobody.
    host.run("tc qdisc del dev up0 clsact");
    assert_eq!(look(&lab), before);
}
