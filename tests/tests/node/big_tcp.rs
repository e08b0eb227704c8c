//! BIG TCP: asked for, seen on the wire, and taken back.

use margay_tests::{
    container::Namespace,
    eventually::eventually,
    host::UPLINK,
    lab::{Lab, Plan},
    stream,
};

/// The largest super-packet that an interface sends, bytes.
fn size(namespace: &Namespace, interface: &str) -> u32 {
    let link = namespace.sh(&format!("ip -d -o link show dev {interface}"));
    let size = link.split_once("gso_max_size ").and_then(|(_, rest)| rest.split_whitespace().next());
    size.and_then(|size| size.parse().ok()).unwrap_or_else(|| panic!("{link}"))
}

/// The hosts' uplinks are one cable, which takes what veths take.
fn asked_for() -> Lab {
    let mut lab = Lab::without_agents(Plan { v6: true, ..Plan::direct() });
    for i in [1, 2] {
        lab.host(i).flags = vec!["--big-tcp".into()];
        lab.host(i).up();
    }
    lab.h(1).ok(&["network", "create", "blue", "--subnet", "10.1.0.0/16", "--subnet", "fd00:1::/64"]);
    lab
}

#[test]
fn big_tcp_is_enabled_kept_and_removed() {
    let mut lab = asked_for();
    larger_super_packets_cross_whole(&lab);
    containers_follow_the_uplink_and_a_reset_uplink_is_raised_again(&mut lab);
    // Last: it takes everything off the first host.
    damaged_settings_record_does_not_stop_the_agent_and_cleanup_names_it(&mut lab);
}

fn larger_super_packets_cross_whole(lab: &Lab) {
    let (a, _) = lab.attached(1, "blue");
    let (b, addr_b) = lab.attached(2, "blue");
    for (namespace, interface) in [(&lab.h(1).namespace, "up0"), (&a, "eth0"), (&b, "eth0")] {
        assert_eq!(size(namespace, interface), 196_608, "{interface}");
    }
    for addr in addr_b {
        let dir = lab.h(1).dir();
        let seen = dir.join(format!("larger-{addr}.log"));
        let dump = stream::larger(&lab.h(2).namespace, UPLINK, 100_000, &seen);
        let _server = stream::serve(&b, addr, &dir.join("iperf.log"));
        eventually("a packet above 100,000 bytes is seen", || {
            stream::send(&a, addr, "200M")?;
            let log = dump.log();
            // tcpdump warns about such a packet, whose length field is 0.
            let seen = log.lines().any(|line| line.contains(" IP"));
            if seen { Ok(()) } else { Err(log) }
        });
    }
    let nodes = lab.h(2).json(&["node", "ls"]);
    assert!(nodes.as_array().is_some_and(|all| all.iter().all(|node| node["super_packets"] == 196_608)));
}

fn containers_follow_the_uplink_and_a_reset_uplink_is_raised_again(lab: &mut Lab) {
    let (a, _) = lab.attached(1, "blue");
    let host = Namespace::existing(lab.h(1).namespace.name());
    host.sh("ip link set up0 gso_max_size 65536");
    host.sh("ip link set up0 txqueuelen 900");
    eventually("the uplink is raised again", || match size(&host, "up0") {
        196_608 => Ok(()),
        other => Err(other),
    });
    lab.host(1).stop();
    lab.host(1).flags.clear();
    lab.host(1).up();
    assert_eq!((size(&host, "up0"), size(&a, "eth0")), (65_536, 65_536), "both are as before");
    lab.host(1).stop();
    lab.host(1).flags = vec!["--big-tcp".into()];
    lab.host(1).up();
    assert_eq!((size(&host, "up0"), size(&a, "eth0")), (196_608, 196_608), "the container is not forgotten");
}

fn damaged_settings_record_does_not_stop_the_agent_and_cleanup_names_it(lab: &mut Lab) {
    let (_a, addrs) = lab.attached(1, "blue");
    lab.host(1).stop();
    let record = lab.h(1).dir().join("state/big-tcp.json");
    std::fs::write(&record, "{").expect("a disk");
    lab.host(1).flags.clear();
    lab.host(1).up();
    assert!(lab.h(1).log().contains("cannot reset BIG TCP on the uplink"), "{}", lab.h(1).log());
    assert!(lab.h(1).namespace.pings(addrs[0], 1));
    lab.host(1).stop();
    let bpffs = lab.plan.bpffs.join("h1");
    let said = lab.h(1).cleanup(&[]);
    assert_eq!(said.status, 1, "{said:?}");
    assert!(said.err.contains("BIG TCP stays on") && said.err.contains("big-tcp.json"), "{said:?}");
    let gone =
        !bpffs.exists() && !lab.h(1).dir().join("state/endpoints").exists() && !lab.h(1).socket().exists();
    assert!(gone, "everything else is removed");
    std::fs::remove_file(record).expect("our own");
    let said = lab.h(1).cleanup(&[]);
    assert!(said.ok(), "{said:?}");
}
