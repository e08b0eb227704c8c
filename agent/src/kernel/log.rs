//! The programs' own words, where the agent was started with
//! `--datapath-log`.

use anyhow::{Context, Result};
use aya_log::EbpfLogger;
use margay_common::verdict::Program;
use tokio::io::unix::AsyncFd;

use super::datapath::Datapath;

/// Passes what the programs log to the agent's log. The programs of one object
/// share one buffer.
pub fn follow(datapath: &Datapath) -> Result<()> {
    let id = datapath.program_id(Program::FromWorkload)?;
    let logger = EbpfLogger::init_from_id(id).context("the programs' log")?;
    // SAFETY: the logger owns the ring buffer's descriptor and gives it up only
    // when it is dropped, after the registration.
    let mut logger = unsafe { AsyncFd::register(logger) }?;
    tokio::spawn(async move {
        while let Ok(mut ready) = logger.readable_mut().await {
            ready.get_inner_mut().flush();
            ready.clear_ready();
        }
    });
    Ok(())
}
