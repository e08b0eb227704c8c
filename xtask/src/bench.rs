//! `cargo xtask bench`.

use std::process::Command;

use anyhow::Result;
use clap::Args;

use crate::{
    congestion, idle, machine,
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
        "margay-tests",
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
    let _lent = (congestion::allow_for(&options.words), idle::awake());
    machine::run_private(&bench)
}
