//! `cargo xtask test`.

use std::process::Command;

use anyhow::{Result, bail};
use clap::{Args, ValueEnum};

use crate::{
    machine,
    run::{self, cargo},
    setup::{self, Need},
    vm,
};

/// What to run.
#[derive(Args)]
pub struct Options {
    /// The suites; all of them unless named
    suites: Vec<Suite>,
    /// Boot these kernels of Debian's in QEMU and run the datapath suite inside
    #[arg(long, value_name = "VERSION", num_args = 1..)]
    vm: Vec<String>,
    /// Only the tests whose name contains this
    #[arg(long, value_name = "TEXT")]
    filter: Option<String>,
}

/// One suite.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Suite {
    /// Pure logic, on the host
    Unit,
    /// One packet at a time through the programs
    Datapath,
    /// One agent, real interfaces
    Node,
    /// Several agents, real etcd
    Cluster,
    /// Several hosts, each with its own Docker Engine
    Docker,
}

/// Runs the tests.
pub fn run(options: &Options) -> Result<()> {
    let need = if options.vm.is_empty() { Need::Everything } else { Need::Machines };
    setup::run(need)?;
    for version in &options.vm {
        vm::run(version)?;
    }
    if !options.vm.is_empty() && options.suites.is_empty() {
        return Ok(());
    }
    let all = [Suite::Unit, Suite::Datapath, Suite::Node, Suite::Cluster, Suite::Docker];
    let suites = if options.suites.is_empty() { &all[..] } else { &options.suites };
    println!("test: building");
    run::check(&mut cargo(&["build", "--quiet", "--package", "margay"]))?;
    let mut targets: Vec<&str> = Vec::new();
    if suites.contains(&Suite::Unit) {
        targets.extend([
            "--package",
            "margay",
            "--package",
            "margay-common",
            "--package",
            "xtask",
            "--lib",
            "--bins",
        ]);
    }
    let privileged = [
        (Suite::Datapath, "datapath"),
        (Suite::Node, "node"),
        (Suite::Cluster, "cluster"),
        (Suite::Docker, "docker"),
    ];
    for (suite, name) in privileged {
        if suites.contains(&suite) {
            targets.extend(["--package", "margay-tests", "--test", name]);
        }
    }
    let tests = runner(&targets, options.filter.as_deref())?;
    if suites == [Suite::Unit] {
        return run::check(&mut { tests });
    }
    machine::run_private(&tests)
}

/// The command that runs the tests: nextest where it is installed, else
/// cargo's own. The tests are built before, outside of the machine without a
/// network that runs them.
fn runner(targets: &[&str], filter: Option<&str>) -> Result<Command> {
    let mut build = cargo(&["test", "--no-run", "--quiet"]);
    run::check(build.args(targets))?;
    let nextest = run::has("cargo-nextest");
    let mut tests = if nextest {
        cargo(&["nextest", "run", "--no-fail-fast"])
    } else {
        cargo(&["test", "--no-fail-fast"])
    };
    tests.args(["--offline"]).args(targets);
    if let Some(filter) = filter {
        if filter.starts_with('-') {
            bail!("--filter takes a part of a test's name");
        }
        tests.arg(filter);
    }
    Ok(tests)
}
