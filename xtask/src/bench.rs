//! `cargo xtask bench`.

use std::{
    fs,
    process::{Command, Stdio},
};

use anyhow::Result;
use clap::Args;

use crate::{
    machine,
    run::{self, cargo},
    setup::{self, Need},
    vm::{self, Inside},
};

/// What to measure.
#[derive(Args)]
pub struct Options {
    /// Boot this kernel of Debian's in QEMU and measure inside, on a processor whose
    /// every instruction takes the same time: only ratios mean something
    #[arg(long, value_name = "VERSION")]
    vm: Option<String>,
    /// What to measure and how; `cargo xtask bench -- --help` tells
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    words: Vec<String>,
}

/// Builds and runs the bench in a private machine.
pub fn run(options: &Options) -> Result<()> {
    setup::run(if options.vm.is_some() { Need::Machines } else { Need::Everything })?;
    println!("bench: building");
    run::check(&mut cargo(&[
        "build",
        "--release",
        "--package",
        "margay",
        "--package",
        "margay-bench",
        "--bins",
    ]))?;
    let release = run::target().join("release");
    if let Some(version) = &options.vm {
        let programs = ["margay-bench", "margay"].map(|name| (release.join(name), name)).into();
        let words = options.words.iter().map(|word| format!(" '{}'", word.replace('\'', "'\\''")));
        let command = format!("/margay-bench{}", words.collect::<String>());
        println!("{}", vm::run(version, &Inside { programs, command, engine: false, counted: true })?);
        return Ok(());
    }
    let mut bench = Command::new(release.join("margay-bench"));
    bench.args(&options.words);
    // One that is a module is there to be chosen once it is loaded.
    drop(
        Command::new("modprobe")
            .args(["--quiet", "--all", "tcp_cubic", "tcp_bbr"])
            .stderr(Stdio::null())
            .status(),
    );
    let there = fs::read_to_string(AVAILABLE).unwrap_or_default();
    let lent = [lend(ALLOWED, there.trim()), lend(HALT_POLL, "200000")];
    let ran = machine::run_private(&bench);
    for (path, before) in lent.into_iter().flatten() {
        if let Err(error) = fs::write(path, &before) {
            println!("bench: {path} stays as it is: {error}");
        }
    }
    ran
}

/// Congestion controls that there are, and those that network namespaces may choose.
const AVAILABLE: &str = "/proc/sys/net/ipv4/tcp_available_congestion_control";
const ALLOWED: &str = "/proc/sys/net/ipv4/tcp_allowed_congestion_control";
/// Nanoseconds that idle processors of a virtual machine look for work before they halt, and
/// the machine below takes its time to wake them; 200,000 is Linux's own.
const HALT_POLL: &str = "/sys/module/haltpoll/parameters/guest_halt_poll_ns";

/// Changes a setting for the time of a comparison and says so: which, and what it was. Where
/// it cannot be changed the report tells.
fn lend(path: &'static str, value: &str) -> Option<(&'static str, String)> {
    let before = fs::read_to_string(path).ok()?;
    fs::write(path, value).ok()?;
    println!("bench: {path} is {value:?} until the end (it was {:?})", before.trim());
    Some((path, before))
}
