//! A private machine inside this one: mount, network and process namespaces of
//! its own, an empty /run and a bpffs. Whatever happens in it, nothing of it
//! remains: the kernel ends its processes with the first of them and drops its
//! namespaces with the last.

use std::{
    process::{Command, Stdio},
    sync::atomic::{AtomicBool, Ordering},
};

use anyhow::{Result, bail};
use nix::sys::signal::{SigHandler, Signal, signal};

use crate::run::{self, is_root};

/// What makes the machine, before it becomes the command that it is given.
const PREPARE: &str = "
set -e
mount --make-rprivate /
mount -t tmpfs -o mode=755 run /run
mkdir /run/netns /run/cgroup
mount --rbind /sys/fs/cgroup /run/cgroup
mount -t sysfs sysfs /sys
mount --rbind /run/cgroup /sys/fs/cgroup
umount -l /run/cgroup
rmdir /run/cgroup
mount -t bpf bpf /sys/fs/bpf
ip link set lo up
exec \"$@\"
";

/// Set by an interrupt.
static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// What an interrupt does to this process: it is for those in the machine, who end by it;
/// then what they leave behind is put in order here, and nothing else is begun.
extern "C" fn wait_on(_: i32) {
    INTERRUPTED.store(true, Ordering::Relaxed);
}

/// Whether somebody has interrupted what ran in a machine.
pub fn interrupted() -> bool {
    INTERRUPTED.load(Ordering::Relaxed)
}

/// Runs a command in a private machine, to its end.
pub fn run_private(inner: &Command) -> Result<()> {
    let mut command = private(inner)?;
    // SAFETY: the handler stores into an atomic, which is safe in one. Programs started from here have the default
    // again, since a handler does not outlive execve(2).
    let before = unsafe { signal(Signal::SIGINT, SigHandler::Handler(wait_on)) }?;
    let ran = run::check(&mut command);
    // SAFETY: this is what was there before.
    unsafe { signal(Signal::SIGINT, before) }?;
    // Control groups belong to the whole machine; those of a run that was
    // killed are empty by now.
    let mut sweep = Command::new("find");
    sweep.args([
        "/sys/fs/cgroup",
        "-depth",
        "-type",
        "d",
        "-path",
        "*/margay-*",
        "-exec",
        "rmdir",
        "{}",
        ";",
    ]);
    // One that goes while we look is fine.
    drop(sweep.stderr(Stdio::null()).status());
    ran
}

/// The command that runs `inner` in a private machine.
fn private(inner: &Command) -> Result<Command> {
    if !is_root() {
        bail!("this needs root: sudo -E cargo xtask ... (the unit tests do not: cargo xtask test unit)");
    }
    let mut command = Command::new("unshare");
    command
        .args(["--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"])
        .args(["sh", "-c", PREPARE, "machine"])
        .arg(inner.get_program())
        .args(inner.get_args());
    run::surround(&mut command, inner);
    Ok(command)
}
