//! Docker Engine's way to the networks of the cluster: the plugin that dockerd
//! calls, and the keeping in step of what Docker and the cluster know.
//!
//! Docker knows networks of one host only. The [`Register`] says which network of the
//! cluster each of them is. The agents create and remove Docker's networks through each
//! host's Docker API, outside of the plugin's calls.

mod driver;
mod engine;
mod ipam;
mod options;
mod plan;
mod pool;
mod register;
mod restarts;
mod server;
mod settle;
mod sync;
mod watched;
mod wire;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use anyhow::Result;
use ipnet::IpNet;
use tokio::sync::Notify;

pub use options::COMPARED;
pub use server::{listen, serve};
pub use sync::keep_in_step;

use crate::{control::now, endpoints::Endpoints, metrics::Calls, report::Report};
use engine::Engine;
use register::{Making, Ordered, Register};

/// What endpoints say of whose they are.
const RUNTIME: &str = "docker";

/// What the plugin stands on.
pub struct Docker {
    endpoints: Arc<Endpoints>,
    /// The cluster's network of each of Docker's networks.
    register: Register,
    /// Subnets that Docker has asked for and not made networks of.
    making: Making,
    /// How long the calls take.
    pub calls: Calls,
    /// What operators are told.
    report: Arc<Report>,
    /// The network that Docker makes now because we asked it to.
    ordered: Mutex<Option<Ordered>>,
    /// Addresses that containers get again when the agent reconnects them, by subnet.
    wishes: Mutex<BTreeMap<IpNet, Wish>>,
    /// Networks that a user removed while others were on them, and when.
    refused: Mutex<BTreeMap<u32, Instant>>,
    /// Networks of this host that another host's of the same name replaces.
    replaced: Mutex<BTreeSet<u32>>,
    /// The way to Docker's API, while it answers.
    engine: Mutex<Option<Arc<Engine>>>,
    /// When the agent started, in seconds since 1970.
    started: u64,
    /// Told when a call has changed something.
    wake: Notify,
    /// How long what Docker asked for may go unused.
    patience: Duration,
}

/// The address that a container is to have again.
struct Wish {
    /// Docker's id of the container.
    container: String,
    addr: IpAddr,
}

impl Docker {
    /// Reads what the journal knows of Docker's networks.
    pub fn new(endpoints: Arc<Endpoints>, report: Arc<Report>, patience: Duration) -> Self {
        let register = Register::open(endpoints.journal.clone());
        let (making, calls, wake) = (Making::default(), Calls::default(), Notify::new());
        let (ordered, wishes, engine, started) =
            (Mutex::default(), Mutex::default(), Mutex::default(), now());
        Self {
            endpoints,
            register,
            making,
            calls,
            report,
            ordered,
            wishes,
            refused: Mutex::default(),
            replaced: Mutex::default(),
            engine,
            started,
            wake,
            patience,
        }
    }

    fn ordered(&self) -> MutexGuard<'_, Option<Ordered>> {
        self.ordered.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wishes(&self) -> MutexGuard<'_, BTreeMap<IpNet, Wish>> {
        self.wishes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn refused(&self) -> MutexGuard<'_, BTreeMap<u32, Instant>> {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn replaced(&self) -> MutexGuard<'_, BTreeSet<u32>> {
        self.replaced.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has the next look at Docker come soon.
    fn asked(&self) {
        self.wake.notify_one();
    }

    async fn node(&self) -> Result<String> {
        self.endpoints.control.look(|state| state.facts.node.clone()).await
    }

    async fn agreed(&self) -> Result<()> {
        self.endpoints.agreed().await
    }
}
