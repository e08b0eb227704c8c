//! The one event loop: what the store and the host say becomes what the kernel
//! holds.

mod concern;
mod fold;
pub mod hold;
mod host;
mod rounds;
mod state;

use std::{
    collections::BTreeSet,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Result, anyhow, bail};
use ipnet::IpNet;
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{Instant, sleep_until, timeout},
};
use tracing::debug;

pub use concern::Events;
pub use fold::Fold;
pub use host::Routes;
pub use rounds::Rounds;
pub use state::{State, StoreState, now};

use crate::{
    again::Again,
    desired::{Dirty, Source},
    kernel::{Kernel, Netlink, routes::Changed, sysctl::Originals, world::News},
    model::{
        endpoint::Endpoint,
        membership::{Known, Trust},
    },
    problem::{Problem, Rejection},
    reconcile::Change,
    store::Feed,
    tables::Entry,
};

/// How often the kernel is read afresh without a reason.
const READ_EVERY: Duration = Duration::from_secs(60);

/// How soon what could not be read is read again, and how late.
const READ_AGAIN: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(1));

/// How long anybody waits for an answer of the loop.
const PATIENCE: Duration = Duration::from_secs(10);

/// What mends a refusal of the kernel's that says nothing of a mend.
const AGAIN: &str = "wait, the agent tries it again, at most 30 s apart; if it stays, see its log";

/// What the loop reacts to.
enum Event {
    /// The store told something, or will tell no more.
    Store(Option<Feed>),
    /// An interface or address of this host changed.
    Link,
    /// Routes of this host's own changed.
    Routes(Changed),
    /// Its routes, switches or firewall changed.
    World(Box<News>),
    /// Somebody of this process wants something.
    Request(Option<Request>),
    /// It is time to try again, or to look.
    Tick,
}

/// What others of this process want of the loop.
pub enum Request {
    /// An attach is about to make this interface.
    Expect(String, oneshot::Sender<()>),
    /// Take over an endpoint whose entry in the journal changed.
    Update(Box<Endpoint>),
    /// What this node remembers of its cluster from now on.
    Known(Arc<Known>),
    /// What keeps this node from joining the cluster, if anything does.
    Joining(Option<Problem>),
    /// Serve an endpoint whose interface is there; told when the kernel holds
    /// everything that it needs, or why it cannot.
    Serve(Box<Endpoint>, oneshot::Sender<Result<()>>),
    /// Serve it no longer; told when the kernel was asked to forget it.
    Release(String, oneshot::Sender<Result<()>>),
    /// Look at the state.
    Look(Box<dyn FnOnce(&State) + Send>),
    /// The addresses at which this node reaches the store.
    StoreAt(BTreeSet<IpAddr>),
    /// Where this host's Docker takes the subnets of its own networks from.
    RuntimePools(Vec<IpNet>),
    /// Told when the snapshot has reached a revision of a network, node, pool or what is
    /// blocked.
    Revision(i64, oneshot::Sender<Result<()>>),
}

/// The way to the loop for everybody else.
#[derive(Clone)]
pub struct Control {
    requests: mpsc::Sender<Request>,
    refusal: Refusal,
}

/// Why nothing can be given out or agreed upon, as of the last round: read
/// without waiting for the loop.
#[derive(Clone, Debug, Default)]
pub struct Refusal(Arc<Mutex<Option<Problem>>>);

impl Refusal {
    fn set(&self, reason: Option<Problem>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = reason;
    }
}

impl Control {
    /// A new way to a new loop.
    pub fn channel() -> (Self, mpsc::Receiver<Request>) {
        let (requests, receive) = mpsc::channel(64);
        (Self { requests, refusal: Refusal::default() }, receive)
    }

    /// Where the loop tells why nothing can be given out.
    pub fn refusals(&self) -> Refusal {
        self.refusal.clone()
    }

    /// Why nothing could be given out or agreed upon in the last round.
    pub fn refusal(&self) -> Option<Problem> {
        self.refusal.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// See [`Request::Expect`].
    pub async fn expect(&self, interface: String) -> Result<()> {
        self.ask(|reply| Request::Expect(interface, reply)).await
    }

    /// See [`Request::Joining`].
    pub async fn joining(&self, problem: Option<Problem>) {
        // A loop that has ended needs no news.
        drop(self.requests.send(Request::Joining(problem)).await);
    }

    /// See [`Request::Update`].
    pub async fn update(&self, endpoint: Endpoint) {
        drop(self.requests.send(Request::Update(Box::new(endpoint))).await);
    }

    /// See [`Request::Known`].
    pub async fn known(&self, known: Arc<Known>) {
        drop(self.requests.send(Request::Known(known)).await);
    }

    /// See [`Request::StoreAt`].
    pub async fn store_at(&self, addresses: BTreeSet<IpAddr>) {
        drop(self.requests.send(Request::StoreAt(addresses)).await);
    }

    /// See [`Request::RuntimePools`].
    pub async fn runtime_pools(&self, pools: Vec<IpNet>) {
        drop(self.requests.send(Request::RuntimePools(pools)).await);
    }

    /// See [`Request::Serve`].
    pub async fn serve(&self, endpoint: Endpoint) -> Result<()> {
        self.ask(|reply| Request::Serve(Box::new(endpoint), reply)).await?
    }

    /// See [`Request::Release`].
    pub async fn release(&self, id: String) -> Result<()> {
        self.ask(|reply| Request::Release(id, reply)).await?
    }

    /// The same without waiting for it: told when it is done.
    pub async fn begin_release(&self, id: String) -> Result<oneshot::Receiver<Result<()>>> {
        let (send, receive) = oneshot::channel();
        let sent = self.requests.send(Request::Release(id, send)).await;
        sent.map_err(|_| anyhow!("the agent is ending"))?;
        Ok(receive)
    }

    /// See [`Request::Revision`].
    pub async fn revision(&self, revision: i64) -> Result<()> {
        self.ask(|reply| Request::Revision(revision, reply)).await?
    }

    /// What `look` sees in the state.
    pub async fn look<T: Send + 'static>(
        &self,
        look: impl FnOnce(&State) -> T + Send + 'static,
    ) -> Result<T> {
        self.ask(|reply| Request::Look(Box::new(|state| drop(reply.send(look(state)))))).await
    }

    async fn ask<T>(&self, request: impl FnOnce(oneshot::Sender<T>) -> Request) -> Result<T> {
        let (send, receive) = oneshot::channel();
        let ended = || anyhow!("the agent is ending");
        self.requests.send(request(send)).await.map_err(|_| ended())?;
        match timeout(PATIENCE, receive).await {
            Ok(answer) => answer.map_err(|_| ended()),
            Err(_) => bail!(Rejection::Later(Problem::new(
                format!("the kernel or the store did not get there within {} s", PATIENCE.as_secs()),
                "see `margay status`"
            ))),
        }
    }
}

/// What the loop listens to.
pub struct Sources {
    /// The store's feed.
    pub store: mpsc::Receiver<Feed>,
    /// A message for each change of an interface or address.
    pub links: mpsc::Receiver<()>,
    /// Which of the host's own routes changed.
    pub routes: mpsc::Receiver<Changed>,
    /// What the host's routes, switches and firewall have become.
    pub world: mpsc::Receiver<News>,
    /// Requests of this process.
    pub requests: mpsc::Receiver<Request>,
    /// Where endpoints go whose interface has vanished.
    pub vanished: mpsc::Sender<String>,
    /// Why nothing can be given out.
    pub refusal: Refusal,
    /// Counts the rounds, for whoever acts on what the state has become.
    pub rounds: watch::Sender<u64>,
}

/// Somebody who waits for the kernel.
struct Waiter {
    endpoint: String,
    /// Whether everything of it should be there, or nothing.
    present: bool,
    reply: oneshot::Sender<Result<()>>,
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
    /// What the next round has to look at.
    dirty: Dirty,
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
        Self {
            kernel,
            netlink,
            originals,
            state,
            sources,
            waiters: Vec::new(),
            revisions: Vec::new(),
            dirty: Dirty::Everything,
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
            if !self.handle(event).await {
                return Ok(());
            }
            // Whatever else is there already goes into the same round.
            while let Some(event) = self.ready() {
                if !self.handle(event).await {
                    return Ok(());
                }
            }
            if self.state.facts_stale {
                self.look_at_host().await;
            }
            self.look_at_routes().await;
            if self.has_business() {
                self.reconcile().await;
            }
            self.sources.refusal.set(self.state.refusal());
            self.answer();
            if std::mem::take(&mut self.news) {
                self.sources.rounds.send_modify(|rounds| *rounds += 1);
            }
        }
    }

    /// Whether the kernel may be touched: what the store says may be done, or
    /// there are endpoints of our own to serve or to let go, or the guard to keep.
    fn has_business(&self) -> bool {
        matches!(self.state.trust, Trust::Whole | Trust::Lossy(_))
            || !self.state.facts.endpoints.is_empty()
            || !self.state.snapshot.blocked.is_empty()
            || !self.state.released.is_empty()
    }

    async fn next(&mut self) -> Event {
        let due = self.state.retry.next_due().map(|due| self.started + due);
        let due = due.map_or(self.read_due, |due| due.min(self.read_due));
        let Sources { store, links, routes, world, requests, .. } = &mut self.sources;
        tokio::select! {
            feed = store.recv() => Event::Store(feed),
            Some(()) = links.recv() => Event::Link,
            Some(changed) = routes.recv() => Event::Routes(changed),
            Some(news) = world.recv() => Event::World(Box::new(news)),
            request = requests.recv() => Event::Request(request),
            () = sleep_until(due) => Event::Tick,
        }
    }

    fn ready(&mut self) -> Option<Event> {
        if let Ok(feed) = self.sources.store.try_recv() {
            return Some(Event::Store(Some(feed)));
        }
        if self.sources.links.try_recv().is_ok() {
            return Some(Event::Link);
        }
        self.sources.requests.try_recv().ok().map(|request| Event::Request(Some(request)))
    }

    /// Takes an event in; false when nobody is left.
    async fn handle(&mut self, event: Event) -> bool {
        match event {
            Event::Store(Some(feed)) => {
                let dirty = self.state.take(feed);
                self.dirty.add(dirty);
            }
            Event::Store(None) | Event::Request(None) => return false,
            Event::Request(Some(Request::Look(look))) => {
                look(&self.state);
                return true;
            }
            // Told at every attempt to join: nobody has anything to do about it.
            Event::Request(Some(Request::Joining(problem))) if problem == self.state.join_problem => {
                return true;
            }
            Event::Request(Some(Request::Revision(revision, reply))) => {
                self.revisions.push((revision, reply));
                return true;
            }
            // One look serves all that came at once.
            Event::Link => self.state.facts_stale = true,
            Event::Routes(changed) => self.state.routes.changed(changed),
            Event::World(news) => {
                let dirty = self.state.hear(*news);
                self.dirty.add(dirty);
            }
            Event::Tick => {
                if self.read_due <= Instant::now() {
                    // Where there is nothing to be done no round sets it.
                    self.read_due = Instant::now() + READ_EVERY;
                    self.look_at_host().await;
                    self.look_at_world().await;
                    self.state.routes.changed(Changed::All);
                    self.state.reread = true;
                }
                self.dirty = Dirty::Everything;
            }
            Event::Request(Some(request)) => self.take(request),
        }
        self.news = true;
        true
    }

    fn take(&mut self, request: Request) {
        match request {
            Request::Look(_) | Request::Revision(..) => {}
            Request::Expect(interface, reply) => {
                self.state.coming.insert(interface);
                // Who asked may have gone.
                let _ = reply.send(());
            }
            Request::Joining(problem) => self.state.join_problem = problem,
            Request::Update(endpoint) => {
                self.dirty.add(Source::Endpoint(endpoint.id.clone()).into());
                self.state.facts.endpoints.insert(endpoint.id.clone(), *endpoint);
            }
            Request::RuntimePools(pools) => {
                self.state.facts.runtime_pools = pools;
            }
            Request::StoreAt(addresses) => {
                self.state.facts.store = addresses;
                self.state.routes.changed(Changed::All);
                let dirty = self.state.settle();
                self.dirty.add(dirty);
            }
            Request::Known(known) => {
                let dirty = self.state.remember(known);
                self.dirty.add(dirty);
            }
            Request::Serve(endpoint, reply) => {
                let id = endpoint.id.clone();
                self.state.coming.remove(&endpoint.host_interface);
                self.dirty.add(Source::Endpoint(id.clone()).into());
                self.state.facts.endpoints.insert(id.clone(), *endpoint);
                self.waiters.push(Waiter { endpoint: id, present: true, reply });
                // Its interface is newer than what we know of the host.
                self.state.facts_stale = true;
            }
            Request::Release(id, reply) => {
                self.dirty.add(Source::Endpoint(id.clone()).into());
                self.state.release(&id);
                self.waiters.push(Waiter { endpoint: id, present: false, reply });
            }
        }
    }

    /// Makes the kernel hold what it should.
    async fn reconcile(&mut self) {
        let dirty = std::mem::take(&mut self.dirty);
        if std::mem::take(&mut self.state.reread) {
            self.state.actual = None;
        }
        let actual = match self.state.actual.take() {
            Some(actual) if dirty == Dirty::Nothing => {
                self.state.actual = Some(actual);
                return;
            }
            Some(actual) => (actual, dirty),
            None => match self.kernel.read().await {
                Ok(actual) => {
                    self.read_due = Instant::now() + READ_EVERY;
                    (actual, Dirty::Everything)
                }
                Err(error) => {
                    let failure = format!("the kernel's state cannot be read: {error:#}");
                    self.read_due = Instant::now() + self.readings.failed(&failure);
                    self.dirty = Dirty::Everything;
                    return;
                }
            },
        };
        let (actual, dirty) = actual;
        let begun = Instant::now();
        let changes = self.state.changes(&dirty, &actual);
        self.state.actual = Some(actual);
        self.state.forget_released();
        let made_host = changes.iter().any(|change| matches!(change, Change::Put(Entry::Interface(..))));
        self.apply(&changes).await;
        if !changes.is_empty() {
            self.state.rounds.seconds.observe(begun.elapsed().as_secs_f64());
        }
        if made_host {
            self.look_at_host().await;
        }
    }

    async fn apply(&mut self, changes: &[Change]) {
        // Endpoints whose own program or entry failed stay closed.
        let mut closed = BTreeSet::new();
        for change in changes {
            let key = change.key();
            let now = self.started.elapsed();
            if let Change::Put(Entry::Endpoint(_, endpoint)) = change
                && closed.contains(&endpoint.ifindex)
            {
                let reason = Problem::new("its program is not attached", AGAIN);
                self.state.retry.failed(key, reason, now);
                continue;
            }
            let result = if self.state.retry.may_try(&key, now) {
                self.kernel.apply(change).await
            } else {
                Err(anyhow!("waits for its next attempt"))
            };
            match result {
                Ok(()) => self.state.applied(change),
                // An earlier program may still be there.
                Err(error) if self.state.refused_xdp(change, &error) => self.dirty = Dirty::Everything,
                Err(error) => {
                    closed.extend(self.state.ifindex_of(&key));
                    if self.state.retry.may_try(&key, now) {
                        self.failures.log(&format!("the kernel refuses {key}: {error:#}"));
                        self.state.rounds.failed.inc();
                        self.state.retry.failed(key, Problem::of(&error, AGAIN), now);
                    }
                }
            }
        }
        if !changes.is_empty() {
            debug!("{} changes", changes.len());
        }
    }

    /// Answers those who wait and need not any longer.
    fn answer(&mut self) {
        let (reached, rest) = std::mem::take(&mut self.revisions)
            .into_iter()
            .partition::<Vec<_>, _>(|(revision, _)| *revision <= self.state.told);
        self.revisions = rest;
        for (_, reply) in reached {
            drop(reply.send(Ok(())));
        }
        for waiter in std::mem::take(&mut self.waiters) {
            match self.state.served(&waiter.endpoint, waiter.present) {
                Some(result) => drop(waiter.reply.send(result.map_err(|reason| anyhow!(reason)))),
                None => self.waiters.push(waiter),
            }
        }
    }
}

#[cfg(test)]
mod tests;
