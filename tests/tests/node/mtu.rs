//! Sizes: super-packets whole, path-MTU discovery across a smaller wire.

use margay_tests::{
    eventually::eventually,
    host::UPLINK,
    lab::{Lab, Plan},
    stream,
};

/// Two hosts with containers at 1500 on a wire of 1400.
fn narrow_wire() -> Lab {
    let lab = Lab::from(Plan::for_test(2).mtu(1400));
    let create =
        ["network", "create", "blue", "--subnet", "10.1.0.0/16", "--subnet", "fd00:1::/64", "--mtu", "1500"];
    lab.h(1).ok(&create);
    lab
}

#[test]
fn packet_sizes_follow_a_smaller_mtu_on_the_wire() {
    let lab = narrow_wire();
    containers_take_the_networks_mtu_or_the_uplinks(&lab);
    path_mtu_is_discovered(&lab);
    tcp_adapts_to_a_smaller_mtu_on_the_wire(&lab);
}

fn containers_take_the_networks_mtu_or_the_uplinks(lab: &Lab) {
    lab.h(1).ok(&["network", "create", "plain", "--subnet", "10.5.0.0/16"]);
    for (network, mtu) in [("blue", 1500), ("plain", 1400)] {
        let (c, _) = lab.attached(1, network);
        let link = c.sh("ip -o link show dev eth0");
        assert!(link.contains(&format!("mtu {mtu} ")), "{link}");
    }
    let routes = lab.h(1).namespace.sh("ip route show dev margay0");
    assert!(routes.contains("10.5.0.0/16") && routes.contains("mtu 1400"), "{routes}");
}

fn path_mtu_is_discovered(lab: &Lab) {
    let before = lab.h(1).count("from_workload", "too_big");
    let (a, _) = lab.attached(1, "blue");
    let (_b, addr_b) = lab.attached(2, "blue");
    for (addr, size) in addr_b.iter().zip([1472, 1452]) {
        // 1500 bytes may not be cut and do not fit.
        let first = a.run(&format!("ping -n -c 1 -W 1 -M do -s {size} {addr}"));
        assert!(!first.ok(), "{first:?}");
        assert_eq!(a.path_mtu(*addr), Some(1400), "the kernel has believed the error");
        // What fits goes; what does not is cut by its sender and arrives. The
        // first answers teach the other side.
        assert!(a.pings_with(&format!("-M do -s {}", size - 100), *addr, 1));
        let said = a.run(&format!("ping -n -c 1 -i 0.2 -w 30 -M dont -s {size} {addr}"));
        assert!(said.ok(), "{said:?}");
    }
    assert!(lab.h(1).count("from_workload", "too_big") >= before + 2);
}

fn tcp_adapts_to_a_smaller_mtu_on_the_wire(lab: &Lab) {
    let (a, _) = lab.attached(1, "blue");
    let (b, addr_b) = lab.attached(2, "blue");
    for addr in addr_b {
        let _server = stream::serve(&b, addr, &lab.h(1).dir().join("iperf.log"));
        let said = eventually("the stream arrives", || stream::send(&a, addr, "20M"));
        assert!(said.contains("receiver"), "{said}");
        assert_eq!(a.path_mtu(addr), Some(1400));
    }
}

#[test]
fn super_packets_between_hosts_stay_unsegmented() {
    let lab = Lab::new(2);
    lab.h(1).ok(&["network", "create", "blue", "--subnet", "10.1.0.0/16", "--subnet", "fd00:1::/64"]);
    let (a, _) = lab.attached(1, "blue");
    let (b, addr_b) = lab.attached(2, "blue");
    for addr in addr_b {
        let dir = lab.h(1).dir();
        let seen = dir.join(format!("larger-{addr}.log"));
        let dump = stream::larger(&lab.h(2).namespace, UPLINK, 60_000, &seen);
        let _server = stream::serve(&b, addr, &dir.join("iperf.log"));
        // More than 60,000 bytes in one packet on the other host's uplink.
        eventually("a super-packet is seen", || {
            stream::send(&a, addr, "200M")?;
            let log = dump.log();
            if log.lines().any(|line| line.contains("tcp")) { Ok(()) } else { Err(log) }
        });
    }
}
