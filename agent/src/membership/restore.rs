//! Putting into the store what this node's endpoints have.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Context;
use tracing::{info, warn};

use super::{Look, Membership, Trouble};
use crate::{
    ipam::Held,
    journal::{Member, Step},
    model::{
        Unknown,
        block::Holder,
        endpoint::{Endpoint, Kept},
        key::{Key, ROOT},
        network::Network,
        snapshot::Snapshot,
    },
    store::Away,
};

impl Membership {
    /// Denies again what a store lost of the deny list, as this node remembers it. Only
    /// who finds the loss does: what a node that was off remembers is older.
    pub(super) async fn restore_denied(&self, look: &Look) -> Result<(), Trouble> {
        let Some(known) = &look.known else { return Ok(()) };
        match self.endpoints.networks.restore_denied(&known.denied).await.map_err(trouble) {
            // A deny list that cannot be restored does not keep the nodes from being restored.
            Err(Trouble::Refused(error)) => warn!("cannot restore the deny list: {error:#}"),
            result => result?,
        }
        Ok(())
    }

    /// Makes the store say what this node's endpoints have. `lossy` says that
    /// their networks may have been lost, too. Whether it does now: what cannot
    /// be read is in the way.
    pub(super) async fn restore(&self, lossy: bool) -> Result<bool, Trouble> {
        self.endpoints.clean();
        self.endpoints.ipam.forget().await;
        let mut by_network: BTreeMap<u32, Vec<Endpoint>> = BTreeMap::new();
        let mut kept: BTreeMap<u32, Vec<Kept>> = BTreeMap::new();
        for one in self.endpoints.kept_aside() {
            by_network.entry(one.network).or_default();
            kept.entry(one.network).or_default().push(one);
        }
        for endpoint in self.journal.endpoints().into_values() {
            by_network.entry(endpoint.network).or_default().push(endpoint);
        }
        let members = self.journal.networks();
        if lossy {
            self.endpoints.lost();
            for member in by_network.keys().filter_map(|id| members.get(id)) {
                self.endpoints.networks.put_back(&member.network).await.map_err(trouble)?;
            }
        }
        let listing = self.store.list(&[format!("{ROOT}networks/")]).await?;
        let mut snapshot = Snapshot::default();
        snapshot.replace(&listing.entries);
        let used: Vec<u32> = by_network.keys().copied().collect();
        let mut whole = true;
        for (id, endpoints) in by_network {
            // What cannot be read is not gone.
            if snapshot.unreadable.contains_key(&Key::Network(id).to_string()) {
                whole = false;
                continue;
            }
            let known = members.get(&id).map(|member| &member.network);
            let (network, networks) = (snapshot.networks.get(&id), &self.endpoints.networks);
            let same = network.filter(|found| known.is_none_or(|known| networks.same_options(found, known)));
            self.restore_network(same, endpoints, kept.remove(&id).unwrap_or_default()).await?;
        }
        let own = self.control.look(|state| {
            let claims = state.snapshot.claims.iter().map(|((id, _), claim)| (*id, claim));
            let borrowed = state.snapshot.borrowed.iter().map(|((id, _), claim)| (*id, claim));
            let own = claims.chain(borrowed).filter(|(_, claim)| claim.node == state.facts.node);
            own.map(|(id, _)| id).collect::<BTreeSet<u32>>()
        });
        for id in own.await?.into_iter().chain(used).collect::<BTreeSet<u32>>() {
            self.endpoints.ipam.sweep(id).await?;
        }
        Ok(whole)
    }

    async fn restore_network(
        &self,
        network: Option<&Network>,
        endpoints: Vec<Endpoint>,
        kept: Vec<Kept>,
    ) -> Result<(), Trouble> {
        let held: Vec<Held> = endpoints.iter().map(held).chain(kept.iter().map(held_aside)).collect();
        let lost = match network {
            Some(network) => self.endpoints.ipam.restore(network, &held).await?,
            None => {
                let gone = |e: &Endpoint| {
                    (e.id.clone(), format!("network {} does not exist any more", e.network_name))
                };
                endpoints.iter().map(gone).collect()
            }
        };
        for endpoint in endpoints {
            let reason = lost.get(&endpoint.id).cloned();
            if reason != endpoint.lost {
                match &reason {
                    Some(reason) => warn!("endpoint {} is no longer served: {reason}", endpoint.id),
                    None => info!("endpoint {} is served again", endpoint.id),
                }
                // One that was detached meanwhile does not come back.
                let altered =
                    self.journal.alter(&endpoint.id, |endpoint| endpoint.lost = reason, Step::default());
                if let Some(endpoint) = altered.context("journal")? {
                    // Nor in the kernel.
                    self.control.update(endpoint).await?;
                }
            }
        }
        for kept in kept {
            if network.is_none() || lost.contains_key(&kept.holder) {
                info!(
                    container = kept.name,
                    "another endpoint took the addresses that this stopped container kept"
                );
                self.endpoints.unkeep(&kept).await.context("journal")?;
            }
        }
        if let Some(network) = network {
            let stash = self.endpoints.ipam.stash(network.id).await;
            let member = Member { network: network.clone(), stash };
            self.journal.commit(Step::default().network(&member)).await?;
        }
        Ok(())
    }
}

/// A store that is away is another matter than what it refuses.
fn trouble(error: anyhow::Error) -> Trouble {
    error.downcast::<Away>().map_or_else(Trouble::Refused, Trouble::Away)
}

/// What a stopped container keeps, as its block names it.
fn held_aside(kept: &Kept) -> Held {
    let (endpoint, name) = (kept.holder.clone(), Some(kept.name.clone()));
    let holder = Holder { endpoint, name, node: None, unknown: Unknown::new() };
    Held { holder, addresses: kept.addresses.clone(), lost: false }
}

/// An endpoint as its block names it.
fn held(endpoint: &Endpoint) -> Held {
    let (id, name) = (endpoint.id.clone(), endpoint.name.clone());
    let holder = Holder { endpoint: id, name, node: None, unknown: Unknown::new() };
    Held { holder, addresses: endpoint.addresses.clone(), lost: endpoint.lost.is_some() }
}
