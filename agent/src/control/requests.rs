//! The way to the loop for everybody else: what they want of it, and what it knows.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc, time::Duration};

use anyhow::{Result, anyhow, bail};
use ipnet::IpNet;
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::spawn_blocking,
    time::timeout,
};

use super::State;
use crate::{
    model::{endpoint::Endpoint, membership::Known},
    problem::{Problem, Rejection},
};

/// How long anybody waits for an answer of the loop.
const PATIENCE: Duration = Duration::from_secs(10);

/// What others of this process want of the loop. When a request is answered, the next view shows
/// its effect.
pub enum Request {
    /// An attach is about to make this interface.
    Expect(String, oneshot::Sender<()>),
    /// Take over an endpoint whose entry in the journal changed; told whether it was still
    /// there.
    Update(Box<Endpoint>, oneshot::Sender<bool>),
    /// What this node remembers of its cluster from now on.
    Known(Arc<Known>, oneshot::Sender<()>),
    /// What keeps this node from joining the cluster, if anything does.
    Joining(Option<Problem>, oneshot::Sender<()>),
    /// Serve an endpoint whose interface is there; told when the kernel holds
    /// everything that it needs, or why it cannot.
    Serve(Box<Endpoint>, oneshot::Sender<Result<()>>),
    /// Serve it no longer; told when the kernel was asked to forget it.
    Release(String, oneshot::Sender<Result<()>>),
    /// The addresses at which this node reaches the store.
    StoreAt(BTreeSet<IpAddr>, oneshot::Sender<()>),
    /// Where this host's Docker takes the subnets of its own networks from.
    RuntimePools(Vec<IpNet>, oneshot::Sender<()>),
    /// Answered when the snapshot has reached a revision of a network, node, pool or denied
    /// prefix.
    Revision(i64, oneshot::Sender<Result<()>>),
}

/// The loop's end of the way.
pub struct Requests {
    /// What others want.
    pub(super) receive: mpsc::Receiver<Request>,
    /// What the loop knew at the end of its last round.
    pub(super) views: watch::Sender<Arc<State>>,
}

/// The way to the loop for everybody else.
#[derive(Clone)]
pub struct Control {
    requests: mpsc::Sender<Request>,
    views: watch::Receiver<Arc<State>>,
}

fn ended() -> anyhow::Error {
    anyhow!("the agent is ending")
}

impl Control {
    /// A new way to a new loop.
    pub fn channel() -> (Self, Requests) {
        let (requests, receive) = mpsc::channel(64);
        let (publish, views) = watch::channel(Arc::default());
        (Self { requests, views }, Requests { receive, views: publish })
    }

    /// What the loop knew at the end of its last round. Nobody waits for the loop, and the
    /// loop for nobody who looks.
    pub fn view(&self) -> Arc<State> {
        Arc::clone(&self.views.borrow())
    }

    /// Why nothing could be given out or agreed upon in the last round.
    pub fn refusal(&self) -> Option<Problem> {
        self.view().refusal()
    }

    /// See [`Request::Expect`].
    pub async fn expect(&self, interface: String) -> Result<()> {
        self.ask(|reply| Request::Expect(interface, reply)).await
    }

    /// See [`Request::Joining`].
    pub async fn joining(&self, problem: Option<Problem>) {
        // A loop that has ended needs no news.
        drop(self.ask(|reply| Request::Joining(problem, reply)).await);
    }

    /// See [`Request::Update`].
    pub async fn update(&self, endpoint: Endpoint) -> Result<bool> {
        self.ask(|reply| Request::Update(Box::new(endpoint), reply)).await
    }

    /// See [`Request::Known`].
    pub async fn known(&self, known: Arc<Known>) {
        drop(self.ask(|reply| Request::Known(known, reply)).await);
    }

    /// See [`Request::StoreAt`].
    pub async fn store_at(&self, addresses: BTreeSet<IpAddr>) {
        drop(self.ask(|reply| Request::StoreAt(addresses, reply)).await);
    }

    /// See [`Request::RuntimePools`].
    pub async fn runtime_pools(&self, pools: Vec<IpNet>) {
        drop(self.ask(|reply| Request::RuntimePools(pools, reply)).await);
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
        sent.map_err(|_| ended())?;
        Ok(receive)
    }

    /// See [`Request::Revision`].
    pub async fn revision(&self, revision: i64) -> Result<()> {
        self.ask(|reply| Request::Revision(revision, reply)).await?
    }

    /// What `look` sees in the view. It may take its time: a thread of its own looks.
    pub async fn look<T: Send + 'static>(
        &self,
        look: impl FnOnce(&State) -> T + Send + 'static,
    ) -> Result<T> {
        self.views.has_changed().map_err(|_| ended())?;
        let view = self.view();
        spawn_blocking(move || look(&view)).await.map_err(|_| ended())
    }

    async fn ask<T>(&self, request: impl FnOnce(oneshot::Sender<T>) -> Request) -> Result<T> {
        let (send, receive) = oneshot::channel();
        self.requests.send(request(send)).await.map_err(|_| ended())?;
        match timeout(PATIENCE, receive).await {
            Ok(answer) => answer.map_err(|_| ended()),
            Err(_) => bail!(Rejection::Later(Problem::new(
                format!("the kernel or the store did not finish this within {} s", PATIENCE.as_secs()),
                "it may still happen: see `margay status`"
            ))),
        }
    }
}
