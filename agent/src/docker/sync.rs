//! Keeping Docker's networks and the cluster's in step.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};
use tracing::{debug, info, warn};

use super::{
    Docker,
    engine::{self, Engine},
    plan::{SETTLING, Seen, Step, View, note_unlisted, plan},
    register::Ordered,
    settle::Settling,
    watched::Watched,
};
use crate::{
    control::now, journal::RuntimeNetwork, model::network::Network, network::Naming, problem::Rejection,
    report::Trouble,
};

/// How long to wait before Docker is sought again.
const ASK_AGAIN: Duration = Duration::from_millis(500);
/// How often to look without a reason.
const HOUSEKEEPING: Duration = Duration::from_secs(10);
/// How soon to look again when something is just coming.
const SOON: Duration = Duration::from_millis(200);
/// What happens within this time is looked at once.
const PAUSE: Duration = Duration::from_millis(30);
/// For how long a subnet that Docker asked for keeps us from making networks.
const MAKING: Duration = Duration::from_secs(2);
/// For how long a network that a user has removed may still be left by the others on it.
const LEAVING: Duration = Duration::from_secs(10);
/// What comes within this time of one another is one event's.
const LULL: Duration = Duration::from_millis(2);
/// Who finds these troubles.
const BY: &str = "docker networks";

/// The networks of the cluster, and why nothing may be agreed upon, if so.
struct Cluster {
    networks: BTreeMap<u32, Network>,
    refusal: Option<crate::problem::Problem>,
}

/// Keeps Docker at `socket` and the cluster in step, for as long as the agent
/// runs. A host without Docker is fine.
pub async fn keep_in_step(docker: Arc<Docker>, socket: PathBuf, mut rounds: watch::Receiver<u64>) {
    let mut settling = Settling::default();
    let mut last: Option<String> = None;
    loop {
        match Engine::connect(&socket).await {
            Ok(engine) => {
                debug!("docker answers at {}", socket.display());
                docker.learn_pools(&engine).await;
                let engine = Arc::new(engine);
                docker.reaches(Some(&engine));
                let ended = docker.follow(&engine, &mut rounds, &mut settling).await;
                docker.reaches(None);
                let reason = ended.err().map(|error| format!("{error:#}"));
                if let Some(reason) = reason.as_ref().filter(|reason| last.as_ref() != Some(reason)) {
                    info!("docker: {reason}");
                }
                last = reason;
            }
            Err(error) => {
                debug!("docker: {error:#}");
                docker.report.stands(BY, docker.absent(&socket));
            }
        }
        docker.endpoints.end_stale_reservations(docker.patience).await;
        sleep(ASK_AGAIN).await;
    }
}

impl Docker {
    /// Has no network's subnet be taken where Docker takes its own.
    async fn learn_pools(&self, engine: &Engine) {
        match engine.own_pools().await {
            Ok(pools) => self.endpoints.control.runtime_pools(pools).await,
            Err(error) => debug!("{error:#}"),
        }
    }

    /// Without Docker's API nothing is wrong, unless Docker uses the plugin.
    fn absent(&self, socket: &std::path::Path) -> Vec<Trouble> {
        if self.register.entries().is_empty() {
            return Vec::new();
        }
        let what = format!(
            "Docker's API does not answer at {}: networks of other hosts do not appear in this host's Docker",
            socket.display()
        );
        vec![Trouble::new(what, "start docker, or name its socket with --docker-socket")]
    }

    /// Acts on what happens, until Docker goes away.
    async fn follow(
        &self,
        engine: &Engine,
        rounds: &mut watch::Receiver<u64>,
        settling: &mut Settling,
    ) -> Result<()> {
        let mut events = std::pin::pin!(engine.events(now()));
        let (mut seen, mut watched) = (None, Watched::default());
        loop {
            let soon = self.step(engine, &mut watched, settling).await? || watched.is_fresh();
            let wait = if soon { SOON } else { self.housekeeping() };
            let reason = async {
                loop {
                    tokio::select! {
                        event = engine::next(&mut events) => {
                            watched.happened(&event?);
                            return Some(());
                        }
                        () = self.wake.notified() => return Some(()),
                        changed = rounds.changed() => {
                            changed.ok()?;
                            let found = self.revisions().await;
                            if found != seen {
                                seen = found;
                                return Some(());
                            }
                        }
                    }
                }
            };
            if let Ok(None) = timeout(wait, reason).await {
                bail!("Docker closed the stream of events; the agent connects again");
            }
            sleep(PAUSE).await;
            // What happened meanwhile is seen by the same look.
            while let Ok(Some(event)) = timeout(LULL, engine::next(&mut events)).await {
                watched.happened(&event);
            }
        }
    }

    /// How often to look without a reason, and to list all containers.
    pub(super) fn housekeeping(&self) -> Duration {
        HOUSEKEEPING.min(self.patience / 2)
    }

    /// Which networks there are, and whether they may be believed.
    async fn revisions(&self) -> Option<(BTreeMap<u32, i64>, bool)> {
        let of = |state: &crate::control::State| {
            (state.snapshot.network_revisions.clone().into(), state.refusal().is_some())
        };
        self.endpoints.control.look(of).await.ok()
    }

    /// One look at Docker and what follows from it. Whether to look again soon.
    async fn step(&self, engine: &Engine, watched: &mut Watched, settling: &mut Settling) -> Result<bool> {
        // In this order: what Docker has is in the register, and what is in the register
        // is in the cluster, or was removed.
        let mut look = self.look(engine, watched, &settling.cut).await?;
        // First of all: somebody may be waiting to remove the network.
        self.release_removed(&look, &settling.cut).await?;
        let docker = engine.networks().await?;
        let making = self.making.within(MAKING);
        let register = self.register.entries();
        note_unlisted(&mut settling.unlisted, &docker, &register, now());
        let of = |state: &crate::control::State| Cluster {
            networks: state.snapshot.networks.clone().into(),
            refusal: state.refusal(),
        };
        let cluster = self.endpoints.control.look(of).await?;
        let mut soon = false;
        let agreed = cluster.refusal.is_none();
        if agreed && self.endpoints.losses() != settling.losses {
            settling.losses = self.endpoints.losses();
            self.forget_lost(&register, &cluster.networks)?;
            soon = true;
        } else if agreed {
            let view = View {
                docker: &docker,
                used: &look.containers.networks(),
                register: &register,
                unlisted: &settling.unlisted,
                cluster: &cluster.networks,
                making: &making,
                now: now(),
                quiet: watched.quiet().as_secs(),
            };
            if plan(&view).0.iter().any(|step| matches!(step, Step::Remake { .. })) {
                // What Docker has not told yet may be on it.
                look.containers = watched.list(engine).await?.clone();
            }
            let view = View { used: &look.containers.networks(), ..view };
            self.leave_used(&view)?;
            soon = self.networks_in_step(engine, &view).await?;
            soon |= self.remove_refused(&view).await?;
        }
        soon |= self.settle(engine, &docker, look, agreed, settling).await?;
        self.sweep(settling).await;
        Ok(soon)
    }

    /// Forgets networks that the store lost. Nobody removed them: the first host whose Docker
    /// still has one creates it again in the cluster.
    fn forget_lost(
        &self,
        register: &BTreeMap<String, RuntimeNetwork>,
        cluster: &BTreeMap<u32, Network>,
    ) -> Result<()> {
        for entry in register.values().filter(|entry| !entry.removed && !cluster.contains_key(&entry.network))
        {
            self.register.forget(&entry.id)?;
        }
        Ok(())
    }

    async fn networks_in_step(&self, engine: &Engine, view: &View<'_>) -> Result<bool> {
        let (steps, mut soon) = plan(view);
        let mut troubles = Vec::new();
        for step in steps {
            debug!("docker: {step:?}");
            match self.take(engine, view, &step).await {
                Ok(()) => soon |= !matches!(step, Step::NameTaken { .. }),
                Err(error) => {
                    let trouble = trouble(&step, view.cluster, &error);
                    if !self.report.troubles().contains(&trouble) {
                        warn!("docker: {}", trouble.problem);
                    }
                    troubles.push(trouble);
                }
            }
        }
        self.report.stands(BY, troubles);
        self.report.forget_gone(|about| view.cluster.values().any(|network| network.name == about));
        Ok(soon)
    }

    async fn take(&self, engine: &Engine, view: &View<'_>, step: &Step) -> Result<()> {
        let seen = |id: &str| {
            view.docker.iter().find(|seen| seen.id == id).context("Docker has removed it meanwhile")
        };
        match step {
            Step::Name { docker, network, name } => self.name(engine, seen(docker)?, *network, name).await,
            Step::Adopt { docker } => self.adopt(seen(docker)?).await,
            Step::Drop { docker, name, why } => {
                if why.is_some() {
                    self.register.leaves(docker);
                }
                self.take_off(engine, docker).await?;
                if let Some(why) = why {
                    let network =
                        view.register.get(docker).and_then(|entry| view.cluster.get(&entry.network));
                    self.lost(name, network.map_or(name, |network| &network.name), why);
                }
                Ok(())
            }
            Step::Forget { docker, network } => {
                if view.cluster.get(network).is_some_and(|network| network.unnamed) {
                    self.endpoints.networks.remove_id(*network).await?;
                }
                self.register.forget_lost(docker)
            }
            Step::Remove { docker, network } => self.remove(view.register, docker, *network).await,
            Step::Make { network } => {
                let network = view
                    .cluster
                    .get(network)
                    .context("the network was removed from the cluster meanwhile")?;
                self.make(engine, network).await?;
                info!(network = network.name, "created in this host's Docker");
                Ok(())
            }
            Step::Remake { docker, network } => {
                let network = view
                    .cluster
                    .get(network)
                    .context("the network was removed from the cluster meanwhile")?;
                self.take_off(engine, docker).await?;
                info!(
                    network = network.name,
                    "creating it in this host's Docker again, with its subnet named"
                );
                self.make(engine, network).await
            }
            Step::NameTaken { name, driver } => {
                bail!("this host's Docker has a network {name} of driver {driver}")
            }
        }
    }

    /// Has Docker make a network of the cluster.
    async fn make(&self, engine: &Engine, network: &Network) -> Result<()> {
        let subnets = network.subnets.iter().map(|subnet| subnet.cidr).collect();
        *self.ordered() = Some(Ordered::new(network.id, subnets));
        let created = engine.create(network).await;
        let ordered = self.ordered().take();
        self.register.made(ordered, created.is_ok())?;
        created
    }

    /// Names a network as Docker's user did. If another has the name already,
    /// ours is taken off, and that one comes in its place.
    async fn name(&self, engine: &Engine, seen: &Seen, network: u32, name: &str) -> Result<()> {
        let networks = &self.endpoints.networks;
        let other = match networks.name(network, name, &seen.labels).await? {
            Naming::Done(revision) => {
                info!(network = name, "Docker named the network");
                return self.endpoints.control.revision(revision).await;
            }
            // The next look sees it.
            Naming::Named(_) | Naming::Gone => return Ok(()),
            Naming::Taken(other) => other,
        };
        // Containers that are being started on it are refused, or it could not be removed.
        self.replaced().insert(network);
        let ours = move |state: &crate::control::State| state.snapshot.networks.get(&network).cloned();
        let Some(ours) = self.endpoints.control.look(ours).await? else { return Ok(()) };
        let entry = self.take_off(engine, &seen.id).await.with_context(|| {
            format!(
                "network {name} of this host differs from the cluster's, and cannot be removed from Docker"
            )
        })?;
        if let Err(error) = networks.remove_id(network).await {
            // As if its user had removed it: that is tried again.
            entry.map_or(Ok(()), |entry| self.register.put(RuntimeNetwork { removed: true, ..entry }))?;
            return Err(error);
        }
        if networks.gives_way_to(&ours, &other) {
            info!(network = name, "another host created a network of this name; this host takes that one");
        } else {
            self.lost(name, name, &format!("the cluster has a network {name} with other options"));
        }
        Ok(())
    }

    /// Tells that a network of this host was taken off its Docker, in favour of another of
    /// the cluster's.
    fn lost(&self, name: &str, other: &str, why: &str) {
        warn!(network = name, "removed the network from this host's Docker: {why}");
        let what = format!("network {name} was removed from this host's Docker: {why}");
        self.report
            .happened(other, Trouble::new(what, "create it with the same options, or under another name"));
    }

    /// Removes one of Docker's networks. The register forgets it first, so that
    /// Docker's call is not taken for a user's wish.
    async fn take_off(&self, engine: &Engine, id: &str) -> Result<Option<RuntimeNetwork>> {
        let entry = self.register.forget(id)?;
        let removed = engine.remove(id).await;
        if let (Err(_), Some(entry)) = (&removed, &entry) {
            self.register.put(entry.clone())?;
        }
        removed.map(|()| entry)
    }

    /// Enters one of Docker's networks that the register lacks: finds its network of the
    /// cluster, or creates it again.
    async fn adopt(&self, seen: &Seen) -> Result<()> {
        let wanted = (!seen.request.unnamed).then(|| seen.request.name.clone());
        let mut request = seen.request.clone();
        (request.name, request.unnamed) = (seen.name.clone(), false);
        if let Some(name) = &wanted {
            request.name.clone_from(name);
        }
        if let Some(fault) = &seen.fault {
            bail!("{fault}");
        }
        let node = self.node().await?;
        let (network, revision) = self.endpoints.networks.establish(&node, &request, None).await?;
        self.endpoints.control.revision(revision).await?;
        let (id, network, since) = (seen.id.clone(), network.id, now());
        self.register.put(RuntimeNetwork { id, network, wanted, since, chosen: false, removed: false })
    }

    /// Carries out what a user has removed, as far as that is possible now.
    pub(super) async fn finish_removals(&self) {
        let register = self.register.entries();
        for entry in register.values().filter(|entry| entry.removed) {
            if let Err(error) = self.remove(&register, &entry.id, entry.network).await {
                debug!("network {}: {error:#}", entry.network);
            }
        }
    }

    /// Removes everywhere what a user removed here, unless it is used.
    async fn remove(
        &self,
        register: &BTreeMap<String, RuntimeNetwork>,
        docker: &str,
        network: u32,
    ) -> Result<()> {
        let others = register.values().any(|e| e.network == network && e.id != docker && !e.removed);
        if !others {
            // Containers that Docker has not started cannot use it any more.
            self.endpoints.unkeep_all(network).await?;
        }
        if !others && let Err(refusal) = self.endpoints.networks.remove_id(network).await {
            if !stays(&refusal) {
                return Err(refusal);
            }
            let what = format!("docker network rm has no effect: {refusal:#}");
            warn!("{what}");
            let mend = "remove or disconnect those containers, then remove the network, which is back in this host's Docker";
            let named = move |state: &crate::control::State| {
                state.snapshot.networks.get(&network).map(|n| n.name.clone())
            };
            let about = self.endpoints.control.look(named).await?.unwrap_or_default();
            self.report.happened(about, Trouble::new(what, mend));
            self.refused().insert(network, Instant::now());
        }
        self.register.forget(docker).map(drop)
    }

    /// Networks that were used are not made again, also once nobody is on them: compose 2
    /// names them by Docker's id, and a container that it has just created could not start.
    /// A container that names one and never started on it, as one that Docker refuses an
    /// address, is no use.
    fn leave_used(&self, view: &View<'_>) -> Result<()> {
        let used = |id: &str| view.used.contains(id);
        for entry in view.register.values().filter(|entry| entry.chosen && !entry.removed && used(&entry.id))
        {
            self.register.put(RuntimeNetwork { chosen: false, ..entry.clone() })?;
        }
        Ok(())
    }

    /// Removes networks for a while that a user has removed and that were in use elsewhere:
    /// where a whole project goes down, the others are about to leave. Whether to look again
    /// soon.
    async fn remove_refused(&self, view: &View<'_>) -> Result<bool> {
        let refused = self.refused().clone();
        for (id, since) in &refused {
            let used = view.cluster.get(id).is_none_or(|network| view.used.contains(&*network.name));
            let gone = used
                || since.elapsed() > LEAVING
                || self.endpoints.networks.remove_id(*id).await.is_ok_and(|removed| removed.is_some());
            if gone {
                self.refused().remove(id);
            }
        }
        Ok(!self.refused().is_empty())
    }

    /// Takes back what Docker asked for and did not use, and, the first time,
    /// what it asked an earlier agent for.
    async fn sweep(&self, settling: &mut Settling) {
        self.endpoints.end_stale_reservations(self.patience).await;
        if self.making.is_stale(self.patience) || !settling.swept {
            // What an earlier agent kept is older than this one.
            let stale = now().saturating_sub(self.patience.as_secs());
            let before = if settling.swept { stale } else { stale.max(self.started.saturating_sub(1)) };
            let swept = async { self.endpoints.networks.unreserve(&self.node().await?, None, before).await };
            match swept.await {
                Ok(()) => {
                    self.making.forget(self.patience);
                    settling.swept = true;
                }
                Err(error) => debug!("cannot take back unused subnets: {error:#}"),
            }
        }
    }
}

/// Whether a network stays although its user removed it, since others are on it. Whatever else
/// refuses its removal may be over soon.
fn stays(refusal: &anyhow::Error) -> bool {
    matches!(refusal.downcast_ref(), Some(Rejection::Conflict(_)))
}

/// A step that could not be taken, for operators.
fn trouble(step: &Step, cluster: &BTreeMap<u32, Network>, error: &anyhow::Error) -> Trouble {
    let name = |id: &u32| cluster.get(id).map_or_else(|| format!("number {id}"), |n| n.name.clone());
    let (what, mend) = match step {
        Step::Make { network } | Step::Remake { network, .. } => (
            format!("network {} is not in this host's Docker", name(network)),
            "the agent retries; the reason says what is in the way",
        ),
        Step::NameTaken { name, .. } => (
            format!("network {name} of the cluster cannot be used by this host's Docker"),
            "rename one of the two; the agent does not change Docker's own network",
        ),
        Step::Drop { name, .. } => (
            format!("network {name} cannot be removed from this host's Docker"),
            "remove or disconnect the containers that are on it",
        ),
        Step::Name { name, .. } => (
            format!("network {name} exists on this host only"),
            "create it with -o margay.network=NAME, or disconnect its containers",
        ),
        Step::Adopt { docker } => (
            format!("network {docker} of this host's Docker is not in the cluster"),
            "remove it from Docker, or create what is missing",
        ),
        Step::Remove { network, .. } | Step::Forget { network, .. } => (
            format!("network {} could not be removed everywhere", name(network)),
            "the agent retries; the reason says what is in the way",
        ),
    };
    Trouble::new(format!("{what}: {error:#}"), mend)
}

// The register's own time and Docker's must not be taken for one another.
const _: () = assert!(SETTLING > MAKING.as_secs());

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{problem::Problem, store::Away};

    #[test]
    fn removal_that_endpoints_prevent_is_given_up_and_any_other_is_tried_again() {
        assert!(stays(&Rejection::conflict("network blue has endpoints", "detach them").into()));
        assert!(!stays(&Rejection::contended("other nodes used the network at every attempt").into()));
        assert!(!stays(&Rejection::Later(Problem::new("the store is read", "wait")).into()));
        assert!(!stays(&Away::new("down", "mend").into()));
    }
}
