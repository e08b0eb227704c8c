//! This node's part in the cluster: joining it, keeping the store's word of this
//! node true, and putting back what a store lost.

mod join;
mod memory;
mod restore;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use anyhow::Result;
use memory::{Due, REMEMBER};
use thiserror::Error;
use tokio::{
    sync::{Mutex, watch},
    time::{Instant, sleep, timeout},
};
use tracing::info;

use crate::{
    again::Again,
    control::{Control, State, now},
    endpoints::Endpoints,
    journal::{Journal, Step},
    model::{
        self,
        key::Key,
        membership::{Known, Loss, Trust},
        node::{Alive, Node},
        snapshot::single,
    },
    problem::Problem,
    store::{Announcement, Away, Store},
};

/// What to do about a refusal that does not say it.
const JOINING: &str = "wait, the agent tries again; until it joins, it attaches nothing";

/// The least time between two looks at the state.
const PAUSE: Duration = Duration::from_millis(50);
/// How long to wait after a failure.
const ASK_AGAIN: Duration = Duration::from_millis(500);
/// How long at most to wait after joining was refused; jitter may double it.
const REFUSED_AGAIN: Duration = Duration::from_secs(5);
/// How often to look without a reason, and to give empty blocks back.
const HOUSEKEEPING: Duration = Duration::from_secs(5);
/// How soon nodes that were not worth a write are looked at again.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// Why this node is not a member as it should be.
#[derive(Debug, Error)]
enum Trouble {
    /// The store cannot be asked; what was agreed upon stands.
    #[error(transparent)]
    Away(#[from] Away),
    /// The cluster will not have this node as it is.
    #[error("{0:#}")]
    Refused(#[from] anyhow::Error),
}

/// This node's part in the cluster.
pub struct Membership {
    store: Arc<dyn Store>,
    control: Control,
    endpoints: Arc<Endpoints>,
    journal: Journal,
    /// Names the state folder.
    instance: String,
    /// Seconds after which an empty block goes back.
    block_idle: u64,
    /// What keeps telling that this node lives, and since when.
    announced: Mutex<Option<(Announcement, Instant)>>,
}

/// What the next step depends on.
struct Look {
    trust: Trust,
    away: Option<Away>,
    known: Option<Arc<Known>>,
    /// What this host is now.
    own: Node,
    /// What the store says of it.
    written: Option<Node>,
    /// Whether an operator removed it.
    removed: bool,
    /// Whether the store says that it lives.
    alive: bool,
    revision: i64,
}

impl Membership {
    /// Nothing is written yet.
    pub fn new(
        store: Arc<dyn Store>,
        endpoints: Arc<Endpoints>,
        journal: Journal,
        instance: String,
        block_idle: u64,
    ) -> Self {
        let control = endpoints.control.clone();
        Self { store, control, endpoints, journal, instance, block_idle, announced: Mutex::default() }
    }

    /// Acts on what the state becomes, for as long as the loop runs.
    pub async fn run(self: Arc<Self>, mut rounds: watch::Receiver<u64>) {
        let mut progress = Progress::default();
        loop {
            let wait = match self.step(&mut progress).await {
                Ok(()) => {
                    progress.refusals.succeeded();
                    if progress.later { LOOK_AGAIN } else { HOUSEKEEPING }
                }
                Err(Trouble::Away(away)) => {
                    progress.restored = false;
                    let is_known = self.without_store(&away).await;
                    if !is_known {
                        // It was asked just now, so no news hurries the next attempt.
                        sleep(progress.refusals.wait()).await;
                    }
                    ASK_AGAIN
                }
                Err(Trouble::Refused(reason)) => {
                    let wait = progress.refusals.failed(&format!("this node cannot join: {reason:#}"));
                    self.control.joining(Some(Problem::of(&reason, JOINING))).await;
                    self.endpoints.shut();
                    self.announced.lock().await.take();
                    // The store is asked for it each time, so no news hurries it.
                    sleep(wait).await;
                    PAUSE
                }
            };
            sleep(PAUSE).await;
            if let Ok(Err(_)) = timeout(wait, rounds.changed()).await {
                return;
            }
        }
    }

    /// A node that is known to the cluster goes on with what it has in stash. Gives
    /// whether the loop knows by itself that the store is of no use.
    async fn without_store(&self, away: &Away) -> bool {
        let look = |state: &State| (state.known.is_some(), state.store.unusable().is_some());
        let (member, is_known) = self.control.look(look).await.unwrap_or_default();
        if member {
            self.endpoints.open();
        } else {
            self.control.joining(Some(away.to_problem())).await;
        }
        is_known
    }

    async fn step(&self, progress: &mut Progress) -> Result<(), Trouble> {
        let look = self.look().await?;
        // Before the first reading nothing is known to be readable again.
        if look.trust != Trust::Unseen {
            self.remember_last_good(progress).await?;
        }
        if let Some(away) = look.away {
            // A store that does not come back as it was would be asked for them.
            if let (true, Some(known)) = (progress.later, &look.known) {
                self.remember(progress, known.node.clone(), true, 0).await?;
            }
            return Err(away.into());
        }
        match &look.trust {
            Trust::Unseen => return Ok(()),
            Trust::Other { .. } => {
                // What comes and goes meanwhile is told to the right one.
                progress.restored = false;
                self.control.joining(None).await;
                self.endpoints.open();
                return Ok(());
            }
            Trust::Lossy(Loss::Awaiting(_)) | Trust::Whole => {}
            Trust::Lossy(_) => {
                self.restore_denied(&look).await?;
                self.mark_lossy(&look).await?;
            }
        }
        let awaited = match &look.trust {
            Trust::Lossy(Loss::Awaiting(nodes)) => nodes.contains(&look.own.name),
            Trust::Lossy(_) => true,
            _ => false,
        };
        let written = look.written.as_ref();
        let fresh = written.is_none_or(|node| !same_node(node, &look.own)) || awaited || look.known.is_none();
        let mut node = written.cloned();
        if fresh {
            node = Some(self.register(&look).await?);
            progress.restored = false;
        }
        if !progress.restored || self.endpoints.is_dirty() {
            progress.restored = false;
            progress.restored = self.restore(look.trust != Trust::Whole).await?;
        }
        if awaited && progress.restored {
            self.arrive(&look.own.name).await?;
        }
        if let Some(node) = node {
            self.remember(progress, node, fresh || awaited, look.revision).await?;
        }
        self.joined(&look).await;
        if progress.housekept.is_none_or(|at| at.elapsed() >= HOUSEKEEPING) && look.trust == Trust::Whole {
            progress.housekept = Some(Instant::now());
            self.housekeep().await?;
        }
        Ok(())
    }

    async fn joined(&self, look: &Look) {
        self.control.joining(None).await;
        let mut announced = self.announced.lock().await;
        // A lease outlives its key where somebody emptied the store.
        let stale = |since: &Instant| !look.alive && since.elapsed() > REMEMBER;
        if announced.as_ref().is_none_or(|(_, since)| stale(since)) {
            info!(node = look.own.name, "joined the cluster");
            let alive = model::encode(&Alive { since: now() });
            let announcement = self.store.announce(Key::Alive(look.own.name.clone()), alive);
            *announced = Some((announcement, Instant::now()));
        }
        drop(announced);
        self.endpoints.open();
    }

    async fn look(&self) -> Result<Look> {
        let instance = self.instance.clone();
        let look = move |state: &State| {
            let name = &state.facts.node;
            Look {
                trust: state.trust.clone(),
                away: state.store.unusable().cloned(),
                known: state.known.clone(),
                own: Node {
                    name: name.clone(),
                    addresses: state.facts.addresses.clone(),
                    link_local: state.facts.uplink.link_local,
                    super_packets: state.facts.super_packets,
                    instance,
                    generation: 0,
                    since: now(),
                    occupied: state.facts.occupied.clone(),
                    routed: state.spoken_for(),
                    depends_on: state.facts.gateways.union(&state.facts.store).copied().collect(),
                    unknown: Default::default(),
                },
                written: state.snapshot.nodes.get(name).cloned(),
                removed: state.snapshot.removed.contains_key(name),
                alive: state.snapshot.alive.contains_key(name),
                revision: state.revision,
            }
        };
        self.control.look(look).await
    }

    async fn remember_last_good(&self, progress: &mut Progress) -> Result<()> {
        let values = self.control.look(|state| state.snapshot.last_good()).await?;
        if progress.last_good.as_ref() != Some(&values) {
            self.journal.put_last_good(&values)?;
            progress.last_good = Some(values);
        }
        Ok(())
    }

    /// Writes down what the cluster is, so that a later store can be judged.
    async fn remember(&self, progress: &mut Progress, node: Node, must: bool, revision: i64) -> Result<()> {
        let since = progress.remembered.map(|at| at.elapsed());
        let due = self.control.look(move |state| memory::due(state, &node, revision, must, since));
        let Due { known, later } = due.await?;
        progress.later = later;
        if let Some(known) = known {
            self.journal.put_known(&known)?;
            self.control.known(Arc::new(known)).await;
            progress.remembered = Some(Instant::now());
        }
        Ok(())
    }

    /// Gives back what is not used, and forgets networks that are gone.
    async fn housekeep(&self) -> Result<(), Trouble> {
        let claimed = self.control.look(|state| {
            let own = state.snapshot.claims.iter().filter(|(_, claim)| claim.node == state.facts.node);
            let networks: BTreeSet<u32> =
                own.filter(|((_, cidr), _)| single(*cidr).is_none()).map(|((id, _), _)| *id).collect();
            (networks, state.snapshot.networks.keys().copied().collect::<BTreeSet<u32>>())
        });
        let (claimed, existing) = claimed.await?;
        for network in claimed {
            if self.endpoints.ipam.give_back(network, self.block_idle).await? {
                info!("returned an empty block of network {network}");
            }
        }
        let mut used: BTreeSet<u32> =
            self.journal.endpoints().values().map(|endpoint| endpoint.network).collect();
        used.extend(self.journal.kept().values().map(|kept| kept.network));
        let mut step = Step::default();
        for (id, mut member) in self.journal.networks() {
            member.stash = self.endpoints.ipam.stash(id).await;
            if !used.contains(&id) && (member.stash.is_empty() || !existing.contains(&id)) {
                step = step.without_network(id);
            } else {
                step = step.network(&member);
            }
        }
        Ok(self.journal.commit(step).await?)
    }
}

/// What was done already.
struct Progress {
    /// Attempts to join that were refused.
    refusals: Again,
    /// Whether the store says what this node's endpoints have.
    restored: bool,
    remembered: Option<Instant>,
    /// Whether nodes have come or gone that are still to be remembered.
    later: bool,
    housekept: Option<Instant>,
    last_good: Option<BTreeMap<String, Vec<u8>>>,
}

impl Default for Progress {
    fn default() -> Self {
        Self {
            refusals: Again::new(ASK_AGAIN, REFUSED_AGAIN),
            restored: false,
            remembered: None,
            later: false,
            housekept: None,
            last_good: None,
        }
    }
}

/// Whether the store says of this node what is true, times apart.
fn same_node(written: &Node, own: &Node) -> bool {
    let plain = |node: &Node| Node { generation: 0, since: 0, unknown: Default::default(), ..node.clone() };
    plain(written) == plain(own)
}
