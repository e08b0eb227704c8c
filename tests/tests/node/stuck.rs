//! A path given by a caller can block neither other requests nor the agent's end.

use std::{
    os::unix::process::CommandExt,
    process::{Child, Command, Stdio},
};

use margay_tests::{
    host::{Host, margay},
    process::sh,
};

use crate::attach::one_host;

/// An attach of whatever is at a path, which nobody waits for.
struct Asking(Child);

impl Asking {
    fn of(host: &Host, path: &str) -> Self {
        let mut command = Command::new(margay());
        command.arg("--socket").arg(host.socket());
        command.args(["endpoint", "attach", "--network", "blue", "--netns", path]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
        Self(command.spawn().expect("the binary runs"))
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

#[test]
fn fifo_given_as_a_namespace_is_refused_and_does_not_block_the_agent() {
    let mut lab = one_host();
    let fifo = lab.h(1).dir().join("fifo").display().to_string();
    sh(&format!("mkfifo {fifo}"));
    // More than the agent has threads for its work.
    let asking: Vec<Asking> = (0..6).map(|_| Asking::of(lab.h(1), &fifo)).collect();
    let (c, _) = lab.attached(1, "blue");
    assert!(c.pings("10.1.0.1".parse().expect("an address"), 1));
    let attach = |path: &str| lab.h(1).refused(&["endpoint", "attach", "--network", "blue", "--netns", path]);
    for path in [&*fifo, "/dev/zero", "/dev/ptmx"] {
        let said = attach(path);
        assert!(said.contains("is no network namespace"), "{path}: {said}");
    }
    let said = attach("/proc/self/ns/uts");
    assert!(said.contains("namespace of another kind"), "{said}");
    let said = attach("/run/\u{1b}[2J");
    assert!(said.contains("without control characters"), "{said}");
    lab.h(1).detach(&c);
    drop(asking);
    // It would hang here, and with it the test.
    lab.host(1).stop();
}
