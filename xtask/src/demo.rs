//! `cargo xtask demo`.

use std::process::Command;

use anyhow::Result;
use clap::Args;

use crate::{
    run::{self, cargo},
    setup::{self, Need},
};

/// What to do.
#[derive(Args)]
pub struct Options {
    /// One host by itself: no etcd, no configuration
    #[arg(long, conflicts_with = "down")]
    single: bool,
    /// Three hosts, each with its own Docker Engine
    #[arg(long, conflicts_with_all = ["down", "single", "keep"])]
    docker: bool,
    /// Leave everything up and say what to try next
    #[arg(long, conflicts_with = "down")]
    keep: bool,
    /// Take down what --keep left up
    #[arg(long)]
    down: bool,
}

/// Builds and runs the demo.
pub fn run(options: &Options) -> Result<()> {
    setup::run(Need::Everything)?;
    if !options.down {
        println!("demo: building (some minutes the first time)");
    }
    run::check(&mut cargo(&["build", "--bins"]))?;
    let mut demo = Command::new(run::target().join("debug/margay-demo"));
    if options.single {
        demo.arg("--single");
    }
    if options.docker {
        demo.arg("--docker");
    }
    if options.keep {
        demo.arg("--keep");
    }
    if options.down {
        demo.arg("--down");
    }
    run::check(&mut demo)
}
