//! Whose address Docker asks for. Docker names no container when it asks, so the agent finds out
//! who is being started: dockerd holds a container's lock all the while, and an inspection of
//! that container waits for the lock. The answer may be wrong where several start at once;
//! [`super::settle`] then reconnects them.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::{Arc, PoisonError},
    time::Duration,
};

use anyhow::{Result, bail};
use tokio::time::{Instant, sleep, timeout};
use tracing::{debug, warn};

use super::{
    Docker,
    engine::{ANSWER, Containers, Cut, Engine, Place},
    server::DEADLINE,
    settle::Found,
};
use crate::{
    control::State,
    endpoints::ADDRESS,
    journal::RuntimeNetwork,
    model::{
        endpoint::Kept,
        network::{Network, Subnet},
    },
};

/// How often Docker is asked for the container of an endpoint, and how long between.
const ASKS: usize = 20;
const PAUSE: Duration = Duration::from_millis(25);
/// How long a network may take to get its name. It is learnt from Docker.
const NAMING: Duration = Duration::from_secs(2);
/// How long one of these questions may take.
const PATIENCE: Duration = Duration::from_secs(2);
/// How many stopped containers are asked about, the last stopped ones. More would make
/// dockerd busy at every start.
const CANDIDATES: usize = 64;

// Docker is to have an address, or to be told why there is none, in time.
const _: () = assert!(NAMING.as_secs() + ANSWER.as_secs() + ADDRESS.as_secs() < DEADLINE.as_secs());

impl Docker {
    /// The address of a subnet that the container keeps which Docker is starting now, if
    /// one does.
    pub(super) async fn returning(&self, network: &Network, subnet: &Subnet) -> Option<IpAddr> {
        let mut kept = self.endpoints.kept_of(network, subnet);
        kept.drain(..kept.len().saturating_sub(CANDIDATES));
        let wish = self.wishes().get(&subnet.cidr).map(|wish| wish.container.clone());
        // A container that is being reconnected comes first.
        kept.sort_by_key(|kept| wish.as_ref() != Some(&kept.container));
        let busy = match self.engine() {
            Some(engine) => {
                let ids: Vec<String> = kept.iter().map(|kept| kept.container.clone()).collect();
                engine.busy(&ids).await
            }
            // dockerd itself starts, and with it the containers that are always to run.
            None => kept.iter().map(|kept| kept.container.clone()).collect(),
        };
        debug!(
            network = network.name,
            "{} stopped containers keep addresses, {} of them start",
            kept.len(),
            busy.len()
        );
        let found = kept.into_iter().find(|kept| busy.contains(&kept.container))?;
        found.addresses.into_iter().find(|addr| subnet.cidr.contains(addr))
    }

    /// Waits until a network that Docker has just made has its name: until then another host
    /// may turn out to have made a network of that name, which comes in its place.
    pub(super) async fn has_name(&self, network: &Network) -> Result<()> {
        let id = network.id;
        let begun = Instant::now();
        while self.engine().is_some() && begun.elapsed() < NAMING {
            let of = move |state: &State| state.snapshot.networks.get(&id).map(|network| network.unnamed);
            match self.endpoints.control.look(of).await? {
                Some(true) if !self.replaced().contains(&id) => sleep(PAUSE).await,
                Some(false) => return Ok(()),
                _ => bail!(
                    "another host created a network of this name at the same time, and that one comes in \
                     this one's place: start the container again"
                ),
            }
        }
        Ok(())
    }

    /// Whether one container is being started or connected, as far as that can be told.
    pub(super) async fn is_starting(&self, container: &str) -> bool {
        match self.engine() {
            Some(engine) => engine.busy(&[container.to_owned()]).await.contains(container),
            None => true,
        }
    }

    /// Finds out the container of an endpoint that Docker has just made. It may be gone
    /// again before anybody looks at containers.
    pub(super) fn find_container(self: &Arc<Self>, network: String, endpoint: String) {
        let docker = Arc::clone(self);
        tokio::spawn(async move {
            for _ in 0..ASKS {
                let Some(engine) = docker.engine() else { return };
                match timeout(PATIENCE, engine.container_of(&network, &endpoint)).await {
                    Ok(Ok(Some((container, name)))) => {
                        match docker.endpoints.identify(&endpoint, &container, &name).await {
                            Ok(true) => {}
                            Ok(false) => docker.asked(),
                            Err(error) => warn!("endpoint {endpoint}: {error:#}"),
                        }
                        return;
                    }
                    Ok(Ok(None)) => sleep(PAUSE).await,
                    Ok(Err(error)) => debug!("endpoint {endpoint}: {error:#}"),
                    Err(_) => debug!("endpoint {endpoint}: Docker does not answer"),
                }
            }
        });
    }

    /// The way to Docker's API, if it answered the last time.
    fn engine(&self) -> Option<Arc<Engine>> {
        self.engine.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Notes the way to Docker's API, or that there is none.
    pub(super) fn reaches(&self, engine: Option<&Arc<Engine>>) {
        *self.engine.lock().unwrap_or_else(PoisonError::into_inner) = engine.cloned();
    }

    /// Forgets what containers keep that Docker has no more, or not on the network.
    pub(super) async fn release_removed(&self, found: &Found, cut: &[Cut]) -> Result<()> {
        let register = self.register.entries();
        for kept in &found.kept {
            if is_over(kept, &found.containers, &register, cut) {
                self.endpoints.unkeep(kept).await?;
            }
        }
        Ok(())
    }
}

/// Whether Docker has a container no more, or not on the network of what it keeps.
pub(super) fn is_over(
    kept: &Kept,
    view: &Containers,
    register: &BTreeMap<String, RuntimeNetwork>,
    cut: &[Cut],
) -> bool {
    if !view.ids.contains(&kept.container) {
        return true;
    }
    // While Docker makes a network again, it does not list the network's containers.
    let known = register.values().any(|entry| entry.network == kept.network && !entry.removed);
    // Until it starts, a container that was connected while it was stopped has its network's
    // name alone.
    let on_it = |place: &Place| {
        place.network.is_empty() || register.get(&place.network).is_some_and(|e| e.network == kept.network)
    };
    let mut own = view.places.iter().filter(|place| place.container == kept.container);
    known && !own.any(on_it) && !cut.iter().any(|cut| cut.place.container == kept.container)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn place(container: &str, network: &str) -> Place {
        Place {
            on: "blue".into(),
            container: container.into(),
            name: container.into(),
            running: false,
            network: network.into(),
            endpoint: String::new(),
        }
    }

    #[test]
    fn addresses_are_kept_until_docker_has_the_container_elsewhere() {
        let kept = Kept {
            container: "web".into(),
            name: "web".into(),
            network: 7,
            addresses: vec![],
            holder: "e".into(),
            released: 0,
        };
        let entry = |id: &str, network| RuntimeNetwork {
            id: id.into(),
            network,
            wanted: None,
            since: 0,
            chosen: false,
            removed: false,
        };
        let register = BTreeMap::from([("b".into(), entry("b", 7)), ("r".into(), entry("r", 8))]);
        let ids = |container: &str| BTreeSet::from([container.to_owned()]);
        let over = |places: &[Place], cut: &[Cut]| {
            is_over(&kept, &Containers { ids: ids("web"), places: places.to_vec() }, &register, cut)
        };
        assert!(!over(&[place("web", "b")], &[]));
        assert!(!over(&[place("web", "")], &[]), "connected and not started");
        assert!(over(&[place("web", "r")], &[]));
        assert!(over(&[place("other", "b")], &[]));
        let cut = Cut { place: place("web", "b"), addresses: vec![], settings: Default::default() };
        assert!(!over(&[], &[cut]), "about to be connected again");
        let gone = Containers { ids: ids("other"), places: vec![place("web", "b")] };
        assert!(is_over(&kept, &gone, &register, &[]));
        // Docker is making its network again.
        let view = Containers { ids: ids("web"), places: vec![] };
        assert!(!is_over(&kept, &view, &BTreeMap::from([("r".into(), entry("r", 8))]), &[]));
    }
}
