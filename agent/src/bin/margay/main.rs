//! The one binary: the agent, and the commands that talk to it.

#![deny(clippy::print_stdout, clippy::print_stderr)]

mod cleanup;
mod cli;
mod commands;
mod complete;
mod endpoint;
mod log;
mod output;
mod store;

use std::{process::ExitCode, time::Duration};

use clap::Parser;

/// How long the end of the process waits for what is still going on.
const GRACE: Duration = Duration::from_secs(2);

fn main() -> ExitCode {
    complete::if_asked();
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
            output::failure(&error.into());
            return ExitCode::FAILURE;
        }
    };
    let result = runtime.block_on(commands::run(cli));
    runtime.shutdown_timeout(GRACE);
    match result {
        Ok(()) => ExitCode::SUCCESS,
        // What is wrong stands there already.
        Err(error) if error.is::<commands::Wrong>() => ExitCode::FAILURE,
        Err(error) => {
            output::failure(&error);
            ExitCode::FAILURE
        }
    }
}
