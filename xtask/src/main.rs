//! The repository's commands: `cargo xtask <verb>`, the same by hand and in CI.

mod bench;
mod ci;
mod demo;
mod ebpf;
mod engine;
mod lint;
mod machine;
mod plot;
mod run;
mod runner;
mod setup;
mod stages;
mod test;
mod tidy;
mod vm;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Margay's own commands")]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Install what building and testing need; says each step, repeats nothing
    Setup,
    /// Three hosts, two networks, real packets: see Margay work
    Demo(demo::Options),
    /// Run the tests: all suites, or those named
    Test(test::Options),
    /// What every change has to pass: lint, all tests, parts on other kernels and engines
    Ci(ci::Options),
    /// Formatting, clippy, dependency edges, sizes, licences
    Lint,
    /// Draw docs/performance.svg from the tables of docs/performance.md
    Plot,
    /// Measure: time per packet, throughput, latencies, memory
    Bench(bench::Options),
}

fn main() -> ExitCode {
    let done = match Cli::parse().verb {
        Verb::Setup => setup::run(setup::Need::Everything),
        Verb::Demo(options) => demo::run(&options),
        Verb::Test(options) => test::run(&options),
        Verb::Ci(options) => ci::run(&options),
        Verb::Lint => lint::run(),
        Verb::Plot => plot::run(),
        Verb::Bench(options) => bench::run(&options),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}
