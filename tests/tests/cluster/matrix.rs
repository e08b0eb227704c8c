//! Who reaches whom, across three hosts and two networks.

use std::net::IpAddr;

use margay_tests::{
    container::Namespace,
    eventually::eventually,
    lab::{Lab, Plan},
};

/// A container, its network and its host.
struct Member {
    namespace: Namespace,
    addresses: Vec<IpAddr>,
    network: &'static str,
    host: usize,
}

/// Two containers on each of three hosts and two networks.
fn populate(lab: &Lab) -> Vec<Member> {
    lab.h(1).ok(&["network", "create", "blue", "--subnet", "10.1.0.0/16", "--subnet", "fd00:1::/64"]);
    lab.h(2).ok(&["network", "create", "red", "--subnet", "10.2.0.0/16", "--subnet", "fd00:2::/64"]);
    let mut members = Vec::new();
    for network in ["blue", "red"] {
        for host in 1..=3 {
            for _ in 0..2 {
                let (namespace, addresses) = lab.attached(host, network);
                members.push(Member { namespace, addresses, network, host });
            }
        }
    }
    members
}

/// Waits until every node routes every other node's blocks and addresses.
#[track_caller]
pub fn routed(lab: &Lab) {
    eventually("every block is routed everywhere", || {
        let mut blocks = Vec::new();
        for network in lab.h(1).json(&["network", "ls"]).as_array().expect("a list") {
            blocks.extend(network["blocks"].as_array().expect("a list").clone());
        }
        for host in &lab.hosts {
            let routes = host.json(&["route", "ls"]);
            let known = |prefix: &str, kind: &str| {
                let mut routes = routes.as_array().expect("a list").iter();
                routes.any(|r| r["prefix"] == prefix && r["kind"] == kind)
            };
            for block in &blocks {
                let cidr = block["cidr"].as_str().expect("a prefix");
                if block["node"] != *host.name && !known(cidr, "remote") {
                    return Err(format!("{} lacks {cidr}", host.name));
                }
            }
            let others = lab.hosts.iter().filter(|other| other.name != host.name);
            for addr in others.flat_map(|other| &other.addresses) {
                let prefix = format!("{addr}/{}", if addr.is_ipv4() { 32 } else { 128 });
                if !known(&prefix, "node") {
                    return Err(format!("{} lacks {prefix}", host.name));
                }
            }
        }
        Ok(())
    });
}

#[test]
fn containers_reach_their_own_network_and_no_other() {
    let lab = Lab::new(3);
    let members = populate(&lab);
    routed(&lab);
    for host in &lab.hosts {
        assert_eq!(host.namespace.sh("cat /proc/sys/net/ipv4/ip_forward").trim(), "0", "nobody else routes");
    }
    let counted = |lab: &Lab| -> u64 {
        let all = ["local", "remote", "outside"];
        lab.hosts.iter().flat_map(|host| all.map(|reason| host.count("from_host", reason))).sum()
    };
    let before = counted(&lab);
    for from in &members {
        for to in &members {
            for addr in &to.addresses {
                let expected = from.network == to.network;
                let seen =
                    if expected { from.namespace.pings(*addr, 1) } else { from.namespace.reaches(*addr) };
                assert_eq!(seen, expected, "{} on h{} to {addr} on h{}", from.network, from.host, to.host);
            }
        }
    }
    assert_eq!(counted(&lab), before, "no host's stack had a part in it");
    let isolated: u64 = lab.hosts.iter().map(|host| host.count("from_workload", "isolated")).sum();
    assert!(isolated >= 144, "each attempt was counted: {isolated}");
}

#[test]
fn hosts_and_remote_containers_reach_each_other() {
    for rp_filter in ["0", "1", "2"] {
        let mut lab = Lab::without_agents(Plan::for_test(2));
        for host in &mut lab.hosts {
            for place in ["all", "default"] {
                host.namespace.sysctl(&format!("net.ipv4.conf.{place}.rp_filter"), rp_filter);
            }
            host.up();
        }
        lab.h(1).ok(&["network", "create", "blue", "--subnet", "10.1.0.0/16", "--subnet", "fd00:1::/64"]);
        let (c, addr) = lab.attached(1, "blue");
        let (_other, addr_other) = lab.attached(2, "blue");
        routed(&lab);
        for family in 0..2 {
            let [this, other] = [lab.h(1), lab.h(2)].map(|h| h.addresses[family]);
            // First, so that both know the other's MAC: README's limits say why.
            assert!(lab.h(1).namespace.pings(other, 2), "host to host, which is none of ours");
            assert!(
                lab.h(2).namespace.pings(addr[family], 2),
                "remote host to container, rp_filter {rp_filter}"
            );
            assert!(c.pings(other, 2), "container to remote host, rp_filter {rp_filter}");
            assert!(c.pings(this, 2), "container to its host, rp_filter {rp_filter}");
            assert!(lab.h(1).namespace.pings(addr_other[family], 2), "host to remote container");
        }
    }
}

#[test]
fn clsact_host_and_tcx_host_reach_each_other() {
    let mut lab = Lab::without_agents(Plan::for_test(2));
    lab.host(1).flags = vec!["--tc-mode".into(), "clsact".into()];
    lab.hosts.iter_mut().for_each(|host| host.up());
    lab.h(1).ok(&["network", "create", "blue", "--subnet", "10.1.0.0/16", "--subnet", "fd00:1::/64"]);
    let (a, addr_a) = lab.attached(1, "blue");
    let (b, addr_b) = lab.attached(2, "blue");
    routed(&lab);
    for family in 0..2 {
        assert!(a.pings(addr_b[family], 2) && b.pings(addr_a[family], 2));
    }
}

#[test]
fn ipv6_network_works_between_nodes_with_ipv4_addresses_only() {
    let lab = Lab::from(Plan { v6: false, ..Plan::for_test(2) });
    lab.h(1).ok(&["network", "create", "blue", "--subnet", "fd00:1::/64"]);
    let (a, addr_a) = lab.attached(1, "blue");
    let (b, addr_b) = lab.attached(2, "blue");
    routed(&lab);
    assert!(a.pings(addr_b[0], 2) && b.pings(addr_a[0], 2));
    let routes = lab.h(1).json(&["route", "ls"]);
    let remote = routes.as_array().expect("a list").iter().find(|r| r["kind"] == "remote").expect("a block");
    assert!(remote["next_hop"].as_str().is_some_and(|hop| hop.starts_with("fe80::")), "{remote}");
}
