//! Invalid requests: each is refused with a reason that names the object and the correction,
//! and leaves no trace.

use std::process::Command;

use margay_tests::{
    eventually::eventually,
    host::{Host, margay},
    lab::{Lab, Plan},
    process::{Said, say},
};

use crate::attach::one_host;

#[track_caller]
fn refused(host: &Host, args: &[&str], reasons: &[&str]) {
    let said = host.refused(args);
    for reason in reasons {
        assert!(said.contains(reason), "margay {}: {said}", args.join(" "));
    }
}

#[test]
fn wrong_requests_are_refused_with_a_reason_and_without_a_trace() {
    let lab = one_host();
    // First, since it knows the address that comes first.
    endpoints(&lab);
    networks(&lab);
    a_second_agent_on_one_socket_is_refused(&lab);
    // Last: it removes the network.
    a_network_in_use_is_not_removed(&lab);
}

fn networks(lab: &Lab) {
    let h = lab.h(1);
    let before = h.json(&["network", "ls"]);
    let create = |more: &[&'static str]| [&["network", "create", "red"][..], more].concat();
    refused(h, &create(&["--subnet", "10.1.4.0/24"]), &["10.1.4.0/24 overlaps 10.1.0.0/16 of network blue"]);
    refused(h, &create(&["--subnet", "192.0.2.0/24"]), &["contains 192.0.2.1", "node h1"]);
    refused(h, &create(&["--subnet", "10.9.0.1/24"]), &["did you mean 10.9.0.0/24"]);
    refused(h, &create(&["--subnet", "224.0.0.0/8"]), &["multicast"]);
    refused(
        h,
        &create(&["--subnet", "10.9.0.0/24", "--subnet", "10.8.0.0/24"]),
        &["one subnet of each family"],
    );
    refused(h, &create(&["--subnet", "10.9.0.0/24", "--block-size", "3"]), &["block size 3", "power of two"]);
    refused(h, &create(&["--subnet", "10.9.0.0/24", "--block-size", "512"]), &["block size 512"]);
    refused(h, &create(&["--subnet", "10.9.0.0/24", "--block-prefix", "24"]), &["/24", "from 25 to 30"]);
    refused(h, &create(&["--subnet", "10.9.0.0/24", "--gateway", "10.8.0.1"]), &["10.8.0.1"]);
    refused(h, &create(&["--subnet", "10.9.0.0/24", "--mtu", "9"]), &["MTU 9"]);
    refused(h, &create(&["--subnet", "10.9.0.0/24", "--internal", "--routable"]), &["not both"]);
    refused(
        h,
        &["network", "create", "blue", "--subnet", "10.9.0.0/24"],
        &["blue exists with other options"],
    );
    refused(h, &["network", "create", "a/b", "--subnet", "10.9.0.0/24"], &["a/b"]);
    refused(h, &["network", "rm", "green"], &["no network green"]);
    refused(h, &["network", "inspect", "green"], &["no network green"]);
    assert_eq!(h.json(&["network", "ls"]), before);
    h.ok(&["network", "create", "blue", "--subnet", "10.1.0.0/16", "--subnet", "fd00:1::/64"]);
    assert_eq!(h.json(&["network", "ls"]), before, "the same again is fine");
}

fn a_network_in_use_is_not_removed(lab: &Lab) {
    let c = lab.container();
    lab.h(1).attach(&c, "blue", &["--name", "web"]);
    refused(lab.h(1), &["network", "rm", "blue"], &["blue has endpoints: 1 on node h1 (web)"]);
    lab.h(1).ok(&["endpoint", "detach", "web"]);
    lab.h(1).ok(&["network", "rm", "blue"]);
    assert_eq!(
        lab.h(1)
            .json(&["route", "ls"])
            .as_array()
            .map(|r| r.iter().filter(|r| r["kind"] == "subnet").count()),
        Some(0)
    );
}

fn endpoints(lab: &Lab) {
    let h = lab.h(1);
    let (taken, _) = lab.attached(1, "blue");
    let c = lab.container();
    let path = c.path().display().to_string();
    let before = (h.json(&["endpoint", "ls"]), h.namespace.sh("ip -o link"));
    let attach = |more: &[&'static str]| {
        let args = ["endpoint", "attach", "--network", "blue", "--netns"];
        let args: Vec<String> = args.iter().map(|a| (*a).to_owned()).chain([path.clone()]).collect();
        args.into_iter().chain(more.iter().map(|a| (*a).to_owned())).collect::<Vec<_>>()
    };
    let try_it = |more: &[&'static str], reasons: &[&str]| {
        let args = attach(more);
        refused(h, &args.iter().map(String::as_str).collect::<Vec<_>>(), reasons);
    };
    try_it(&["--ip", "10.9.0.1"], &["10.9.0.1 is in no subnet of network blue"]);
    try_it(&["--ip", "10.1.0.1"], &["10.1.0.1 is the gateway"]);
    try_it(&["--ip", "10.1.0.0"], &["10.1.0.0", "first or last"]);
    try_it(&["--ip", "10.1.0.2"], &["10.1.0.2 is taken"]);
    try_it(&["--ip", "10.1.0.8", "--ip", "10.1.0.9"], &["one address of each"]);
    try_it(&["--mac", "01:00:00:00:00:01"], &["unicast"]);
    try_it(&["--mac", "elephant"], &["elephant"]);
    try_it(&["--ifname", "lo"], &["interface lo exists", "--ifname"]);
    try_it(&["--ifname", "much-too-long-a-name"], &["1 to 15"]);
    let on = |network: &str, path: &str, reasons: &[&str]| {
        refused(h, &["endpoint", "attach", "--network", network, "--netns", path], reasons);
    };
    on("green", &path, &["no network green", "network create"]);
    on("blue", "/run/netns/nobody", &["/run/netns/nobody", "check that the container still exists"]);
    on("blue", "/etc/hostname", &["no network namespace"]);
    on("blue", &h.namespace.path().display().to_string(), &["host's own"]);
    refused(h, &["endpoint", "attach", "--network", "blue", "--pid", "999999"], &["999999"]);
    refused(h, &["endpoint", "inspect", "nobody"], &["no endpoint nobody"]);
    assert_eq!((h.json(&["endpoint", "ls"]), h.namespace.sh("ip -o link")), before, "without a trace");
    // The same interface again, but differently.
    let path = taken.path().display().to_string();
    refused(
        h,
        &["endpoint", "attach", "--network", "blue", "--netns", &path, "--ip", "10.1.0.77"],
        &["already"],
    );
    // Detaching an endpoint that does not exist succeeds.
    h.ok(&["endpoint", "detach", "nobody"]);
    h.detach(&taken);
}

/// Runs an agent that should refuse to start.
fn agent(host: &Host, change: impl Fn(&mut Vec<String>)) -> Said {
    let mut flags = host.own_flags();
    change(&mut flags);
    say(host.namespace.command("timeout").arg("120").arg(margay()).args(flags))
}

fn set(flags: &mut [String], name: &str, value: &str) {
    let at = flags.iter().position(|flag| flag == name).expect("a flag");
    flags[at + 1] = value.into();
}

#[test]
fn invalid_agent_settings_are_refused() {
    let lab = Lab::without_agents(Plan::for_test(1));
    let h = lab.h(1);
    let cases: [(&str, &str, &[&str]); 3] = [
        ("--node-ip", "127.0.0.1", &["--node-ip 127.0.0.1", "the uplink's"]),
        ("--bpffs", "/run/margay-lab/x", &["not on a BPF file system", "mount -t bpf"]),
        ("--store", "http://x:1", &["etcd://HOST:PORT"]),
    ];
    for (flag, value, reasons) in cases {
        let said = agent(h, |flags| set(flags, flag, value));
        assert_eq!(said.status, 1, "{flag} {value}: {said:?}");
        for reason in reasons {
            assert!(said.err.contains(reason), "{flag} {value}: {said:?}");
        }
    }
    assert!(!h.namespace.run("ip link show margay0").ok(), "nothing was begun");
    let usage = agent(h, |flags| flags.push("--colour".into()));
    assert_eq!(usage.status, 2, "{usage:?}");
}

fn a_second_agent_on_one_socket_is_refused(lab: &Lab) {
    let said = agent(lab.h(1), |_| {});
    assert_eq!(said.status, 1, "{said:?}");
    assert!(said.err.contains("another agent answers"), "{said:?}");
    // The first goes on.
    lab.h(1).well();
}

#[test]
fn conflicting_ingress_qdisc_is_reported() {
    let mut lab = Lab::without_agents(Plan::for_test(1));
    lab.h(1).namespace.sh("tc qdisc add dev up0 ingress");
    lab.host(1).flags = vec!["--tc-mode".into(), "clsact".into()];
    lab.host(1).start();
    eventually("it is told", || {
        let status = lab.h(1).json(&["status"]);
        let told = status["pending"].to_string().contains("tc qdisc del dev up0 ingress");
        if told { Ok(()) } else { Err(status) }
    });
}

#[test]
fn command_without_an_agent_reports_it() {
    let said = say(Command::new(margay()).args(["--socket", "/run/nobody.sock", "status"]));
    assert_eq!(said.status, 1);
    assert!(said.err.contains("no agent answers on /run/nobody.sock"), "{said:?}");
}
