//! Endpoints that only one of Docker and Margay knows, after either was away.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use anyhow::Result;
use tracing::{info, warn};

use super::{
    Docker, RUNTIME, Wish,
    engine::{Containers, Cut, Engine, Place},
    plan::Seen,
    restarts::is_over,
    watched::Watched,
};
use crate::{
    control::State,
    model::endpoint::{Endpoint, Kept},
    report::Trouble,
};

/// For how long Docker may know of an endpoint that we do not: it is just
/// going.
const GOING: Duration = Duration::from_secs(10);
/// Who finds these troubles.
const BY: &str = "docker endpoints";

/// What was found on one side only, and since when.
#[derive(Debug, Default)]
pub struct Settling {
    /// Endpoints that Docker does not know.
    stale: BTreeMap<String, Instant>,
    /// Endpoints that we do not know.
    missing: BTreeMap<String, Instant>,
    /// Networks of the register that Docker does not list, and since when.
    pub(super) unlisted: BTreeMap<String, u64>,
    /// Whether what an earlier agent kept for Docker was given up.
    pub(super) swept: bool,
    /// The number of losses of the store that the register was compared after.
    pub(super) losses: u64,
    /// Containers that are off their network and to be put there again.
    pub(super) cut: Vec<Cut>,
}

/// What one look at the containers found.
pub(super) struct Found {
    /// Docker's endpoints and what containers keep, as we knew them before.
    endpoints: BTreeMap<String, Endpoint>,
    pub kept: Vec<Kept>,
    /// What Docker says.
    pub containers: Containers,
}

impl Docker {
    /// Looks at the containers. What we know is read before Docker is asked: what comes
    /// later is not missed. Those are looked at in any case that would lose what they keep.
    pub(super) async fn look(&self, engine: &Engine, watched: &mut Watched, cut: &[Cut]) -> Result<Found> {
        let endpoints = self.of_docker();
        let kept: Vec<Kept> = self.endpoints.journal.kept().into_values().collect();
        let register = self.register.entries();
        let view = watched.look(engine, self.housekeeping()).await?;
        let over = kept.iter().filter(|kept| is_over(kept, view, &register, cut));
        let over = over.map(|kept| kept.container.clone()).collect();
        let containers = watched.look_at(engine, &over).await?.clone();
        Ok(Found { endpoints, kept, containers })
    }

    /// Learns the containers' names, removes endpoints that Docker does not know, has Docker make
    /// those again that the agent does not know, and moves containers that have another address
    /// than they keep. Returns whether to look again soon.
    pub(super) async fn settle(
        &self,
        engine: &Engine,
        docker: &[Seen],
        found: Found,
        may_connect: bool,
        settling: &mut Settling,
    ) -> Result<bool> {
        let Found { endpoints: before, containers: view, .. } = found;
        let misplaced = self.learn(&before, &view.places).await?;
        let soon = self.take_off_misplaced(engine, &misplaced, may_connect, settling).await;
        self.end_stale(engine, docker, &before, &view.places, settling).await?;
        self.take_off_missing(engine, &view.places, may_connect, settling).await?;
        self.connect_again(engine, &view, settling).await;
        Ok(soon || !settling.missing.is_empty())
    }

    /// Learns whose the endpoints are. Gives those with other addresses than their container
    /// keeps.
    async fn learn<'a>(
        &self,
        endpoints: &'a BTreeMap<String, Endpoint>,
        places: &'a [Place],
    ) -> Result<Vec<(&'a Place, &'a Endpoint)>> {
        let mut misplaced = Vec::new();
        for (id, endpoint) in endpoints {
            let Some(place) = places.iter().find(|place| place.endpoint == *id) else { continue };
            if endpoint.name.as_ref() != Some(&place.name) {
                self.endpoints.rename(id, &place.name).await?;
            }
            if place.running && !self.endpoints.identify(id, &place.container, &place.name).await? {
                misplaced.push((place, endpoint));
            }
        }
        Ok(misplaced)
    }

    /// Takes containers off networks on which they have another address than they keep, to
    /// be connected again with that. Whether some have to wait: who has their address is
    /// still starting.
    async fn take_off_misplaced(
        &self,
        engine: &Engine,
        misplaced: &[(&Place, &Endpoint)],
        may_connect: bool,
        settling: &mut Settling,
    ) -> bool {
        let mut waiting = false;
        let endpoints = self.of_docker();
        for (place, endpoint) in misplaced {
            let kept = self.endpoints.kept_by(&place.container, endpoint.network);
            let addresses = kept.map(|kept| kept.addresses).unwrap_or_default();
            let in_the_way = endpoints.values().any(|other| {
                let moves = misplaced.iter().any(|(_, moving)| moving.id == other.id);
                !moves && other.addresses.iter().any(|addr| addresses.contains(addr))
            });
            // With a store that has no addresses to give, nobody is better off.
            if in_the_way || (addresses.is_empty() && !may_connect) {
                waiting |= in_the_way;
                continue;
            }
            info!(
                container = place.name,
                "the container has another container's address: connecting it again"
            );
            match engine.disconnect(place).await {
                Ok(cut) => settling.cut.push(Cut { addresses, ..cut }),
                Err(error) => warn!("container {}: {error:#}", place.name),
            }
        }
        waiting
    }

    /// Removes endpoints that Docker has forgotten.
    async fn end_stale(
        &self,
        engine: &Engine,
        docker: &[Seen],
        before: &BTreeMap<String, Endpoint>,
        places: &[Place],
        settling: &mut Settling,
    ) -> Result<()> {
        // Of a network that this Docker does not have it may well be another
        // Docker's endpoint: then this one's word is nothing.
        let known = |endpoint: &Endpoint| {
            let network = endpoint.handle().map(|handle| &handle.network);
            docker.iter().any(|seen| network == Some(&seen.id))
        };
        let stale = before
            .iter()
            .filter(|(id, endpoint)| known(endpoint) && !places.iter().any(|place| place.endpoint == **id));
        let stale = stale.map(|(id, _)| id.clone()).collect();
        for id in due(&mut settling.stale, stale, self.patience) {
            let endpoint = &before[&id];
            let network = endpoint.handle().map_or("", |handle| &handle.network);
            if !engine.has(network, &id).await? {
                self.bury(&id).await?;
            }
        }
        Ok(())
    }

    /// Takes containers off networks on which Docker knows an endpoint of theirs and we do
    /// not, to be connected again.
    async fn take_off_missing(
        &self,
        engine: &Engine,
        places: &[Place],
        may_connect: bool,
        settling: &mut Settling,
    ) -> Result<()> {
        let (register, after) = (self.register.entries(), self.of_docker());
        let lacking = |place: &&Place| {
            let ours = !place.endpoint.is_empty() && register.contains_key(&place.network);
            ours && place.running && !after.contains_key(&place.endpoint)
        };
        // With a store that has no addresses to give, nobody is better off.
        let missing: BTreeMap<&str, &Place> =
            places.iter().filter(|_| may_connect).filter(lacking).map(|p| (&*p.endpoint, p)).collect();
        let ids = missing.keys().map(|id| (*id).to_owned()).collect();
        for id in due(&mut settling.missing, ids, GOING) {
            let place = missing[&*id];
            // The listing is older than this, and a container that is taken off notices it.
            if self.endpoints.of_runtime(&id).is_some() || !engine.has(&place.network, &id).await? {
                continue;
            }
            info!(
                container = place.name,
                "Docker knows endpoint {id} and the agent does not: connecting the container again"
            );
            match engine.disconnect(place).await {
                Ok(cut) => settling.cut.push(cut),
                Err(error) => warn!("container {}: {error:#}", place.name),
            }
        }
        Ok(())
    }

    /// Connects the containers that were taken off.
    async fn connect_again(&self, engine: &Engine, view: &Containers, settling: &mut Settling) {
        // Those that were removed or connected by somebody else are done. One that was stopped
        // is not: it is to have its network when it starts.
        settling.cut.retain(|cut| {
            let mut own = view.places.iter().filter(|place| place.container == cut.place.container);
            let on_it =
                |place: &Place| place.shares_network(&cut.place) && place.endpoint != cut.place.endpoint;
            view.ids.contains(&cut.place.container) && !own.any(on_it)
        });
        let mut troubles = Vec::new();
        for cut in std::mem::take(&mut settling.cut) {
            if let Err(error) = self.connect(engine, &cut).await {
                let what = format!("container {} has lost its network: {error:#}", cut.place.name);
                troubles.push(Trouble::new(what, "wait, the agent tries again; or restart the container"));
                settling.cut.push(cut);
            }
        }
        self.report.stands(BY, troubles);
    }

    /// Connects a container that was taken off, with the addresses that it had.
    async fn connect(&self, engine: &Engine, cut: &Cut) -> Result<()> {
        for addr in cut.addresses.iter().copied() {
            let of = move |state: &State| {
                let networks = state.snapshot.networks.values();
                networks.flat_map(|network| &network.subnets).map(|s| s.cidr).find(|c| c.contains(&addr))
            };
            if let Some(cidr) = self.endpoints.control.look(of).await? {
                self.wishes().insert(cidr, Wish { container: cut.place.container.clone(), addr });
            }
        }
        let connected = engine.connect_again(cut).await;
        self.wishes().clear();
        connected
    }

    /// Removes an endpoint that Docker has forgotten, with its addresses. Since Docker was looked
    /// at it may have ended by itself, and another may have its addresses.
    async fn bury(&self, id: &str) -> Result<()> {
        let Some(endpoint) = self.endpoints.of_runtime(id) else { return Ok(()) };
        info!(
            endpoint = endpoint.id,
            name = endpoint.name,
            "removed an endpoint that Docker no longer knows"
        );
        self.endpoints.delete(id).await?;
        for addr in &endpoint.addresses {
            self.endpoints.give_up_of(&endpoint.id, *addr).await?;
        }
        Ok(())
    }

    /// Docker's endpoints by Docker's id.
    fn of_docker(&self) -> BTreeMap<String, Endpoint> {
        let endpoints = self.endpoints.journal.endpoints().into_values();
        let of_docker = |endpoint: Endpoint| {
            let handle = endpoint.handle().filter(|handle| handle.runtime == RUNTIME)?;
            Some((handle.id.clone(), endpoint))
        };
        endpoints.filter_map(of_docker).collect()
    }
}

/// Those that have been found for that long. Others begin to be counted, and
/// those that are not found any more end.
fn due(since: &mut BTreeMap<String, Instant>, found: Vec<String>, patience: Duration) -> Vec<String> {
    since.retain(|id, _| found.contains(id));
    let now = Instant::now();
    found.into_iter().filter(|id| since.entry(id.clone()).or_insert(now).elapsed() >= patience).collect()
}
