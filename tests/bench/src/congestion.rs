//! One congestion control for all candidates, whatever the machine has by default.

use std::fs;

use margay_tests::{container::Namespace, lab::Plan, process::say};

/// Linux's own default and that of the distributions (RFC 9438). BBR, which some kernels
/// have instead, sends as fast as it believes the way to be: what is compared then is its
/// belief and its timers, and ways that differ by half look the same.
pub const CUBIC: &str = "cubic";
const SWITCH: &str = "/proc/sys/net/ipv4/tcp_congestion_control";
const ALLOWED: &str = "/proc/sys/net/ipv4/tcp_allowed_congestion_control";

/// A name on the command line, which namespaces have to be allowed.
pub fn parse(name: &str) -> Result<String, String> {
    let allowed = fs::read_to_string(ALLOWED).unwrap_or_default();
    // The default is no demand: without it the run goes on, and says so.
    if name == CUBIC || allowed.split_whitespace().any(|allowed| allowed == name) {
        return Ok(name.to_owned());
    }
    Err(format!("this machine allows {}", allowed.split_whitespace().collect::<Vec<_>>().join(", ")))
}

/// Gives one to all network namespaces of this run: hosts, containers, cables. Where
/// the machine does not allow it (`cargo xtask bench` sees to that), they keep its own.
pub fn unify(name: &str) {
    for namespace in Namespace::starting_with(&Plan::every_prefix()) {
        let line = format!("echo \"$0\" > {SWITCH}");
        // Whether it worked, `of` tells.
        drop(say(namespace.command("sh").args(["-c", &line, name])));
    }
}

/// What new sockets of a namespace have.
pub fn of(namespace: &Namespace) -> String {
    namespace.run(&format!("cat {SWITCH}")).out.trim().to_owned()
}
