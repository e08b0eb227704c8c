//! A thread of its own for the control loop: whatever keeps the others busy, it goes on.

use std::{io, sync::Arc, thread, time::Duration};

use anyhow::{Context, Result};
use tokio::{
    runtime::{Builder, Runtime},
    sync::{Notify, oneshot},
    time::timeout,
};

use crate::{
    control::Loop,
    kernel::{self, Kernel, Netlink},
};

/// How long an end may take.
const PATIENCE: Duration = Duration::from_secs(2);

/// What the loop runs on.
pub(super) struct Own(Runtime);

impl Own {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self(Builder::new_current_thread().enable_all().build()?))
    }

    /// A way to the kernel that nobody else uses.
    pub(super) fn netlink(&self) -> Result<Netlink> {
        let _entered = self.0.enter();
        kernel::netlink().context("netlink")
    }

    /// Runs the loop.
    pub(super) fn run<K: Kernel>(self, control_loop: Loop<K>) -> io::Result<Running> {
        let (send, ended) = oneshot::channel();
        let stop = Arc::new(Notify::new());
        let stopped = Arc::clone(&stop);
        let run = move || {
            let result = self.0.block_on(async {
                tokio::select! {
                    result = control_loop.run() => result,
                    () = stopped.notified() => Ok(()),
                }
            });
            // What it still has going on beside it ends, too: programs of the host's that it runs.
            self.0.shutdown_background();
            drop(send.send(result));
        };
        thread::Builder::new().name("control".into()).spawn(run)?;
        Ok(Running { stop, ended })
    }
}

/// The loop on its thread.
pub(super) struct Running {
    stop: Arc<Notify>,
    /// Told when it has ended by itself.
    pub(super) ended: oneshot::Receiver<Result<()>>,
}

impl Running {
    /// Ends it, so that nothing of ours is made any more once the doors are closed. One that
    /// the kernel holds up ends with the process.
    pub(super) async fn end(self) {
        self.stop.notify_one();
        drop(timeout(PATIENCE, self.ended).await);
    }
}
