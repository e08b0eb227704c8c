//! One congestion control for all candidates, whatever the machine has by default.

use margay_tests::{
    container::Namespace,
    lab::Plan,
    process::{say, sh},
};

/// Linux's own default and that of the distributions (RFC 9438). BBR, which some kernels
/// have instead, sends as fast as it believes the way to be: what is compared then is its
/// belief and its timers, and ways that differ by half look the same.
pub const CUBIC: &str = "cubic";
const SWITCH: &str = "/proc/sys/net/ipv4/tcp_congestion_control";

/// Gives one to all network namespaces of this run: hosts, containers, cables. Where
/// the machine does not allow it (`cargo xtask bench` sees to that), they keep its own.
pub fn unify(name: &str) {
    let line = format!("echo {name} > {SWITCH}");
    let ours = Plan::every_prefix();
    let list = sh("ip netns list");
    let names = list.lines().filter_map(|line| line.split_whitespace().next());
    for namespace in names.filter(|name| name.starts_with(&ours)) {
        // Whether it worked, `of` tells.
        drop(say(Namespace::existing(namespace).command("sh").args(["-c", &line])));
    }
}

/// What new sockets of a namespace have.
pub fn of(namespace: &Namespace) -> String {
    namespace.run(&format!("cat {SWITCH}")).out.trim().to_owned()
}
