//! The members of etcd: a connection to each, which of them is asked, and who is
//! left alone for a while.
//!
//! All members say the same of what is agreed, so one is as good as another. An
//! agent goes on with the one that answered last, and many agents begin with
//! different ones. While a member is silent the next is asked the same as well: so a
//! member that hangs costs a request a moment, and one that is slow costs nothing.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use etcd_client::{Client, ConnectOptions, Error};
use futures::{StreamExt, future::BoxFuture, stream::FuturesUnordered};
use tokio::{
    sync::{OnceCell, watch},
    time::{Instant, sleep_until, timeout},
};
use tracing::debug;

use super::fault::{Fate, Fault};
use crate::store::{Away, OPERATION, again};

/// How long one member may be silent before the next is asked as well.
pub(super) const SILENT: Duration = Duration::from_secs(1);
/// How long a stream may take to open, logging in included.
pub(super) const OPEN: Duration = Duration::from_secs(2);
/// For how long nothing is begun with a member that failed, where another has not.
const LEFT_ALONE: Duration = Duration::from_secs(30);

// What is asked of a second and a third member still has its time.
const _: () = assert!(SILENT.as_millis() * 4 <= OPERATION.as_millis());
const _: () = assert!(OPEN.as_millis() * 2 <= OPERATION.as_millis());

/// The members.
pub(super) struct Members {
    list: Vec<Member>,
    connect: ConnectOptions,
    /// Who answered last.
    used: AtomicUsize,
}

struct Member {
    /// Its `host:port`.
    at: String,
    url: String,
    client: OnceCell<Client>,
    /// When it failed, unless it has answered since.
    failed: watch::Sender<Option<Instant>>,
}

/// What a request came to.
pub(super) struct Answer<'a, T> {
    pub value: T,
    /// Who answered.
    pub at: &'a str,
    /// Whether the same request may have been carried out before, by a member
    /// that did not come to say so.
    pub repeated: bool,
}

/// How often a request may be carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Times {
    /// Once: it is not sent again after it may have been carried out.
    Once,
    /// Any number of times: more than once is the same as once.
    Any,
}

/// A member in use by a stream.
pub(super) struct InUse<'a> {
    members: &'a Members,
    index: usize,
    /// The connection.
    pub client: Client,
}

impl Members {
    /// The members at some `host:port`; no connection is made yet. `from` says with
    /// which of them to begin, whatever it is.
    pub fn new(scheme: &str, at: &[String], connect: ConnectOptions, from: usize) -> Self {
        let member = |at: &String| Member {
            at: at.clone(),
            url: format!("{scheme}://{at}"),
            client: OnceCell::new(),
            failed: watch::Sender::new(None),
        };
        let list: Vec<Member> = at.iter().map(member).collect();
        let used = AtomicUsize::new(from % list.len().max(1));
        Self { list, connect, used }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.list.len()
    }

    /// Their `host:port`.
    pub fn addresses(&self) -> impl Iterator<Item = &String> {
        self.list.iter().map(|member| &member.at)
    }

    /// All members, in the order in which they are asked: who has not failed first,
    /// then who failed longest ago.
    fn order(&self) -> Vec<usize> {
        let used = self.used.load(Ordering::Relaxed);
        let count = self.list.len();
        let mut order: Vec<usize> = (0..count).collect();
        order.sort_by_key(|index| (*self.list[*index].failed.borrow(), (index + count - used) % count));
        order
    }

    fn answered(&self, index: usize) {
        self.used.store(index, Ordering::Relaxed);
        self.list[index].failed.send_if_modified(|failed| failed.take().is_some());
    }

    fn failed(&self, index: usize) {
        debug!("not using etcd at {} for a while", self.list[index].at);
        self.list[index].failed.send_replace(Some(Instant::now()));
    }

    fn fault(&self, index: usize, error: &Error) -> Fault {
        let fault = Fault::of(error, &self.list[index].at);
        debug!("{}: {error:?}", fault.away);
        fault
    }

    /// The connection to a member. With a user, making it means logging in, so it is
    /// made when it is first needed.
    async fn client(&self, index: usize) -> Result<Client, Error> {
        let Member { url, client, .. } = &self.list[index];
        let make = || Client::connect([url], Some(self.connect.clone()));
        client.get_or_try_init(make).await.cloned()
    }

    /// Asks one member after the other until one gives an answer that another would
    /// not change.
    pub async fn ask<T: Send>(
        &self,
        times: Times,
        request: impl Fn(Client) -> BoxFuture<'static, Result<T, Error>> + Sync,
    ) -> Result<Answer<'_, T>, Away> {
        let order = self.order();
        let end = Instant::now() + OPERATION;
        let (mut begun, mut repeated, mut next) = (0, false, Some(Instant::now()));
        let (mut again, mut last, mut open) = (again(), None, Vec::new());
        let mut running = FuturesUnordered::new();
        loop {
            tokio::select! {
                biased;
                Some((index, result)) = running.next(), if !running.is_empty() => {
                    open.retain(|other| *other != index);
                    let fault = match result {
                        Ok(value) => {
                            // They had as much time as this one, and more.
                            open.into_iter().for_each(|silent| self.failed(silent));
                            self.answered(index);
                            return Ok(Answer { value, at: &self.list[index].at, repeated });
                        }
                        Err(error) => self.fault(index, &error),
                    };
                    if fault.fate == Fate::Decided {
                        self.answered(index);
                        return Err(fault.away);
                    }
                    self.failed(index);
                    if fault.fate == Fate::Unknown {
                        repeated = true;
                        if times == Times::Once {
                            return Err(fault.away);
                        }
                    }
                    last = Some(fault.away);
                    // At once, as long as there is one that was not asked yet.
                    let pause = if begun < order.len() { Duration::ZERO } else { again.wait() };
                    let due = Instant::now() + pause;
                    next = Some(next.map_or(due, |next| next.min(due)));
                }
                () = sleep_until(next.unwrap_or(end)), if next.is_some() => {
                    let mut turns = (0..order.len()).map(|turn| order[(begun + turn) % order.len()]);
                    let index = turns.find(|index| !open.contains(index));
                    next = None;
                    let Some(index) = index else { continue };
                    begun += 1;
                    // A request that has no answer yet may be carried out, too.
                    repeated |= !open.is_empty();
                    open.push(index);
                    let request = &request;
                    running.push(async move {
                        let result = match self.client(index).await {
                            Ok(client) => request(client).await,
                            Err(error) => Err(error),
                        };
                        (index, result)
                    });
                    if times == Times::Any {
                        next = Some(Instant::now() + SILENT);
                    }
                }
                () = sleep_until(end) => {
                    let silent: Vec<&str> = open.iter().map(|index| &*self.list[*index].at).collect();
                    let silence = || Fault::silence(&silent.join(" and "), OPERATION.as_secs()).away;
                    open.iter().for_each(|index| self.failed(*index));
                    return Err(last.unwrap_or_else(silence));
                }
            }
        }
    }

    /// The member to begin a stream with.
    pub async fn best(&self) -> Result<InUse<'_>, Fault> {
        let index = self.order().first().copied().unwrap_or_default();
        let at = &self.list[index].at;
        let made = match timeout(OPEN, self.client(index)).await {
            Ok(Ok(client)) => return Ok(InUse { members: self, index, client }),
            Ok(Err(error)) => self.fault(index, &error),
            Err(_) => Fault::silence(at, OPEN.as_secs()),
        };
        self.failed(index);
        Err(made)
    }
}

impl InUse<'_> {
    /// Notes that it answers.
    pub fn answers(&self) {
        self.members.answered(self.index);
    }

    /// What an error of it means; it is left alone for a while.
    pub fn fault(&self, error: &Error) -> Fault {
        self.members.failed(self.index);
        self.members.fault(self.index, error)
    }

    /// That it ended a stream, or said nothing on it; it is left alone for a while.
    pub fn ended(&self, what: &str) -> Fault {
        self.members.failed(self.index);
        Fault::ended(&self.members.list[self.index].at, what)
    }

    /// That it gave a watch up, and for what reason; it is left alone for a while.
    pub fn cancelled(&self, reason: &str) -> Fault {
        self.members.failed(self.index);
        Fault::said(reason, &self.members.list[self.index].at)
    }

    /// Whether there is a member that has not failed of late.
    fn has_better(&self) -> bool {
        let well = |member: &Member| member.failed.borrow().is_none_or(|at| at.elapsed() > LEFT_ALONE);
        let others = self.members.list.iter().enumerate().filter(|(index, _)| *index != self.index);
        others.map(|(_, member)| member).any(well)
    }

    /// Waits until others find that this member fails, and another does not.
    pub async fn until_failed(&self) {
        let mut failed = self.members.list[self.index].failed.subscribe();
        // The sender lives as long as the members.
        while failed.changed().await.is_ok() {
            let fails = failed.borrow_and_update().is_some();
            if fails && self.has_better() {
                return;
            }
        }
    }
}
