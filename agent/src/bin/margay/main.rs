//! The one binary: the agent, and the commands that talk to it.

mod cleanup;
mod cli;
mod commands;
mod output;
mod store;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    let cli = cli::Cli::parse();
    let mut runtime = if matches!(cli.command, cli::Command::Agent { .. }) {
        let mut runtime = tokio::runtime::Builder::new_multi_thread();
        runtime.worker_threads(2);
        runtime
    } else {
        tokio::runtime::Builder::new_current_thread()
    };
    let runtime = match runtime.enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("margay: {error}");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(commands::run(cli)) {
        Ok(()) => ExitCode::SUCCESS,
        // What is wrong stands there already.
        Err(error) if error.is::<commands::Wrong>() => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("margay: {error:#}");
            ExitCode::FAILURE
        }
    }
}
