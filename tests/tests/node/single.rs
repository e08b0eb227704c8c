//! A single host: no etcd, no configuration.

use margay_tests::{
    host::margay,
    lab::{Lab, Plan},
    process::say,
};

#[test]
fn a_single_host_needs_no_configuration_and_shares_its_store_with_nobody() {
    let mut lab = Lab::single(Plan::for_test(1));
    lab.host(1).up();
    a_single_host_needs_no_configuration(&mut lab);
    the_embedded_store_is_one_agents(&lab);
}

fn a_single_host_needs_no_configuration(lab: &mut Lab) {
    let log = lab.h(1).log();
    for told in
        ["found the uplink, which has the default route", "uplink=\"up0\"", "192.0.2.1 and 2001:db8::1"]
    {
        assert!(log.contains(told), "{told}: {log}");
    }
    assert!(log.contains("store=embedded in"), "{log}");
    lab.h(1).ok(&["network", "create", "blue"]);
    let (a, _) = lab.attached(1, "blue");
    let (b, addr_b) = lab.attached(1, "blue");
    assert!(a.pings(addr_b[0], 2));
    assert!(lab.h(1).namespace.pings(addr_b[0], 1));
    lab.h(1).well();
    // Killed at any moment, it goes on with what it acknowledged.
    for _ in 0..5 {
        lab.host(1).kill();
        lab.host(1).up();
    }
    assert!(b.pings(addr_b[0], 1) && a.pings(addr_b[0], 1));
    let (_c, addr_c) = lab.attached(1, "blue");
    assert_ne!(addr_c, addr_b);
    assert_eq!(lab.h(1).json(&["endpoint", "ls"]).as_array().map(Vec::len), Some(3));
}

fn the_embedded_store_is_one_agents(lab: &Lab) {
    let dir = lab.h(1).dir().display().to_string();
    let mut other = lab.h(1).namespace.command(margay());
    other.args(["agent", "--node", "other", "--store", &format!("embedded:{dir}/state/store")]);
    other.args(["--state-dir", &format!("{dir}/state2"), "--run-dir", &format!("{dir}/run2")]);
    let bpffs = lab.plan.bpffs.join("h2").display().to_string();
    let said = say(other.args(["--bpffs", &bpffs]));
    assert_eq!(said.status, 1, "{said:?}");
    assert!(
        said.err.contains("another agent has the store") && said.err.contains("etcd for several"),
        "{}",
        said.err
    );
    margay_tests::lab::remove_pins(std::path::Path::new(&bpffs));
    // The first one goes on.
    lab.h(1).well();
}

#[test]
fn an_uplink_that_is_not_clear_is_asked_for() {
    let mut lab = Lab::single(Plan::for_test(1));
    let host = &lab.h(1).namespace;
    host.sh("ip route del default");
    host.sh("ip link add lan0 type veth peer name lan1");
    host.sh("ip addr add 198.51.100.1/24 dev lan0");
    host.sh("ip link set lan0 up");
    host.sh("ip link set lan1 up");
    let flags = lab.h(1).own_flags();
    let said = say(lab.h(1).namespace.command(margay()).args(&flags));
    assert_eq!(said.status, 1, "{said:?}");
    for told in ["up0", "lan0", "--uplink"] {
        assert!(said.err.contains(told), "{}", said.err);
    }
    lab.h(1).namespace.sh("ip link del lan0");
    lab.host(1).up();
    assert!(lab.h(1).log().contains("the only one with an address"), "{}", lab.h(1).log());
}
