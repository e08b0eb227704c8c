//! `cargo xtask bench`.

use std::process::Command;

use anyhow::Result;

use crate::{
    machine,
    run::{self, cargo},
    setup::{self, Need},
};

/// Builds and runs the bench in a private machine.
pub fn run() -> Result<()> {
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
    run::check(&mut machine::private(&Command::new(run::target().join("release/margay-bench")))?)
}
