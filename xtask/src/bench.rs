//! `cargo xtask bench`.

use std::process::Command;

use anyhow::Result;
use clap::Args;

use crate::{
    machine,
    run::{self, cargo},
    setup::{self, Need},
};

/// What to measure.
#[derive(Args)]
pub struct Options {
    /// What to measure and how; `cargo xtask bench -- --help` tells
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    words: Vec<String>,
}

/// Builds and runs the bench in a private machine.
pub fn run(options: &Options) -> Result<()> {
    setup::run(Need::Everything)?;
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
    let mut bench = Command::new(run::target().join("release/margay-bench"));
    bench.args(&options.words);
    machine::run_private(&bench)
}
