//! Containers behind netkits, where the kernel makes them: `cargo xtask test node
//! --vm 6.12 --filter netkit` runs these on one that does.

use std::net::IpAddr;

use margay_tests::{
    container::Namespace,
    eventually::eventually,
    frame::Frame,
    lab::{Lab, Plan},
    needs::skip,
    raw, stream,
};

/// The flags of an agent whose new containers get a kind of device.
fn flags(device: &str) -> Vec<String> {
    vec!["--container-device".into(), device.into()]
}

/// Two hosts, of which the first has a kind of device where the kernel makes it,
/// and whether it does; the second's containers have veths.
fn hosts(device: &str) -> (Lab, bool) {
    let made = makes_netkits();
    let mut lab = Lab::without_agents(Plan::for_test(2));
    lab.host(1).flags = flags(device);
    lab.hosts.iter_mut().for_each(|host| host.up());
    lab.h(1).ok(&["network", "create", "blue", "--subnet", "10.1.0.0/16", "--subnet", "fd00:1::/64"]);
    let taken = lab.h(1).json(&["status"])["container_device"] == "netkit";
    assert_eq!(taken, made, "what the agent takes of what the kernel has");
    (lab, made)
}

/// Whether the kernel has the driver, loaded or built in. Those before 6.12 are not
/// tested with one.
fn makes_netkits() -> bool {
    let symbols = std::fs::read_to_string("/proc/kallsyms").expect("a kernel with symbols");
    symbols.lines().any(|line| line.split_whitespace().nth(2) == Some("netkit_xmit"))
}

/// Restarts the first host's agent with other flags.
fn restart(lab: &mut Lab, flags: Vec<String>) {
    lab.host(1).stop();
    lab.host(1).flags = flags;
    lab.host(1).up();
}

/// Two such hosts; nothing where the kernel makes no netkit: the test is skipped.
fn netkits() -> Option<Lab> {
    if !makes_netkits() {
        skip("this kernel makes no netkit");
        return None;
    }
    Some(hosts("auto").0)
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
        assert!(from.pings(*addr, 3), "{} to {addr}", from.name());
    }
}

#[test]
fn auto_uses_netkit_if_the_kernel_has_it() {
    let (lab, made) = hosts("auto");
    let (a, _) = lab.attached(1, "blue");
    assert_eq!(kind(&a), if made { "netkit" } else { "veth" });
    let (_b, addr_b) = lab.attached(2, "blue");
    reach(&a, &addr_b);
}

#[test]
fn netkit_option_without_kernel_support_reports_why() {
    let (mut lab, made) = hosts("auto");
    if made {
        return skip("this kernel makes netkits");
    }
    lab.host(1).stop();
    lab.host(1).flags = flags("netkit");
    let flags = lab.h(1).own_flags();
    let words: Vec<&str> = flags.iter().map(String::as_str).collect();
    let said = lab.h(1).margay(&words);
    assert!(!said.ok() && said.err.contains("--container-device netkit: this kernel has none"), "{said:?}");
    let links = lab.h(1).namespace.sh("ip -o link");
    assert!(!links.contains("mgy"), "the attempt leaves nothing: {links}");
}

#[test]
fn netkits_and_veths_reach_each_other() {
    let Some(mut lab) = netkits() else { return };
    let (a, addr_a) = lab.attached(1, "blue");
    let (b, addr_b) = lab.attached(1, "blue");
    let (far, addr_far) = lab.attached(2, "blue");
    restart(&mut lab, flags("veth"));
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
fn tcp_stream_through_a_netkit_survives_the_agent() {
    let Some(mut lab) = netkits() else { return };
    let (a, _) = lab.attached(1, "blue");
    let (near, addr_near) = lab.attached(1, "blue");
    let (far, addr_far) = lab.attached(2, "blue");
    let passes = |lab: &Lab, server: &Namespace, addr: IpAddr| {
        let _server = stream::serve(server, addr, &lab.h(1).dir().join("iperf.log"));
        eventually("the stream arrives", || stream::send(&a, addr, "50M"));
    };
    for (server, addresses) in [(&near, &addr_near), (&far, &addr_far)] {
        addresses.iter().for_each(|addr| passes(&lab, server, *addr));
    }
    lab.host(1).agent().kill();
    reach(&a, &addr_near);
    reach(&a, &addr_far);
    // Programs outside this object's folder belong to another version, and are replaced.
    let programs = lab.plan.bpffs.join("h1/programs");
    for object in std::fs::read_dir(&programs).expect("pins").filter_map(Result::ok) {
        std::fs::rename(object.path(), programs.join("another")).expect("there is one");
    }
    lab.host(1).up();
    eventually("every hook has the new programs", || {
        let log = lab.h(1).log();
        if log.contains("attached this agent's programs to every hook") { Ok(()) } else { Err(log) }
    });
    reach(&a, &addr_near);
    reach(&a, &addr_far);
    let status = lab.h(1).json(&["status"]);
    let attachments = status["attachments"].as_array().expect("a list");
    assert!(attachments.len() >= 4 && attachments.iter().all(|a| a["current"] == true), "{status}");
}

#[test]
fn netkit_without_its_program_passes_nothing() {
    let Some(mut lab) = netkits() else { return };
    let (a, _) = lab.attached(1, "blue");
    let (_b, addr_b) = lab.attached(1, "blue");
    lab.host(1).stop();
    let links = lab.plan.bpffs.join("h1/links");
    for pin in std::fs::read_dir(links).expect("pins").filter_map(Result::ok) {
        if pin.file_name().to_string_lossy().starts_with("mgy") {
            std::fs::remove_file(pin.path()).expect("ours");
        }
    }
    eventually("nothing passes any more", || if a.reaches(addr_b[0]) { Err("it does") } else { Ok(()) });
    assert!(!a.reaches("10.1.0.1".parse().expect("a literal")), "nor does the gateway answer");
    lab.host(1).up();
    reach(&a, &addr_b);
}

/// The device that a packet leaves by decides, not the device of its source address.
#[test]
fn container_with_a_veth_and_a_netkit_sends_by_either() {
    let Some(mut lab) = netkits() else { return };
    lab.h(1).ok(&["network", "create", "red", "--subnet", "10.2.0.0/16"]);
    let (_b, addr_b) = lab.attached(1, "blue");
    restart(&mut lab, flags("veth"));
    let (c, _) = lab.attached(1, "blue");
    restart(&mut lab, flags("netkit"));
    lab.h(1).attach(&c, "red", &["--ifname", "eth1"]);
    assert!(c.sh("ip -d -o link show dev eth1").contains("netkit"));
    reach(&c, &addr_b);
    let own = c.sh("ip -4 -o addr show dev eth0");
    let own = own.split_whitespace().find_map(|word| word.strip_suffix("/32")).expect("an address");
    c.sh(&format!("ip route replace {}/32 via 10.2.0.1 dev eth1 onlink src {own}", addr_b[0]));
    reach(&c, &addr_b[..1]);
}

#[test]
fn super_packets_pass_a_netkit() {
    let Some(mut lab) = netkits() else { return };
    restart(&mut lab, [flags("netkit"), vec!["--big-tcp".into()]].concat());
    let (a, _) = lab.attached(1, "blue");
    let (b, addr_b) = lab.attached(1, "blue");
    assert!(a.sh("ip -d -o link show dev eth0").contains("gso_max_size 196608"));
    let _server = stream::serve(&b, addr_b[0], &lab.h(1).dir().join("iperf.log"));
    eventually("the stream arrives", || stream::send(&a, addr_b[0], "50M"));
}

#[test]
fn netkit_uses_its_own_link_in_clsact_mode() {
    let Some(mut lab) = netkits() else { return };
    restart(&mut lab, [flags("netkit"), vec!["--tc-mode".into(), "clsact".into()]].concat());
    let (a, _) = lab.attached(1, "blue");
    let (_far, addr_far) = lab.attached(2, "blue");
    reach(&a, &addr_far);
    let status = lab.h(1).json(&["status"]);
    assert!(status["pending"].as_array().is_some_and(Vec::is_empty), "{status}");
}

#[test]
fn spoofed_frames_behind_a_netkit_are_dropped() {
    let Some(lab) = netkits() else { return };
    let (a, _) = lab.attached(1, "blue");
    let (_b, addr_b) = lab.attached(1, "blue");
    reach(&a, &addr_b);
    a.sh("ip addr add 10.1.0.77/32 dev eth0");
    let before = lab.h(1).count("from_workload", "spoofed_source");
    assert!(!a.run(&format!("ping -n -q -c 2 -i 0.05 -W 1 -I 10.1.0.77 {}", addr_b[0])).ok());
    // The sender gets an error for each, and retries some.
    assert!(lab.h(1).count("from_workload", "spoofed_source") >= before + 2);
}

/// A netkit does not read the EtherType off the frame: a raw socket says what it is.
#[test]
fn wrong_ether_type_behind_a_netkit_is_dropped() {
    let Some(lab) = netkits() else { return };
    let (a, addr_a) = lab.attached(1, "blue");
    let (_b, addr_b) = lab.attached(1, "blue");
    let index = raw::index(&a, "eth0");
    let frame = Frame::udp(raw::mac(&a, "eth0"), addr_a[0], addr_b[0]).bytes();
    let count = |reason: &str| lab.h(1).count("from_workload", reason);
    let (local, refused) = (count("local"), count("ether_type"));
    raw::send(&a.path(), index, 0x0800, &frame).expect("it passes");
    let local = eventually("it and the answer that nobody listens there", || match count("local") {
        n if n >= local + 2 => Ok(n),
        n => Err(n),
    });
    // Whether the sender gets an error depends on the kernel.
    drop(raw::send(&a.path(), index, 0x86dd, &frame));
    assert_eq!((count("local"), count("ether_type")), (local, refused + 1));
}

#[test]
fn detach_leaves_nothing_of_a_netkit() {
    let Some(mut lab) = netkits() else { return };
    let (a, _) = lab.attached(1, "blue");
    let (b, addr_b) = lab.attached(1, "blue");
    reach(&a, &addr_b);
    lab.h(1).detach(&a);
    assert!(!a.sh("ip -o link").contains("eth0"));
    let links = std::fs::read_dir(lab.plan.bpffs.join("h1/links")).expect("pins");
    let ours =
        links.filter_map(Result::ok).filter(|pin| pin.file_name().to_string_lossy().starts_with("mgy"));
    assert_eq!(ours.count(), 1, "b's alone");
    lab.host(1).stop();
    let said = lab.h(1).cleanup(&[]);
    assert!(said.ok(), "{said:?}");
    let links = lab.h(1).namespace.sh("ip -o link");
    assert!(!links.contains("mgy"), "{links}");
    assert!(!b.sh("ip -o link").contains("eth0"));
}
