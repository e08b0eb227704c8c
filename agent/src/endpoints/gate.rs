//! Whether anything may be attached, and whether the store is to be told something.

use std::sync::atomic::Ordering;

use anyhow::{Result, bail};
use tokio::time::timeout;

use super::{Endpoints, PATIENCE};
use crate::{
    control::State,
    problem::{Problem, Rejection},
};

impl Endpoints {
    /// Lets attaching begin: this node is a member of the cluster, and what a
    /// crash left behind is swept, or has to wait for the store.
    pub fn open(&self) {
        self.open.send_if_modified(|open| !std::mem::replace(open, true));
    }

    /// Lets nothing be attached any more.
    pub fn shut(&self) {
        self.open.send_if_modified(|open| std::mem::replace(open, false));
    }

    /// Whether addresses may be taken in the store that no endpoint has.
    pub fn is_dirty(&self) -> bool {
        self.dirty.load(Ordering::Relaxed)
    }

    /// How often the store turned out to have lost something since the start.
    pub fn losses(&self) -> u64 {
        self.losses.load(Ordering::Relaxed)
    }

    /// The store has lost something: what hangs on it is not gone.
    pub fn lost(&self) {
        self.losses.fetch_add(1, Ordering::Relaxed);
    }

    /// They are about to be looked for.
    pub fn clean(&self) {
        self.dirty.store(false, Ordering::Relaxed);
    }

    /// Waits until attaching may begin.
    pub async fn joined(&self) -> Result<()> {
        let mut open = self.open.subscribe();
        if timeout(PATIENCE, open.wait_for(|open| *open)).await.is_ok() {
            return Ok(());
        }
        let problem =
            self.control.look(|state| state.join_problem.clone().or_else(|| state.refusal())).await?;
        let problem = problem.unwrap_or_else(|| Problem::new("it is joining", "see `margay status`"));
        Err(Rejection::Later(problem.within("this node has not joined the cluster")).into())
    }

    /// Nothing is agreed upon before this node is a member, or with a store that
    /// is away or not to be believed.
    pub async fn agreed(&self) -> Result<()> {
        if let Some(away) = self.control.look(|state| state.store.unusable().cloned()).await? {
            bail!(away);
        }
        self.joined().await?;
        self.believed().await
    }

    /// What may be in the way of joining can be mended before this node is a member, with a
    /// store that can be asked and is believed.
    pub async fn believed(&self) -> Result<()> {
        match self.control.look(State::refusal).await? {
            Some(reason) => bail!(Rejection::Later(reason)),
            None => Ok(()),
        }
    }

    /// Has membership tell the store of an address out of the stash, now that
    /// it stands in the journal, or is no endpoint's any more.
    pub(super) fn tell_store(&self, stashed: bool) {
        if stashed {
            self.dirty.store(true, Ordering::Relaxed);
        }
    }
}
