//! The agent's event loop. It takes in events of the store and of the host, computes the desired
//! state, and changes the kernel's state to match.
//!
//! The loop makes quick changes itself, for at most 5 ms in a round (`apply`). Tasks beside the
//! loop (`aside`) make slow changes, read the kernel, look at the host and decode listings of the
//! store; they send reports to the loop. After every round the loop publishes a view of its
//! state, which the API and all other readers use.

mod apply;
mod aside;
mod concern;
mod fold;
pub mod hold;
mod host;
mod requests;
mod rounds;
mod routes;
mod state;
mod told;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use anyhow::{Result, anyhow};
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::yield_now,
    time::{Instant, sleep_until},
};

pub use concern::Events;
pub use fold::Fold;
pub use requests::{Control, Request, Requests};
pub use rounds::Rounds;
pub use routes::Routes;
pub use state::{State, StoreState, now};
pub use told::Read;

use aside::{Aside, Report, Task};

use crate::{
    again::Again,
    desired::{Dirty, Source},
    kernel::{Kernel, Netlink, Part, routes::Changed, sysctl::Originals},
    model::membership::Trust,
    reconcile::{Lane, Open},
    store::Feed,
    tables::Key,
};

/// The interval at which the agent reads the kernel's state without a reason.
const READ_EVERY: Duration = Duration::from_secs(60);

/// The first and the longest wait before the agent repeats a failed reading.
const READ_AGAIN: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(1));

/// The advice to the operator for an error of the kernel that has no advice of its own.
const AGAIN: &str = "wait, the agent tries it again, at most 30 s apart; if it stays, see its log";

/// An event that the loop handles.
enum Event {
    /// The store sent a message. Without one the store's feed has ended.
    Store(Option<Feed>),
    /// An interface or address of this host changed.
    Link,
    /// Routes of this host changed.
    Routes(Changed),
    /// Routes, sysctls or the firewall of this host changed.
    World,
    /// A task beside the loop ended.
    Report(Box<Report>),
    /// Another task of this process sent a request. Without one no task can send any more.
    Request(Option<Request>),
    /// A retry, a reading or a look at the host is due.
    Tick,
    /// No event, but quick changes are left for another round.
    More,
}

/// What the loop listens to.
pub struct Sources {
    /// The store's feed.
    pub store: mpsc::Receiver<Feed>,
    /// A message for each change of an interface or address.
    pub links: mpsc::Receiver<()>,
    /// Which of the host's own routes changed.
    pub routes: mpsc::Receiver<Changed>,
    /// A message when the host's routes, switches or firewall changed.
    pub world: mpsc::Receiver<()>,
    /// Requests of this process.
    pub requests: Requests,
    /// Where endpoints go whose interface has vanished.
    pub vanished: mpsc::Sender<String>,
    /// Counts the rounds, for tasks that act on a changed state.
    pub rounds: watch::Sender<u64>,
}

/// Somebody who waits for the kernel.
enum Waiter {
    /// For everything that an endpoint needs, once this look at the host has come in.
    Served(String, u64, oneshot::Sender<Result<()>>),
    /// For these entries to go.
    Released(Vec<Key>, oneshot::Sender<Result<()>>),
}

impl Waiter {
    /// Whether who asked does not wait any longer.
    fn is_gone(&self) -> bool {
        match self {
            Self::Served(_, _, reply) | Self::Released(_, reply) => reply.is_closed(),
        }
    }
}

/// The loop.
pub struct Loop<K> {
    kernel: K,
    netlink: Netlink,
    originals: Originals,
    state: State,
    sources: Sources,
    waiters: Vec<Waiter>,
    revisions: Vec<(i64, oneshot::Sender<Result<()>>)>,
    /// Those who are answered once the view has what they said.
    told: Vec<oneshot::Sender<()>>,
    /// The same whose endpoint was taken over.
    updated: Vec<oneshot::Sender<bool>>,
    /// What the next round has to look at.
    dirty: Dirty,
    /// Whether the kernel was read since it was last compared with what should be.
    afresh: bool,
    /// What is still to be changed.
    open: Open,
    /// When the first of it came up, if it came to a change.
    changing: Option<Instant>,
    /// What goes on beside the loop.
    aside: Aside,
    /// Whether nothing is changed yet: until the host was looked at once.
    held: bool,
    /// Whether the host is to be looked at.
    look_due: bool,
    /// The last look at the host that came in.
    looked: u64,
    /// Endpoints whose interface may be newer than the last look, and the look that sees it.
    newer: BTreeMap<String, u64>,
    /// The look that has to come in before anybody is told that a revision is reached.
    owed: u64,
    /// Whether the next round follows at once.
    restless: bool,
    /// Whether anything has changed that others may act on.
    news: bool,
    started: Instant,
    read_due: Instant,
    /// Readings of the host and the kernel that fail.
    readings: Again,
    /// Changes that the kernel refuses; when each is tried again, the state says.
    failures: Again,
}

impl<K: Kernel> Loop<K> {
    /// Prepares the loop; nothing is read or written yet.
    pub fn new(
        kernel: K,
        netlink: Netlink,
        originals: Originals,
        mut state: State,
        sources: Sources,
    ) -> Self {
        let now = Instant::now();
        // What went while no agent ran is noticed in the first round.
        state.facts_stale = true;
        state.routes.changed(Changed::All);
        sources.requests.views.send_replace(Arc::new(state.clone()));
        Self {
            kernel,
            netlink,
            originals,
            state,
            sources,
            waiters: Vec::new(),
            revisions: Vec::new(),
            told: Vec::new(),
            updated: Vec::new(),
            dirty: Dirty::Everything,
            afresh: false,
            open: Open::default(),
            changing: None,
            aside: Aside::new(now),
            held: true,
            look_due: true,
            looked: 0,
            newer: BTreeMap::new(),
            owed: 1,
            restless: false,
            news: true,
            started: now,
            read_due: now,
            readings: Again::new(READ_AGAIN.0, READ_AGAIN.1),
            failures: Again::new(READ_AGAIN.0, READ_AGAIN.1),
        }
    }

    /// Runs until nobody can want anything any more.
    pub async fn run(mut self) -> Result<()> {
        loop {
            let event = self.next().await;
            if !self.handle(event) {
                return Ok(());
            }
            // Whatever else is there already goes into the same round.
            while let Some(event) = self.ready() {
                if !self.handle(event) {
                    return Ok(());
                }
            }
            self.round().await;
        }
    }

    /// What follows from the events that came in.
    async fn round(&mut self) {
        self.restless = false;
        self.look_at_host();
        self.look_at_routes();
        if self.has_business() && !self.held {
            self.plan();
            self.apply().await;
        } else if !self.open.is_done() {
            // No change is allowed now. When changes are allowed again, every table is compared
            // again.
            self.open.clear();
            self.dirty = Dirty::Everything;
        }
        self.state.changing = !self.open.is_empty(Lane::Quick);
        self.publish();
    }

    /// Tells everybody what the loop knows now, and answers those who waited for it.
    fn publish(&mut self) {
        let asked = !self.told.is_empty() || !self.updated.is_empty();
        if self.news || asked || !self.waiters.is_empty() || !self.revisions.is_empty() {
            self.sources.requests.views.send_replace(Arc::new(self.state.clone()));
        }
        for reply in self.told.drain(..) {
            // Who asked may have gone.
            let _ = reply.send(());
        }
        for reply in self.updated.drain(..) {
            let _ = reply.send(true);
        }
        self.answer();
        if !self.restless && std::mem::take(&mut self.news) {
            self.sources.rounds.send_modify(|rounds| *rounds += 1);
        }
    }

    /// Whether the kernel may be touched: what the store says may be done, or
    /// there are endpoints of our own to serve or to let go, or the deny list to keep.
    fn has_business(&self) -> bool {
        matches!(self.state.trust, Trust::Whole | Trust::Lossy(_))
            || !self.state.facts.endpoints.is_empty()
            || !self.state.snapshot.denied.is_empty()
            || !self.state.released.is_empty()
    }

    async fn next(&mut self) -> Event {
        if self.restless {
            // Others of this thread have their turn between the rounds.
            yield_now().await;
            return self.ready().unwrap_or(Event::More);
        }
        let due = self.state.retry.next_due().map(|due| self.started + due);
        let due = due.map_or(self.read_due, |due| due.min(self.read_due));
        let due = if self.has_to_look() { due.min(self.aside.read_from()) } else { due };
        let hears_store = !self.aside.is_at(Task::Told);
        let Sources { store, links, routes, world, requests, .. } = &mut self.sources;
        tokio::select! {
            feed = store.recv(), if hears_store => Event::Store(feed),
            Some(()) = links.recv() => Event::Link,
            Some(changed) = routes.recv() => Event::Routes(changed),
            Some(()) = world.recv() => Event::World,
            report = self.aside.report() => Event::Report(Box::new(report)),
            request = requests.receive.recv() => Event::Request(request),
            () = sleep_until(due) => Event::Tick,
        }
    }

    /// Whether the host or its routes are to be looked at, and nobody does yet.
    fn has_to_look(&self) -> bool {
        (self.look_due && !self.aside.is_at(Task::Host))
            || (self.state.routes.stale.is_some() && !self.aside.is_at(Task::Routes))
    }

    fn ready(&mut self) -> Option<Event> {
        if !self.aside.is_at(Task::Told)
            && let Ok(feed) = self.sources.store.try_recv()
        {
            return Some(Event::Store(Some(feed)));
        }
        if self.sources.links.try_recv().is_ok() {
            return Some(Event::Link);
        }
        if let Some(report) = self.aside.try_report() {
            return Some(Event::Report(Box::new(report)));
        }
        self.sources.requests.receive.try_recv().ok().map(|request| Event::Request(Some(request)))
    }

    /// Takes an event in; false when nobody is left.
    fn handle(&mut self, event: Event) -> bool {
        match event {
            Event::Store(Some(feed)) => self.take_in(feed),
            Event::Store(None) | Event::Request(None) => return false,
            // Told at every attempt to join: nobody has anything to do about it.
            Event::Request(Some(Request::Joining(problem, reply))) if problem == self.state.join_problem => {
                self.told.push(reply);
                return true;
            }
            Event::Request(Some(Request::Revision(revision, reply))) => {
                self.revisions.push((revision, reply));
                return true;
            }
            // One look serves all that came at once.
            Event::Link => drop(self.host_changed()),
            Event::Routes(changed) => self.state.routes.changed(changed),
            Event::World => {
                if self.has_business() {
                    self.read(Part::Host);
                }
                return true;
            }
            Event::Report(report) => {
                if !self.hear(*report) {
                    return false;
                }
            }
            Event::Tick => self.tick(),
            Event::More => {}
            Event::Request(Some(request)) => self.take(request),
        }
        self.news = true;
        true
    }

    /// Looks at everything again once a minute, and tries again what failed and is due.
    fn tick(&mut self) {
        let now = Instant::now();
        if self.read_due <= now {
            // Where there is nothing to be done no reading sets it.
            self.read_due = now + READ_EVERY;
            self.host_changed();
            self.state.routes.changed(Changed::All);
            let parts = [Part::Own, Part::Host].into_iter().filter(|_| self.has_business());
            for part in parts.filter(|part| !self.aside.is_reading(*part)).collect::<Vec<_>>() {
                self.read(part);
            }
        }
        for key in self.state.retry.take_due(self.started.elapsed()) {
            self.reopen(&key);
        }
    }

    fn take(&mut self, request: Request) {
        match request {
            Request::Revision(..) => {}
            Request::Expect(interface, reply) => {
                self.state.coming.insert(interface);
                // Who asked may have gone.
                let _ = reply.send(());
            }
            Request::Joining(problem, reply) => {
                self.state.join_problem = problem;
                self.told.push(reply);
            }
            Request::Update(endpoint, reply) => {
                // One that was released meanwhile does not come back.
                if !self.state.facts.endpoints.contains_key(&endpoint.id) {
                    let _ = reply.send(false);
                    return;
                }
                self.dirty.add(Source::Endpoint(endpoint.id.clone()).into());
                self.state.facts.endpoints.insert(endpoint.id.clone(), *endpoint);
                self.updated.push(reply);
            }
            Request::RuntimePools(pools, reply) => {
                self.state.facts.runtime_pools = pools;
                self.told.push(reply);
            }
            Request::StoreAt(addresses, reply) => {
                self.state.facts.store = addresses;
                self.state.routes.changed(Changed::All);
                let dirty = self.state.settle();
                self.dirty.add(dirty);
                self.told.push(reply);
            }
            Request::Known(known, reply) => {
                let dirty = self.state.remember(known);
                self.dirty.add(dirty);
                self.told.push(reply);
            }
            Request::Serve(endpoint, reply) => {
                let id = endpoint.id.clone();
                self.state.coming.remove(&endpoint.host_interface);
                self.dirty.add(Source::Endpoint(id.clone()).into());
                self.state.facts.endpoints.insert(id.clone(), *endpoint);
                // Its interface is newer than what we know of the host.
                let look = self.host_changed();
                self.newer.insert(id.clone(), look);
                self.waiters.push(Waiter::Served(id, look, reply));
            }
            Request::Release(id, reply) => {
                self.dirty.add(Source::Endpoint(id.clone()).into());
                let keys = self.state.release(&id);
                self.waiters.push(Waiter::Released(keys, reply));
            }
        }
    }

    /// Answers those who wait and need not any longer, and forgets those who have gone.
    fn answer(&mut self) {
        self.revisions.retain(|(_, reply)| !reply.is_closed());
        self.waiters.retain(|waiter| !waiter.is_gone());
        // What a revision brought is in the kernel, as far as it goes there at once.
        let reads = self.aside.is_reading(Part::Own) && !self.state.is_read();
        let told = if self.restless || reads || self.looked < self.owed { i64::MIN } else { self.state.told };
        let (reached, rest) =
            std::mem::take(&mut self.revisions).into_iter().partition::<Vec<_>, _>(|(r, _)| *r <= told);
        self.revisions = rest;
        for (_, reply) in reached {
            drop(reply.send(Ok(())));
        }
        for waiter in std::mem::take(&mut self.waiters) {
            match waiter {
                Waiter::Served(id, look, reply) => match self.state.served(&id) {
                    Some(result) if look <= self.looked => {
                        drop(reply.send(result.map_err(|reason| anyhow!(reason))));
                    }
                    _ => self.waiters.push(Waiter::Served(id, look, reply)),
                },
                Waiter::Released(keys, reply) if self.state.has_let_go(&keys) => drop(reply.send(Ok(()))),
                waiter @ Waiter::Released(..) => self.waiters.push(waiter),
            }
        }
    }
}

#[cfg(test)]
mod tests;
