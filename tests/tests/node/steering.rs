//! Receive steering: which processors carry what a container sends.

use std::process::Command;

use margay_tests::{
    host::Host,
    lab::{Lab, Plan},
    process::say,
};

/// The masks of all containers' interfaces of a host.
fn masks(host: &Host) -> Vec<String> {
    // `ip netns exec` mounts the sysfs of the namespace.
    let name = host.namespace.name();
    let files = "cat /sys/class/net/mgy*/queues/rx-*/rps_cpus";
    let said = say(Command::new("ip").args(["netns", "exec", name, "sh", "-c", files]));
    said.out.lines().map(|line| line.trim_start_matches(['0', ',']).to_owned()).collect()
}

#[test]
fn containers_are_steered_as_is_asked_and_no_longer_when_not() {
    let mut lab = Lab::without_agents(Plan::for_test(1));
    lab.host(1).up();
    lab.h(1).ok(&["network", "create", "blue", "--subnet", "10.1.0.0/24"]);
    let (a, _) = lab.attached(1, "blue");
    assert_eq!(masks(lab.h(1)), [""]);
    lab.host(1).stop();
    lab.host(1).flags = vec!["--receive-steering".into(), "1".into()];
    lab.host(1).up();
    let (_b, addr_b) = lab.attached(1, "blue");
    assert_eq!(masks(lab.h(1)), ["1", "1"], "one that was there, one that came");
    assert!(a.pings(addr_b[0], 1));
    lab.host(1).stop();
    lab.host(1).flags.clear();
    lab.host(1).up();
    assert_eq!(masks(lab.h(1)), ["", ""]);
}

#[test]
fn what_is_no_mask_is_refused() {
    let mut lab = Lab::without_agents(Plan::for_test(1));
    lab.host(1).flags = vec!["--receive-steering".into(), "0-3".into()];
    let flags = lab.h(1).own_flags();
    let words: Vec<&str> = flags.iter().map(String::as_str).collect();
    let said = lab.h(1).margay(&words);
    assert!(!said.ok() && said.err.contains("\"0-3\" is no mask of processors"), "{said:?}");
}
