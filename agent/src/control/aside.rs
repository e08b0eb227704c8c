//! What goes on beside the loop: changes of slow kinds, one of each kind at a time, readings of
//! what the kernel holds, looks at the host, and what the store tells where it takes time. Each
//! comes back as a report.

use std::{collections::BTreeSet, future::Future};

use anyhow::{Result, anyhow};
use tokio::{
    runtime::Handle,
    sync::mpsc,
    task::spawn_blocking,
    time::{Duration, Instant},
};

use super::{Loop, READ_EVERY, routes::Looked, told::Told};
use crate::{
    desired::{Dirty, Uplink, World},
    kernel::{Kernel, Part, facts::Look, routes::Changed, world},
    reconcile::{Change, Lane},
    tables::{Key, Tables},
};

/// What is wrong if what the kernel holds cannot be read.
const KERNEL: &str = "the kernel's state cannot be read";

/// What came to an end.
pub(super) enum Report {
    /// A change, and what became of it.
    Made(Lane, Change, Result<()>),
    /// A reading of what is our own.
    Own(Result<Tables>),
    /// A reading of what others of this host change, too, and of how it forwards unless
    /// that is not to be touched.
    Host(Result<(Tables, Option<World>)>),
    /// A look at the host's interfaces and addresses.
    Links(HostLook, Result<Look>),
    /// A look at its routes.
    Routes(RoutesLook, Result<Looked>),
    /// What the store has told.
    Told(Result<Told>),
}

/// What there is one of at a time, changes and readings apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Task {
    /// A look at the host's interfaces and addresses.
    Host,
    /// A look at its routes.
    Routes,
    /// What the store has told is taken in.
    Told,
}

/// What a look at the host began with.
pub(super) struct HostLook {
    /// How many there were, with it.
    pub(super) number: u64,
    /// The interfaces that it was to find.
    pub(super) expected: BTreeSet<String>,
}

/// What a look at its routes began with.
pub(super) struct RoutesLook {
    /// The uplink.
    pub(super) uplink: Uplink,
    /// Which may have changed.
    pub(super) changed: Changed,
}

/// A reading that is under way.
struct Reading {
    /// What has been changed since it began: there we know better.
    changed: BTreeSet<Key>,
    /// The doubts that there were when it began.
    doubts: u64,
    /// Whether another is to follow, since something has changed behind it.
    again: bool,
}

/// What goes on beside the loop.
pub(super) struct Aside {
    send: mpsc::UnboundedSender<Report>,
    receive: mpsc::UnboundedReceiver<Report>,
    busy: BTreeSet<Lane>,
    tasks: BTreeSet<Task>,
    /// How many looks at the host were begun.
    looks: u64,
    own: Option<Reading>,
    host: Option<Reading>,
    has_read_host: bool,
    /// When the kernel may be read again after a failure.
    read_from: Instant,
}

impl Aside {
    pub(super) fn new(now: Instant) -> Self {
        let (send, receive) = mpsc::unbounded_channel();
        let (busy, tasks) = (BTreeSet::new(), BTreeSet::new());
        let (own, host, has_read_host) = (None, None, false);
        Self { send, receive, busy, tasks, looks: 0, own, host, has_read_host, read_from: now }
    }

    /// The next report.
    pub(super) async fn report(&mut self) -> Report {
        match self.receive.recv().await {
            Some(report) => report,
            // Not while we can send ourselves.
            None => std::future::pending().await,
        }
    }

    /// A report that is there.
    pub(super) fn try_report(&mut self) -> Option<Report> {
        self.receive.try_recv().ok()
    }

    /// Whether a change of a lane is under way.
    pub(super) fn is_busy(&self, lane: Lane) -> bool {
        self.busy.contains(&lane)
    }

    /// Whether a task is under way.
    pub(super) fn is_at(&self, task: Task) -> bool {
        self.tasks.contains(&task)
    }

    /// How many looks at the host were begun.
    pub(super) fn looks(&self) -> u64 {
        self.looks
    }

    /// Whether what others change, too, was ever read.
    pub(super) fn has_read_host(&self) -> bool {
        self.has_read_host
    }

    /// Whether a part is being read.
    pub(super) fn is_reading(&self, part: Part) -> bool {
        match part {
            Part::Own => self.own.is_some(),
            Part::Host => self.host.is_some(),
        }
    }

    /// When the host and the kernel may be read again after a failure.
    pub(super) fn read_from(&self) -> Instant {
        self.read_from
    }

    /// Whether the last reading that failed is long enough ago.
    pub(super) fn may_read(&self) -> bool {
        self.read_from <= Instant::now()
    }

    /// Notes that an entry was changed: readings that are under way may have missed it.
    pub(super) fn changed(&mut self, key: Key) {
        let (own, host) = match (Lane::of(&key), &key) {
            // Both read these: they are ours, and others take them away.
            (_, Key::HostRoute(_)) => (true, true),
            (Lane::Quick | Lane::Xdp, _) => (true, false),
            (Lane::Host, _) => (false, true),
        };
        for (reading, _) in [(&mut self.own, own), (&mut self.host, host)].into_iter().filter(|(_, of)| *of) {
            reading.iter_mut().for_each(|reading| {
                reading.changed.insert(key.clone());
            });
        }
    }

    /// Makes a change.
    pub(super) fn make<K: Kernel>(&mut self, mut kernel: K, lane: Lane, change: Change) {
        self.busy.insert(lane);
        let of = change.clone();
        let work = async move { kernel.apply(&of).await };
        self.spawn(work, move |result| Report::Made(lane, change, result));
    }

    /// Looks at the host's interfaces and addresses.
    pub(super) fn look_at_host(
        &mut self,
        expected: BTreeSet<String>,
        work: impl Future<Output = Result<Look>> + Send + 'static,
    ) {
        self.tasks.insert(Task::Host);
        self.looks += 1;
        let look = HostLook { number: self.looks, expected };
        self.spawn(work, move |result| Report::Links(look, result));
    }

    /// Looks at its routes.
    pub(super) fn look_at_routes(
        &mut self,
        look: RoutesLook,
        work: impl Future<Output = Result<Looked>> + Send + 'static,
    ) {
        self.tasks.insert(Task::Routes);
        self.spawn(work, move |result| Report::Routes(look, result));
    }

    /// Takes in what the store has told.
    pub(super) fn take_in(&mut self, work: impl Future<Output = Result<Told>> + Send + 'static) {
        self.tasks.insert(Task::Told);
        self.spawn(work, Report::Told);
    }

    /// Runs something in a thread of its own, whatever it waits for, and reports.
    fn spawn<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T>> + Send + 'static,
        report: impl FnOnce(Result<T>) -> Report + Send + 'static,
    ) {
        let (send, here) = (self.send.clone(), Handle::current());
        tokio::spawn(async move {
            let done = spawn_blocking(move || here.block_on(work)).await;
            let done = done.unwrap_or_else(|error| Err(anyhow!("the agent failed at this: {error}")));
            // A loop that has ended needs no report.
            drop(send.send(report(done)));
        });
    }
}

impl<K: Kernel> Loop<K> {
    /// Has a part read, once more if it is being read.
    pub(super) fn read(&mut self, part: Part) {
        let under_way = match part {
            Part::Own => &mut self.aside.own,
            Part::Host => &mut self.aside.host,
        };
        if let Some(reading) = under_way {
            reading.again = true;
            return;
        }
        *under_way = Some(Reading { changed: BTreeSet::new(), doubts: self.state.doubts, again: false });
        let mut kernel = self.kernel.clone();
        match part {
            Part::Own => self.aside.spawn(async move { kernel.read(part).await }, Report::Own),
            Part::Host => {
                let (netlink, originals) = (self.netlink.clone(), self.originals.clone());
                let (follows, uplink) =
                    (self.state.facts.world.masquerade, self.state.facts.uplink.name.clone());
                let work = async move {
                    let world = match follows {
                        true => Some(world::read(&netlink, &uplink, &originals).await?),
                        false => None,
                    };
                    Ok((kernel.read(part).await?, world))
                };
                self.aside.spawn(work, Report::Host);
            }
        }
    }

    /// Takes over what came to an end; whether the loop can go on.
    pub(super) fn hear(&mut self, report: Report) -> bool {
        match report {
            Report::Made(lane, change, result) => {
                self.aside.busy.remove(&lane);
                let is_made = result.is_ok();
                self.made(&change, result);
                if is_made {
                    // What was wished for may have changed back meanwhile.
                    self.reopen(&change.key());
                }
                // The next of its lane.
                self.restless = true;
            }
            Report::Own(result) => {
                let Some(mut reading) = self.aside.own.take() else { return true };
                if self.aside.busy.contains(&Lane::Xdp) {
                    // That part was not read.
                    let known = self.state.actual.iter().flat_map(|actual| actual.xdp.keys());
                    reading.changed.extend(known.cloned().map(Key::Xdp));
                }
                if let Some(read) = self.has_read(KERNEL, result) {
                    self.state.has_read(read, &reading.changed, reading.doubts);
                    self.read_due = Instant::now() + READ_EVERY;
                    // What should be is as it was; at first nothing has been folded yet.
                    self.afresh = true;
                }
                if reading.again {
                    self.read(Part::Own);
                }
            }
            Report::Host(result) => {
                let Some(reading) = self.aside.host.take() else { return true };
                if let Some((tables, world)) = self.has_read(KERNEL, result) {
                    let dirty = self.state.hears(tables, world, &reading.changed);
                    let first = !std::mem::replace(&mut self.aside.has_read_host, true);
                    self.dirty.add(if first { Dirty::Everything } else { dirty });
                }
                if reading.again {
                    self.read(Part::Host);
                }
            }
            Report::Links(look, result) => {
                self.aside.tasks.remove(&Task::Host);
                self.host_looked_at(&look, result);
            }
            Report::Routes(look, result) => {
                self.aside.tasks.remove(&Task::Routes);
                self.routes_looked_at(look, result);
            }
            Report::Told(told) => {
                self.aside.tasks.remove(&Task::Told);
                return self.taken_in(told);
            }
        }
        true
    }

    /// What was read; what could not be is read again a little later.
    pub(super) fn has_read<T>(&mut self, failure: &str, result: Result<T>) -> Option<T> {
        match result {
            Ok(read) => Some(read),
            Err(error) => {
                let wait: Duration = self.readings.failed(&format!("{failure}: {error:#}"));
                self.aside.read_from = Instant::now() + wait;
                self.read_due = self.read_due.min(self.aside.read_from);
                None
            }
        }
    }
}
