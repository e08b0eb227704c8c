//! A thread of its own for the control loop: whatever keeps the others busy, it goes on.

use std::{io, thread};

use anyhow::{Context, Result};
use tokio::{
    runtime::{Builder, Runtime},
    sync::oneshot,
};

use crate::{
    control::Loop,
    kernel::{self, Kernel, Netlink},
};

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

    /// Runs the loop; told when it has ended. The process ends without waiting for it.
    pub(super) fn run<K: Kernel>(self, control_loop: Loop<K>) -> io::Result<oneshot::Receiver<Result<()>>> {
        let (send, ended) = oneshot::channel();
        let run = move || {
            let result = self.0.block_on(control_loop.run());
            // What it still has going on beside it ends with the process.
            self.0.shutdown_background();
            drop(send.send(result));
        };
        thread::Builder::new().name("control".into()).spawn(run)?;
        Ok(ended)
    }
}
