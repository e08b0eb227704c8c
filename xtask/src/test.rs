//! `cargo xtask test`.

use std::{path::PathBuf, process::Command};

use anyhow::{Result, anyhow, bail};
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
    /// Boot these kernels of Debian's in QEMU and run suites inside: datapath,
    /// unless others are named
    #[arg(long, value_name = "VERSION", num_args = 1..)]
    vm: Vec<String>,
    /// Only the tests whose name contains this, or one of these
    #[arg(long, value_name = "TEXT", value_parser = part_of_a_name)]
    filter: Vec<String>,
    /// What containers get in these machines, where a test does not say (netkit)
    #[arg(long, value_name = "KIND", requires = "vm", value_parser = ["veth", "netkit"])]
    container_device: Option<String>,
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
    if !options.vm.is_empty() {
        return options.vm.iter().try_for_each(|version| in_machine(version, options));
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
    let tests = runner(&targets, &options.filter)?;
    if suites == [Suite::Unit] {
        return run::check(&mut { tests });
    }
    machine::run_private(&tests)
}

/// Runs suites on another kernel.
fn in_machine(version: &str, options: &Options) -> Result<()> {
    let usual = [Suite::Datapath];
    let suites = if options.suites.is_empty() { &usual[..] } else { &options.suites };
    let mut inside =
        vm::Inside { programs: Vec::new(), command: "true".into(), engine: false, counted: false };
    if let Some(device) = &options.container_device {
        inside.command += &format!(" && export MARGAY_TEST_CONTAINER_DEVICE={device}");
    }
    for suite in suites {
        let name = match suite {
            Suite::Datapath => "datapath",
            Suite::Node => "node",
            Suite::Docker => "docker",
            _ => bail!("--vm runs the suites datapath, node and docker: the others are for this kernel"),
        };
        inside.engine |= *suite == Suite::Docker;
        inside.programs.push((executable(name)?, name));
        let filter = options.filter.join(" ");
        inside.command += &format!(" && /{name} --test-threads=1 --show-output {filter}");
    }
    run::check(&mut cargo(&["build", "--quiet", "--package", "margay"]))?;
    inside.programs.push((run::target().join("debug/margay"), "margay"));
    let console = vm::run(version, &inside)?;
    let passed = |text: &str| {
        let mut lines = console.lines().map(str::trim_end);
        lines.any(|line| line.starts_with("test ") && line.contains(text) && line.ends_with("... ok"))
    };
    if let Some(filter) = options.filter.iter().find(|filter| !passed(filter)) {
        bail!("no test of a suite has {filter:?} in its name");
    }
    // With everything that the tests of a passing run print, only this counts.
    let wanted = |line: &&str| line.contains(" verified") || line.starts_with("test ");
    console.lines().filter(wanted).for_each(|line| println!("    {}", line.trim_end()));
    Ok(())
}

/// A suite's executable, built like the others.
fn executable(suite: &str) -> Result<PathBuf> {
    let args = ["test", "--no-run", "--quiet", "--package", "margay-tests", "--test", suite];
    let messages = run::output(cargo(&args).arg("--message-format=json"))?;
    let mut executables = messages.lines().filter_map(|line| {
        let message: serde_json::Value = serde_json::from_str(line).ok()?;
        (message["target"]["name"] == suite).then(|| message["executable"].as_str().map(PathBuf::from))?
    });
    executables.next_back().ok_or_else(|| anyhow!("cargo does not say where the {suite} suite is"))
}

/// The command that runs the tests: nextest where it is installed, else
/// cargo's own. The tests are built before, outside of the machine without a
/// network that runs them; nextest also asks for what these tests do not need.
fn runner(targets: &[&str], filter: &[String]) -> Result<Command> {
    let mut build = cargo(&["test", "--no-run", "--quiet"]);
    run::check(build.args(targets))?;
    let nextest = run::has("cargo-nextest");
    if nextest && let Err(error) = run::check(&mut cargo(&["fetch", "--quiet", "--locked"])) {
        println!("test: {error}; if everything has been fetched before, it goes on");
    }
    let mut tests = if nextest {
        cargo(&["nextest", "run", "--no-fail-fast"])
    } else {
        cargo(&["test", "--no-fail-fast"])
    };
    tests.args(["--offline"]).args(targets);
    if !nextest && !filter.is_empty() {
        tests.arg("--");
    }
    tests.args(filter);
    Ok(tests)
}

/// A filter: what may be in a name, so nothing that a shell or a runner understands.
fn part_of_a_name(text: &str) -> Result<String> {
    if text.is_empty() || text.chars().any(|c| !c.is_ascii_alphanumeric() && !"_:".contains(c)) {
        bail!("it takes a part of a test's name: letters, digits, _ and :");
    }
    Ok(text.to_owned())
}
