//! Containers behind netkits, where the kernel makes them: `cargo xtask test node
//! --vm 6.12 --filter netkit` runs these on one that does.

use std::net::IpAddr;

use margay_tests::{
    container::Namespace,
    eventually::eventually,
    lab::{Lab, Plan},
};

/// The flags of an agent whose new containers get a kind of device.
fn flags(device: &str) -> Vec<String> {
    vec!["--container-device".into(), device.into()]
}

/// Two hosts, of which the first has a kind of device where the kernel makes it,
/// and whether it does; the second's containers have veths.
fn hosts(device: &str) -> (Lab, bool) {
    let mut lab = Lab::without_agents(Plan::for_test(2));
    lab.host(1).flags = flags(device);
    lab.hosts.iter_mut().for_each(|host| host.up());
    lab.h(1).ok(&["network", "create", "blue", "--subnet", "10.1.0.0/16", "--subnet", "fd00:1::/64"]);
    let made = lab.h(1).json(&["status"])["container_device"] == "netkit";
    (lab, made)
}

/// Two such hosts; nothing where the kernel makes no netkit, which is said.
fn netkits() -> Option<Lab> {
    let (lab, made) = hosts("auto");
    if !made {
        println!("this kernel makes no netkit");
    }
    made.then_some(lab)
}

/// What kind of device a container's interface is.
fn kind(container: &Namespace) -> &'static str {
    let link = container.sh("ip -d -o link show dev eth0");
    let found = ["netkit", "veth"].into_iter().find(|kind| link.contains(kind));
    found.unwrap_or_else(|| panic!("{link}"))
}

#[track_caller]
fn reach(from: &Namespace, to: &[IpAddr]) {
    for addr in to {
        let said = from.run(&format!("ping -n -q -c 3 -i 0.05 -W 1 {addr}"));
        assert!(said.ok(), "{} to {addr}: {said:?}", from.name());
    }
}

#[test]
fn auto_takes_what_the_kernel_makes() {
    let (lab, made) = hosts("auto");
    let (a, _) = lab.attached(1, "blue");
    assert_eq!(kind(&a), if made { "netkit" } else { "veth" });
    let (_b, addr_b) = lab.attached(2, "blue");
    reach(&a, &addr_b);
}

#[test]
fn who_insists_on_a_netkit_hears_why_there_is_none() {
    let (mut lab, made) = hosts("auto");
    if made {
        println!("this kernel makes netkits");
        return;
    }
    lab.host(1).stop();
    lab.host(1).flags = flags("netkit");
    let flags = lab.h(1).own_flags();
    let words: Vec<&str> = flags.iter().map(String::as_str).collect();
    let said = lab.h(1).margay(&words);
    assert!(!said.ok() && said.err.contains("--container-device netkit: this kernel makes none"), "{said:?}");
    let links = lab.h(1).namespace.sh("ip -o link");
    assert!(!links.contains("mgy0"), "the attempt leaves nothing: {links}");
}

#[test]
fn netkits_and_veths_reach_each_other() {
    let Some(mut lab) = netkits() else { return };
    let (a, addr_a) = lab.attached(1, "blue");
    let (b, addr_b) = lab.attached(1, "blue");
    let (far, addr_far) = lab.attached(2, "blue");
    lab.host(1).stop();
    lab.host(1).flags = flags("veth");
    lab.host(1).up();
    let (old, addr_old) = lab.attached(1, "blue");
    assert_eq!([&a, &b, &far, &old].map(kind), ["netkit", "netkit", "veth", "veth"]);
    let gateway = ["10.1.0.1", "fd00:1::1"].map(|addr| addr.parse().expect("a literal"));
    for (from, to) in [(&a, &addr_b), (&a, &addr_far), (&a, &addr_old), (&old, &addr_a), (&far, &addr_a)] {
        reach(from, to);
        reach(from, &gateway);
    }
    reach(&lab.h(1).namespace, &addr_a);
    let node = lab.h(2).addresses.clone();
    reach(&a, &node);
}

#[test]
fn a_stream_passes_and_survives_the_agent() {
    let Some(mut lab) = netkits() else { return };
    let (a, _) = lab.attached(1, "blue");
    let (near, addr_near) = lab.attached(1, "blue");
    let (far, addr_far) = lab.attached(2, "blue");
    let stream = |lab: &Lab, server: &Namespace, addr: IpAddr| {
        let _server = server.start(&format!("iperf3 -s -1 -B {addr}"), &lab.h(1).dir().join("iperf.log"));
        eventually("iperf3 sends all", || {
            let said = a.run(&format!("timeout 20 iperf3 -c {addr} -n 50M"));
            if said.ok() { Ok(()) } else { Err(said) }
        });
    };
    for (server, addresses) in [(&near, &addr_near), (&far, &addr_far)] {
        addresses.iter().for_each(|addr| stream(&lab, server, *addr));
    }
    lab.host(1).agent().kill();
    reach(&a, &addr_near);
    reach(&a, &addr_far);
    lab.host(1).up();
    reach(&a, &addr_far);
    let status = lab.h(1).json(&["status"]);
    let attachments = status["attachments"].as_array().expect("a list");
    assert!(attachments.len() >= 4 && attachments.iter().all(|a| a["current"] == true), "{status}");
}

#[test]
fn what_is_not_the_containers_own_does_not_pass_a_netkit() {
    let Some(lab) = netkits() else { return };
    let (a, _) = lab.attached(1, "blue");
    let (_b, addr_b) = lab.attached(1, "blue");
    a.sh("ip addr add 10.1.0.77/32 dev eth0");
    let before = lab.h(1).count("from_workload", "spoofed_source");
    assert!(!a.run(&format!("ping -n -q -c 2 -i 0.05 -W 1 -I 10.1.0.77 {}", addr_b[0])).ok());
    // The sender hears of each, and tries some again.
    assert!(lab.h(1).count("from_workload", "spoofed_source") >= before + 2);
}

#[test]
fn nothing_of_a_netkit_stays() {
    let Some(mut lab) = netkits() else { return };
    let (a, _) = lab.attached(1, "blue");
    let (b, addr_b) = lab.attached(1, "blue");
    reach(&a, &addr_b);
    lab.h(1).ok(&["endpoint", "detach", "--netns", &a.path().display().to_string()]);
    assert!(!a.sh("ip -o link").contains("eth0"));
    lab.host(1).stop();
    let (dir, pins) = (lab.h(1).dir(), lab.plan.bpffs.join("h1").display().to_string());
    let [state, run] = ["state", "run"].map(|name| dir.join(name).display().to_string());
    lab.h(1).ok(&["cleanup", "--bpffs", &pins, "--state-dir", &state, "--run-dir", &run]);
    let links = lab.h(1).namespace.sh("ip -o link");
    assert!(!links.contains("mgy"), "{links}");
    assert!(!b.sh("ip -o link").contains("eth0"));
}
