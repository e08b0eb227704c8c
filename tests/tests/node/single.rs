//! A single host: no etcd, no configuration.

use margay_tests::{
    host::margay,
    lab::{Lab, Plan},
    process::say,
};

#[test]
fn single_host_needs_no_configuration_and_locks_its_store() {
    let mut lab = Lab::single(Plan::for_test(1));
    lab.host(1).up();
    a_single_host_needs_no_configuration(&mut lab);
    embedded_store_is_locked_by_one_agent(&lab);
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

fn embedded_store_is_locked_by_one_agent(lab: &Lab) {
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
