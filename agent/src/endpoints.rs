//! The containers of this node: the use case of every front end. An endpoint has one life
//! ([`life`]): its addresses are reserved, it is created, it joins its container, it ends. A
//! command takes all steps at once ([`command`]), a runtime one by one ([`staged`]).

mod command;
mod find;
mod gate;
mod identity;
mod inside;
mod kept;
mod life;
mod reserve;
mod sandbox;
pub mod staged;

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64},
    },
    time::Duration,
};

use tokio::sync::{Mutex, watch};

use self::{
    reserve::{Ended, Reservations},
    sandbox::Sandboxes,
};
use crate::{
    control::Control,
    ipam::Ipam,
    journal::Journal,
    kernel::Netlink,
    model::endpoint::{Device, Endpoint},
    network::Networks,
};

pub use self::{command::Attach, find::Which, identity::new_id, kept::aside, staged::Create};

/// How long an attach waits for the node to join.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);
/// How long the store may take to give an address, before it comes out of the stash. One
/// request of the store may take longer, and an address needs several.
const STORE: Duration = Duration::from_secs(3);
/// How long a front end may have to wait for an address.
pub const ADDRESS: Duration = Duration::from_secs(PATIENCE.as_secs() + STORE.as_secs());

/// The longest name of an endpoint, characters.
const NAME_MAX: usize = 128;

/// How often a namespace that nobody has any more is looked for, and how many
/// times.
const LOOK: Duration = Duration::from_millis(50);
const LOOKS: usize = 200;

/// Held by the task that works on something.
type Turn = Arc<Mutex<()>>;

/// What one works on at a time.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Work {
    /// An interface of a namespace, by the namespace's inode number.
    Interface(u32, String),
    /// A runtime's endpoint, by the runtime's id.
    OfRuntime(String),
    /// A name of a network. A task that holds an interface may wait for a name, and not the other
    /// way round.
    Name(u32, String),
}

/// The containers of this node.
pub struct Endpoints {
    /// The addresses of this node.
    pub ipam: Ipam,
    /// The networks of the cluster.
    pub networks: Networks,
    /// The control loop.
    pub control: Control,
    /// Netlink in the host's namespace.
    pub netlink: Netlink,
    /// The endpoints of this node.
    pub journal: Journal,
    /// What kind of interface new containers get.
    pub device: Device,
    /// Whether attaching may begin.
    open: watch::Sender<bool>,
    /// Whether the store may say more than this node's endpoints have.
    dirty: AtomicBool,
    /// How often the store turned out to have lost something.
    losses: AtomicU64,
    /// Addresses that a runtime asked for and no endpoint has.
    reservations: Reservations,
    /// Addresses that a runtime has yet to give up.
    ended: Ended,
    /// Numbers of a runtime's containers.
    sandboxes: Sandboxes,
    /// What is worked on.
    busy: Mutex<BTreeMap<Work, Turn>>,
}

impl Endpoints {
    /// Nothing is attached or detached by this.
    pub fn new(ipam: Ipam, networks: Networks, control: Control, netlink: Netlink, journal: Journal) -> Self {
        let sandboxes = Sandboxes::after(&journal.endpoints());
        Self {
            ipam,
            networks,
            control,
            netlink,
            journal,
            device: Device::default(),
            open: watch::Sender::new(false),
            dirty: AtomicBool::new(false),
            losses: AtomicU64::new(0),
            reservations: Reservations::default(),
            ended: Ended::default(),
            sandboxes,
            busy: Mutex::default(),
        }
    }

    /// The same with another kind of interface for new containers.
    pub fn with(self, device: Device) -> Self {
        Self { device, ..self }
    }

    async fn turn_of(&self, endpoint: &Endpoint) -> Turn {
        match endpoint.handle() {
            Some(handle) => self.turn(Work::OfRuntime(handle.id.clone())).await,
            None => self.turn(Work::Interface(endpoint.sandbox, endpoint.ifname.clone())).await,
        }
    }

    async fn turn(&self, work: Work) -> Turn {
        let mut busy = self.busy.lock().await;
        busy.retain(|_, turn| Arc::strong_count(turn) > 1);
        Arc::clone(busy.entry(work).or_default())
    }
}
