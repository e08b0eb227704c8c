//! From what should be to the kernel: what is quick is made by the loop, a little at a
//! time, and what is slow beside it.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use anyhow::Result;
use tracing::debug;

use super::{AGAIN, Loop, State};
use crate::{
    desired::Dirty,
    kernel::{Kernel, Part},
    model::key,
    problem::Problem,
    reconcile::{Change, Lane},
    tables::{Entry, Key, Tables},
};

/// How long the loop makes changes before it looks at what else has come.
const SLICE: Duration = Duration::from_millis(5);

impl<K: Kernel> Loop<K> {
    /// Finds what is to be changed, as far as anything may differ.
    pub(super) fn plan(&mut self) {
        if !self.state.is_read() {
            self.read_first();
            return;
        }
        if self.dirty == Dirty::Nothing && !self.afresh {
            return;
        }
        let Some(actual) = self.state.actual.take() else { return };
        let (dirty, afresh) = (std::mem::take(&mut self.dirty), std::mem::take(&mut self.afresh));
        let changes = self.state.changes(&dirty, afresh, &actual);
        if dirty == Dirty::Everything || afresh {
            self.open.clear();
        }
        let now = self.started.elapsed();
        for change in &changes {
            if self.state.retry.may_try(&change.key(), now) {
                self.open.add(change, &actual);
            }
        }
        self.state.actual = Some(actual);
        self.state.forget_released();
        if !changes.is_empty() {
            debug!("{} changes", changes.len());
            self.changing.get_or_insert_with(tokio::time::Instant::now);
        }
    }

    /// Opens a change again that failed: that one alone.
    pub(super) fn reopen(&mut self, key: &Key) {
        let Some(actual) = &self.state.actual else { return };
        match self.state.change_of(key, actual) {
            Some(change) => self.open.add(&change, actual),
            None => self.state.retry.succeeded(key),
        }
    }

    /// Makes what is open: for a while what is quick, and then what is slow beside the loop.
    pub(super) async fn apply(&mut self) {
        if !self.state.is_read() {
            return;
        }
        let (blind, begun) = (self.state.snapshot.blind(), Instant::now());
        while begun.elapsed() < SLICE {
            let Some(change) = self.take_open(Lane::Quick, &blind) else { break };
            let result = self.kernel.apply(&change).await;
            self.made(&change, result);
        }
        if !self.open.is_empty(Lane::Quick) {
            self.restless = true;
            return;
        }
        for lane in Lane::SLOW {
            self.begin(lane, &blind);
        }
        if let Some(changing) = self.changing.take() {
            self.state.rounds.seconds.observe(changing.elapsed().as_secs_f64());
        }
    }

    /// Begins the next change of a slow lane, unless one is under way or its entries have
    /// not been read.
    fn begin(&mut self, lane: Lane, blind: &BTreeSet<key::Key>) {
        if self.aside.is_busy(lane) || (lane == Lane::Host && !self.aside.has_read_host()) {
            return;
        }
        if let Some(change) = self.take_open(lane, blind) {
            self.aside.make(self.kernel.clone(), lane, change);
        }
    }

    /// The next change of a lane that may be made.
    fn take_open(&mut self, lane: Lane, blind: &BTreeSet<key::Key>) -> Option<Change> {
        loop {
            let Self { open, state, .. } = self;
            let actual = state.actual.as_ref()?;
            let (mut same, mut held) = (Vec::new(), Vec::new());
            let found = open.next(lane, actual, |key| {
                let change = state.change_of(key, actual);
                if change.is_none() {
                    same.push(key.clone());
                }
                let permitted = change.filter(|change| state.permits(change, actual, blind));
                if permitted.is_none() {
                    held.push(key.clone());
                }
                permitted
            });
            same.iter().for_each(|key| state.retry.succeeded(key));
            held.iter().for_each(|key| state.retry.put_off(key, self.started.elapsed()));
            let change = found?;
            // Endpoints whose own program or entry failed stay closed.
            match &change {
                Change::Put(Entry::Endpoint(_, endpoint)) if state.is_closed(endpoint.ifindex) => {
                    let reason = Problem::new("its program is not attached", AGAIN);
                    state.retry.failed(change.key(), reason, self.started.elapsed());
                }
                _ => return Some(change),
            }
        }
    }

    /// Takes over what became of a change.
    pub(super) fn made(&mut self, change: &Change, result: Result<()>) {
        self.news = true;
        let key = change.key();
        match result {
            Ok(()) => {
                self.state.applied(change);
                self.aside.changed(key);
                if matches!(change, Change::Put(Entry::Interface(..))) {
                    // What hangs on it goes with what the revision brought.
                    self.owed = self.host_changed();
                }
            }
            // An earlier program may still be there.
            Err(error) if self.state.refused_xdp(change, &error) => {
                self.dirty = Dirty::Everything;
                self.restless = true;
            }
            Err(error) => {
                self.failures.log(&format!("the kernel refuses {key}: {error:#}"));
                self.state.rounds.failed.inc();
                self.state.retry.failed(key, Problem::of(&error, AGAIN), self.started.elapsed());
            }
        }
    }

    /// Has the kernel read because what was read before does not count, or nothing was.
    fn read_first(&mut self) {
        if !self.aside.is_reading(Part::Own) && self.aside.may_read() {
            self.read(Part::Own);
            self.read(Part::Host);
        }
    }
}

impl State {
    /// The change that leads from what is to what should be of one entry, if one is needed.
    pub fn change_of(&self, key: &Key, actual: &Tables) -> Option<Change> {
        let (wanted, found) = (self.fold.tables.get(key), actual.get(key));
        match wanted {
            Some(entry) => (found.as_ref() != Some(&entry)).then_some(Change::Put(entry)),
            None => found.map(|_| Change::Remove(key.clone())),
        }
    }

    /// Whether an interface's own entry or its program is refused, so that no address may
    /// lead to it.
    fn is_closed(&self, ifindex: u32) -> bool {
        let pending = self.retry.pending();
        let programs = pending.range(Key::Attachment(String::new())..).map(|(key, _)| key);
        let mut programs = programs.map_while(|key| match key {
            Key::Attachment(name) => Some(name),
            _ => None,
        });
        let none = |name: &String| self.actual.as_ref().is_none_or(|a| !a.attachments.contains_key(name));
        pending.contains_key(&Key::Workload(ifindex))
            || programs.any(|name| self.facts.interfaces.get(name) == Some(&ifindex) && none(name))
    }
}
