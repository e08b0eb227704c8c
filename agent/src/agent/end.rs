//! The agent's end, when a signal asks for it.

use std::{sync::Arc, thread, time::Duration};

use anyhow::{Context, Result};
use tokio::{
    runtime::Builder,
    signal::unix::{SignalKind, signal},
    sync::Notify,
};
use tracing::error;

/// How long ending may take.
const GRACE: Duration = Duration::from_secs(5);

/// Has `stop` told when a signal comes, and ends the process when that is of no
/// avail. A thread with a runtime of its own waits for it: however the others are
/// stuck, the agent ends.
pub(super) fn heed_signals(stop: Arc<Notify>) -> Result<()> {
    let runtime = Builder::new_current_thread().enable_io().build().context("signals")?;
    let (mut terminate, mut interrupt) = {
        let _inside = runtime.enter();
        (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?)
    };
    let wait = move || {
        runtime.block_on(async {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        });
        stop.notify_one();
        thread::sleep(GRACE);
        error!("a task did not stop within {} s; the agent exits anyway", GRACE.as_secs());
        std::process::exit(1);
    };
    thread::Builder::new().name("signals".into()).spawn(wait)?;
    Ok(())
}
