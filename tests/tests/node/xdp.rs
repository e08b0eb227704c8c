//! XDP on the uplink and the deny list, on real frames.

use std::net::IpAddr;

use margay_tests::{
    container::Namespace,
    eventually::eventually,
    host::Host,
    lab::{Lab, Plan},
    needs::skip,
    process::sh,
    programs::{Hook, PASS, pin},
};

/// Two hosts with XDP in one way, a routable network, and a router outside that
/// knows only the first host.
fn routable(mode: &str) -> (Lab, Namespace) {
    let mut lab = Lab::without_agents(Plan { v6: true, ..Plan::for_test(2) });
    // A veth hands on what XDP transmits into it only if it has a program, too.
    std::fs::create_dir_all(&lab.plan.bpffs).expect("a BPF file system");
    let pass = lab.plan.bpffs.join("xdp-pass");
    pin(&pass, Hook::Xdp, PASS);
    for wire in ["w1", "w2"] {
        lab.wire.sh(&format!("ip link set {wire} xdp pinned {}", pass.display()));
    }
    std::fs::remove_file(pass).expect("a pin");
    for i in [1, 2] {
        lab.host(i).flags = vec!["--xdp".into(), mode.into()];
        lab.host(i).up();
    }
    lab.h(1).ok(&[
        "network",
        "create",
        "open",
        "--subnet",
        "10.4.0.0/16",
        "--subnet",
        "fd00:4::/64",
        "--routable",
    ]);
    let outside = lab.outsider();
    outside.sh("ip route add 10.4.0.0/16 via 192.0.2.1");
    outside.sh("ip -6 route add fd00:4::/64 via 2001:db8::1");
    (lab, outside)
}

#[test]
fn native_xdp_forwards_and_the_kernel_takes_over_without_the_agent() {
    let (mut lab, outside) = routable("native");
    xdp_forwards_what_passes_through(&lab, &outside, "native");
    // Last: the second host's MAC is another behind it.
    without_the_agent_the_kernel_forwards(&mut lab, &outside);
}

#[test]
fn generic_xdp_forwards_unless_packets_are_merged() {
    let (mut lab, outside) = routable("generic");
    xdp_forwards_what_passes_through(&lab, &outside, "generic");
    generic_xdp_does_not_forward_where_packets_are_merged(&mut lab, &outside);
}

/// Reaches a container of the second host through the first.
fn xdp_forwards_what_passes_through(lab: &Lab, outside: &Namespace, mode: &str) {
    xdp_is(lab.h(1), |told| told == mode);
    let (_c, addrs) = lab.attached(2, "open");
    for addr in addrs {
        assert!(outside.pings(addr, 3), "{addr}");
        forwards_all(lab, outside, addr);
    }
}

/// Generic XDP is behind the kernel's merging, and would send on uncut what was merged.
fn generic_xdp_does_not_forward_where_packets_are_merged(lab: &mut Lab, outside: &Namespace) {
    let (_c, addrs) = lab.attached(2, "open");
    forwards_all(lab, outside, addrs[0]);
    lab.h(1).namespace.sh("ethtool -K up0 gro on");
    eventually("XDP forwards no more", || {
        let before = forwarded(lab);
        assert!(outside.pings(addrs[0], 3));
        if forwarded(lab) == before { Ok(()) } else { Err(forwarded(lab)) }
    });
    // Nor where native is asked for and refused, so that generic stays.
    lab.host(1).stop();
    lab.wire.sh("ip link set w1 mtu 9000");
    lab.host(1).flags = vec!["--xdp".into(), "native".into()];
    lab.host(1).up();
    let before = forwarded(lab);
    // For longer than the agent needs to confirm a next hop.
    outside.sh(&format!("ping -q -i 0.1 -c 30 {}", addrs[0]));
    assert_eq!(forwarded(lab), before);
    xdp_is(lab.h(1), |told| told.starts_with("generic ("));
}

fn without_the_agent_the_kernel_forwards(lab: &mut Lab, outside: &Namespace) {
    let (_c, addrs) = lab.attached(2, "open");
    forwards_all(lab, outside, addrs[0]);
    lab.host(1).kill();
    // The second host's MAC changes, and no agent updates XDP.
    lab.h(2).namespace.sh("ip link set up0 down");
    lab.h(2).namespace.sh("ip link set up0 address 02:00:00:00:77:77");
    lab.h(2).namespace.sh("ip link set up0 up");
    lab.h(1).namespace.sh("ip neigh flush dev up0");
    eventually("the kernel has taken over", || {
        if outside.reaches(addrs[0]) { Ok(()) } else { Err("no answer") }
    });
}

/// Frames that XDP of the first host has forwarded.
fn forwarded(lab: &Lab) -> u64 {
    lab.h(1).count("xdp_uplink", "remote")
}

/// Waits until XDP sends on all of what passes through to an address, none by the other way:
/// it does while the agent keeps the next hop fresh. Nothing is lost before.
#[track_caller]
fn forwards_all(lab: &Lab, outside: &Namespace, addr: IpAddr) {
    eventually("XDP forwards all", || {
        let before = forwarded(lab);
        assert!(outside.pings(addr, 5), "{addr}");
        match forwarded(lab) - before {
            5 => Ok(()),
            n => Err(n),
        }
    });
}

/// Waits until an agent tells of its XDP program what is right.
#[track_caller]
fn xdp_is(host: &Host, right: impl Fn(&str) -> bool) {
    eventually("XDP is as it should be", || {
        let told = host.json(&["status"])["xdp"].as_str().expect("words").to_owned();
        if right(&told) { Ok(()) } else { Err((told, host.log())) }
    });
}

#[test]
fn deny_list_drops_on_every_host_in_every_xdp_mode() {
    let mut lab = Lab::without_agents(Plan { v6: true, ..Plan::for_test(2) });
    lab.host(1).flags = vec!["--xdp".into(), "native".into()];
    lab.host(1).up();
    lab.host(2).up();
    xdp_is(lab.h(2), |told| told == "off: a veth would lose its offloads");
    let outside = lab.outsider();
    let sources = outside.sh("ip -o addr show scope global");
    let sources: Vec<IpAddr> =
        sources.split_whitespace().filter_map(|word| word.split_once('/')?.0.parse().ok()).collect();
    assert_eq!(sources.len(), 2, "{sources:?}");
    let hosts = [lab.h(1).addresses.clone(), lab.h(2).addresses.clone()];
    assert!(hosts.iter().flatten().all(|addr| outside.pings(*addr, 1)));
    for source in &sources {
        lab.h(1).ok(&["guard", "add", &source.to_string(), "--comment", "noise"]);
    }
    for (i, program) in [(1, "xdp_uplink"), (2, "from_network")] {
        eventually("both are blocked", || {
            let blocked = lab.h(i).json(&["guard", "ls"]);
            if blocked.as_array().is_some_and(|all| all.len() == 2) { Ok(()) } else { Err(blocked) }
        });
        // What is listed is the store's; the maps follow.
        for addr in &hosts[i - 1] {
            eventually("it is obeyed", || if outside.reaches(*addr) { Err(addr) } else { Ok(()) });
        }
        let before = lab.h(i).count(program, "guarded");
        for addr in &hosts[i - 1] {
            assert!(!outside.reaches(*addr), "{addr}");
        }
        assert!(lab.h(i).count(program, "guarded") >= before + 2, "{program}");
    }
    assert_eq!(lab.h(2).json(&["guard", "ls"])[0]["comment"], "noise");
    // What an agent finds after its own restart.
    lab.host(2).stop();
    lab.host(2).up();
    assert!(!outside.reaches(hosts[1][0]));
    for source in &sources {
        lab.h(2).ok(&["guard", "rm", &source.to_string()]);
    }
    eventually("nothing is blocked", || {
        let blocked = hosts.iter().flatten().find(|addr| !outside.reaches(**addr));
        blocked.map_or(Ok(()), Err)
    });
    assert!(lab.h(1).refused(&["guard", "rm", "203.0.113.0/24"]).contains("margay guard ls"));
}

#[test]
fn deny_list_refuses_prefixes_of_the_cluster() {
    let lab = Lab::new(1);
    lab.h(1).ok(&["network", "create", "blue", "--subnet", "10.1.0.0/16"]);
    for (prefix, words) in [
        ("192.0.2.0/29", "192.0.2.1 of node h1"),
        ("10.0.0.0/8", "10.1.0.0/16 of network blue"),
        ("10.1.2.0/24", "10.1.0.0/16 of network blue"),
        ("203.0.113.9/24", "203.0.113.0/24"),
        ("0.0.0.0/0", "every address"),
        ("::/8", "the IPv4-mapped addresses"),
        ("fe80::/64", "fe80::/10"),
        ("192.0.2.254/32", "192.0.2.254 of the store"),
    ] {
        let refusal = lab.h(1).refused(&["guard", "add", prefix]);
        assert!(refusal.contains(words), "{prefix}: {refusal}");
    }
    assert_eq!(lab.h(1).json(&["guard", "ls"]).as_array().map(Vec::len), Some(0));
    lab.h(1).ok(&["guard", "add", "10.7.0.0/16"]);
    let refusal = lab.h(1).refused(&["network", "create", "red", "--subnet", "10.7.8.0/24"]);
    assert!(refusal.contains("10.7.0.0/16, which is on the deny list"), "{refusal}");
}

#[test]
fn xdp_is_detached_when_it_is_switched_off() {
    let mut lab = Lab::without_agents(Plan::for_test(1));
    let attached = |lab: &Lab| lab.h(1).namespace.sh("ip -d link show up0").contains("name xdp_uplink");
    let up = |lab: &mut Lab, mode: &str| {
        lab.host(1).flags = vec!["--xdp".into(), mode.into()];
        lab.host(1).up();
        xdp_is(lab.h(1), |told| told == mode && attached(lab) == (mode != "off"));
        lab.host(1).stop();
    };
    for mode in ["native", "off", "generic", "off", "native"] {
        up(&mut lab, mode);
    }
    let said = lab.h(1).cleanup(&[]);
    assert!(said.ok(), "{said:?}");
    assert!(!attached(&lab), "what cleanup undoes");
}

/// A veth takes no native program while the cable's other end has packets larger than a
/// page.
#[test]
fn uplink_that_refuses_a_new_xdp_mode_keeps_the_current_one() {
    let mut lab = Lab::without_agents(Plan::for_test(1));
    let up = |lab: &mut Lab, mode: &str| {
        lab.host(1).flags = vec!["--xdp".into(), mode.into()];
        lab.host(1).up();
    };
    up(&mut lab, "generic");
    lab.host(1).stop();
    lab.wire.sh("ip link set w1 mtu 9000");
    up(&mut lab, "native");
    xdp_is(lab.h(1), |told| told.starts_with("generic (up0: its driver takes no XDP program"));
    let link = lab.h(1).namespace.sh("ip -d link show up0");
    assert!(link.contains("xdpgeneric") && link.contains("name xdp_uplink"), "{link}");
    lab.wire.sh("ip link set w1 mtu 1500");
    // It is attached as soon as the uplink allows.
    xdp_is(lab.h(1), |told| told == "native");
}

/// The card of the machine that `cargo xtask test --vm` makes, which the test may
/// take away from it: one whose driver stops merging segments for XDP.
#[test]
fn card_that_loses_offloads_by_xdp_gets_it_only_on_request() {
    let Ok(card) = std::env::var("MARGAY_TEST_CARD") else {
        return skip("this machine has no card for tests");
    };
    let mut lab = Lab::single(Plan::for_test(1));
    let host = lab.h(1).namespace.name().to_owned();
    sh(&format!("ip -n {host} link del up0"));
    sh(&format!("ip link set {card} netns {host} name up0"));
    lab.h(1).namespace.sh("ip link set up0 up");
    lab.h(1).namespace.sh("ip addr add 192.0.2.1/24 dev up0");
    let merges = |lab: &Lab| {
        let features = lab.h(1).namespace.sh("ethtool --show-features up0");
        features.contains("large-receive-offload: on")
    };
    let up = |lab: &mut Lab, mode: &str, expected: &str| {
        lab.host(1).stop();
        lab.host(1).flags = ["--uplink", "up0", "--xdp", mode].map(str::to_owned).into();
        lab.host(1).up();
        xdp_is(lab.h(1), |told| told == expected);
    };
    assert!(merges(&lab), "what there is to lose");
    // `--xdp native` forces it.
    up(&mut lab, "native", "native");
    assert!(!merges(&lab));
    up(&mut lab, "auto", "off: vmxnet3 may lose offloads or queues by it (--xdp native insists)");
    eventually("it merges again", || if merges(&lab) { Ok(()) } else { Err(lab.h(1).log()) });
    up(&mut lab, "native", "native");
    lab.host(1).stop();
    let said = lab.h(1).cleanup(&[]);
    assert!(said.ok(), "{said:?}");
    assert!(merges(&lab), "what cleanup undoes");
}
