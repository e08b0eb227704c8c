//! Endpoints that only one of Docker and Margay knows, after either was away.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use anyhow::Result;
use tracing::{info, warn};

use super::{
    Docker,
    engine::{Cut, Engine, Place},
    plan::Seen,
};
use crate::{control::State, model::endpoint::Endpoint, report::Trouble};

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
    /// Whether what an earlier agent kept for Docker was given up.
    pub(super) swept: bool,
    /// The losses of the store that the book knows of.
    pub(super) losses: u64,
    /// Containers that are off their network and to be put there again.
    cut: Vec<Cut>,
}

impl Docker {
    /// Learns the containers' names, removes endpoints that Docker does not
    /// know, and has Docker make those anew that we do not know. Whether to
    /// look again soon.
    pub(super) async fn settle(
        &self,
        engine: &Engine,
        docker: &[Seen],
        may_connect: bool,
        settling: &mut Settling,
    ) -> Result<bool> {
        // Read before Docker is asked: what comes later is not missed.
        let before = self.endpoints();
        let places = engine.places().await?;
        let book = self.networks.entries();
        let ours: BTreeMap<&str, &Place> = places
            .iter()
            .filter(|place| !place.endpoint.is_empty() && book.contains_key(&place.network))
            .map(|place| (&*place.endpoint, place))
            .collect();
        for (id, endpoint) in &before {
            match places.iter().find(|place| place.endpoint == *id) {
                Some(place) if endpoint.name.as_ref() != Some(&place.name) => {
                    self.workloads.rename(id, &place.name).await?;
                }
                _ => {}
            }
        }
        // Of a network that this Docker does not have it may well be another
        // Docker's endpoint: then this one's word is nothing.
        let known = |endpoint: &Endpoint| {
            let network = endpoint.docker.as_ref().map(|docker| &docker.network);
            docker.iter().any(|seen| network == Some(&seen.id))
        };
        let stale = before
            .iter()
            .filter(|(id, endpoint)| known(endpoint) && !places.iter().any(|place| place.endpoint == **id));
        let stale = stale.map(|(id, _)| id.clone()).collect();
        for id in due(&mut settling.stale, stale, self.patience) {
            let endpoint = &before[&id];
            let network = endpoint.docker.as_ref().map_or("", |docker| &docker.network);
            if !engine.has(network, &id).await? {
                self.bury(endpoint).await?;
            }
        }
        let after = self.endpoints();
        let missing = ours.values().filter(|place| place.running && !after.contains_key(&place.endpoint));
        let missing: Vec<String> = missing.map(|place| place.endpoint.clone()).collect();
        // With a store that has no addresses to give, nobody is better off.
        let missing = if may_connect { missing } else { Vec::new() };
        for id in due(&mut settling.missing, missing, GOING) {
            let place = ours[&*id];
            info!(container = place.name, "docker knows endpoint {id} and we do not: connecting anew");
            match engine.disconnect(place).await {
                Ok(cut) => settling.cut.push(cut),
                Err(error) => warn!("container {}: {error:#}", place.name),
            }
        }
        // Those that have ended or were connected by somebody else are done.
        settling.cut.retain(|cut| {
            let mut own = places.iter().filter(|place| place.container == cut.place.container);
            let on_it =
                |place: &Place| place.network == cut.place.network && place.endpoint != cut.place.endpoint;
            own.clone().any(|place| place.running) && !own.any(on_it)
        });
        let mut troubles = Vec::new();
        for cut in std::mem::take(&mut settling.cut) {
            if let Err(error) = self.connect(engine, &cut).await {
                let what = format!("container {} has lost its network: {error:#}", cut.place.name);
                troubles.push(Trouble::new(what, "it is tried again by itself; else restart the container"));
                settling.cut.push(cut);
            }
        }
        self.report.stands(BY, troubles);
        Ok(!settling.missing.is_empty())
    }

    /// Connects a container that was taken off, with the addresses that it had.
    async fn connect(&self, engine: &Engine, cut: &Cut) -> Result<()> {
        for addr in cut.addresses.iter().copied() {
            let of = move |state: &State| {
                let networks = state.snapshot.networks.values();
                networks.flat_map(|network| &network.subnets).map(|s| s.cidr).find(|c| c.contains(&addr))
            };
            if let Some(cidr) = self.workloads.control.look(of).await? {
                self.wishes().insert(cidr, addr);
            }
        }
        let connected = engine.connect_again(cut).await;
        self.wishes().clear();
        connected
    }

    /// Removes an endpoint that Docker has forgotten, with its addresses.
    async fn bury(&self, endpoint: &Endpoint) -> Result<()> {
        info!(endpoint = endpoint.id, name = endpoint.name, "docker does not know it any more: removed");
        if let Some(docker) = &endpoint.docker {
            self.workloads.delete(&docker.id).await?;
        }
        for addr in &endpoint.addresses {
            self.workloads.end_lease(*addr).await?;
        }
        Ok(())
    }

    /// Docker's endpoints by Docker's id.
    fn endpoints(&self) -> BTreeMap<String, Endpoint> {
        let endpoints = self.workloads.journal.endpoints().into_values();
        endpoints.filter_map(|e| Some((e.docker.as_ref()?.id.clone(), e))).collect()
    }
}

/// Those that have been found for that long. Others begin to be counted, and
/// those that are not found any more end.
fn due(since: &mut BTreeMap<String, Instant>, found: Vec<String>, patience: Duration) -> Vec<String> {
    since.retain(|id, _| found.contains(id));
    let now = Instant::now();
    found.into_iter().filter(|id| since.entry(id.clone()).or_insert(now).elapsed() >= patience).collect()
}
