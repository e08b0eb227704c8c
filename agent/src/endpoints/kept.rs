//! The addresses that a runtime's container keeps while it is stopped. The runtime gives
//! them up at every stop and asks for any address at the next start.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::atomic::Ordering,
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::Result;
use tracing::{debug, info, warn};

use super::{Endpoints, Work, identity::list};
use crate::{
    ipam::Refusal,
    journal::Step,
    model::{
        endpoint::{Endpoint, Kept, Owner},
        network::{Network, Subnet},
    },
};

impl Endpoints {
    /// Says which container of the runtime's an endpoint belongs to. From here on the
    /// container keeps the endpoint's addresses, unless it or another container keeps
    /// others or these. Whether the endpoint has the addresses that it should.
    pub async fn identify(&self, id: &str, container: &str, name: &str) -> Result<bool> {
        let turn = self.turn(Work::OfRuntime(id.to_owned())).await;
        let turn = turn.lock().await;
        let Some(found) = self.of_runtime(id) else { return Ok(true) };
        let known = found.handle().is_some_and(|handle| handle.container.as_deref() == Some(container));
        let endpoint = found;
        let asked = endpoint.handle().is_some_and(|handle| handle.asked);
        let kept = self.journal.kept();
        let own = kept.get(&(container.to_owned(), endpoint.network));
        let others = kept.values().find(|kept| {
            kept.container != container
                && kept.network == endpoint.network
                && kept.addresses.iter().any(|addr| endpoint.addresses.contains(addr))
        });
        let right = match (own, others) {
            (Some(own), _) if own.addresses == endpoint.addresses => true,
            (None, None) => true,
            // A user's word goes before what is kept.
            _ if asked => true,
            _ => false,
        };
        let mut step = Step::default();
        if right {
            if let Some(other) = others {
                step = step.without_kept(&other.container, other.network);
            }
            step = step.kept(&Kept {
                container: container.to_owned(),
                name: name.to_owned(),
                network: endpoint.network,
                addresses: endpoint.addresses.clone(),
                holder: endpoint.id.clone(),
                released: 0,
            });
        }
        let set = |e: &mut Endpoint| {
            if let Owner::Runtime(handle) = &mut e.owner {
                handle.container = Some(container.to_owned());
            }
        };
        if known {
            self.journal.commit(step).await?
        } else {
            drop(self.journal.alter(&endpoint.id, set, step)?)
        }
        if right {
            let before = own.filter(|own| own.addresses != endpoint.addresses);
            if let Some(before) = before.filter(|before| self.is_free(before)) {
                self.rereserve_kept(before).await;
            }
        }
        drop(turn);
        Ok(right)
    }

    /// An endpoint ends: what its container keeps from now on, if it keeps the addresses.
    /// Then they are not to be given back.
    pub(super) fn keeping(&self, endpoint: &Endpoint) -> Option<Kept> {
        let same = |kept: &&Kept| kept.network == endpoint.network && kept.addresses == endpoint.addresses;
        let kept = self.journal.kept();
        let kept = kept.values().find(same)?;
        let released = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis());
        let released = u64::try_from(released).unwrap_or(u64::MAX);
        Some(Kept { holder: endpoint.id.clone(), released, ..kept.clone() })
    }

    /// What stopped containers keep of a subnet, the longest stopped first. Where an
    /// address of one of them was just given out for the other family, that one alone.
    pub fn kept_of(&self, network: &Network, subnet: &Subnet) -> Vec<Kept> {
        let kept = self.journal.kept();
        let of = kept.values().filter(|kept| kept.network == network.id);
        let mut free: Vec<Kept> = of
            .filter(|kept| {
                kept.addresses.iter().any(|addr| subnet.cidr.contains(addr) && !self.is_used(*addr))
            })
            .cloned()
            .collect();
        if let Some(begun) = free.iter().position(|kept| kept.addresses.iter().any(|a| self.is_reserved(*a)))
        {
            return vec![free.swap_remove(begun)];
        }
        free.sort_by_key(|kept| kept.released);
        free
    }

    /// What a container keeps on a network.
    pub fn kept_by(&self, container: &str, network: u32) -> Option<Kept> {
        self.journal.kept().remove(&(container.to_owned(), network))
    }

    /// Forgets what a container keeps on a network: it was removed or disconnected.
    pub async fn unkeep(&self, kept: &Kept) -> Result<()> {
        let removed = self.journal.take_kept(&kept.container, kept.network)?;
        if let Some(kept) = removed.filter(|kept| self.is_free(kept)) {
            info!(container = kept.name, addresses = list(&kept.addresses), "addresses released");
            self.rereserve_kept(&kept).await;
        }
        Ok(())
    }

    /// Forgets what stopped containers keep on a network.
    pub async fn unkeep_all(&self, network: u32) -> Result<()> {
        let kept = self.journal.kept();
        for kept in kept.values().filter(|kept| kept.network == network && self.is_free(kept)) {
            self.unkeep(kept).await?;
        }
        Ok(())
    }

    /// Gives up what the container keeps that has been stopped longest, since nothing else
    /// is left of a network. Whether there was one.
    pub(super) async fn make_room(&self, network: &Network, refusal: &Refusal) -> Result<bool> {
        let Refusal::Exhausted(cidr) = refusal else { return Ok(false) };
        let within = |kept: &Kept| kept.addresses.iter().any(|addr| cidr.contains(addr));
        let kept = self.journal.kept();
        let free = kept.values().filter(|k| k.network == network.id && within(k) && self.is_free(k));
        let Some(oldest) = free.min_by_key(|kept| kept.released) else { return Ok(false) };
        warn!(
            container = oldest.name,
            network = network.name,
            "no address is left: the stopped container loses its addresses"
        );
        self.unkeep(oldest).await?;
        Ok(true)
    }

    /// What the store is to know besides endpoints: what stopped containers keep, under
    /// the endpoint that had it.
    pub fn kept_aside(&self) -> Vec<Kept> {
        let endpoints = self.journal.endpoints();
        let lives = |kept: &Kept| {
            endpoints.values().any(|e| e.network == kept.network && has_one(&e.addresses, &kept.addresses))
        };
        self.journal.kept().into_values().filter(|kept| !lives(kept)).collect()
    }

    async fn rereserve_kept(&self, kept: &Kept) {
        let away = match self.control.refusal() {
            Some(reason) => {
                for addr in &kept.addresses {
                    self.ipam.forget_one(&kept.holder, *addr).await;
                }
                Some(reason.problem)
            }
            None => self.ipam.release(kept.network, &kept.holder).await.err().map(|away| away.to_string()),
        };
        if let Some(away) = away {
            self.dirty.store(true, Ordering::Relaxed);
            debug!("addresses of container {}: {away}", kept.name);
        }
    }

    fn is_free(&self, kept: &Kept) -> bool {
        !kept.addresses.iter().any(|addr| self.is_used(*addr))
    }

    fn is_used(&self, addr: IpAddr) -> bool {
        self.is_reserved(addr) || self.has_endpoint(addr)
    }

    fn is_reserved(&self, addr: IpAddr) -> bool {
        self.reservations.lock().contains_key(&addr)
    }

    pub(super) fn has_endpoint(&self, addr: IpAddr) -> bool {
        self.journal.endpoints().values().any(|endpoint| endpoint.addresses.contains(&addr))
    }
}

fn has_one(some: &[IpAddr], others: &[IpAddr]) -> bool {
    some.iter().any(|addr| others.contains(addr))
}

/// Those of a journal that no endpoint has, for the start of the agent.
pub fn aside(
    kept: BTreeMap<(String, u32), Kept>,
    endpoints: &BTreeMap<String, Endpoint>,
) -> impl Iterator<Item = (String, Vec<IpAddr>)> {
    let free = move |kept: &Kept| {
        !endpoints.values().any(|e| e.network == kept.network && has_one(&e.addresses, &kept.addresses))
    };
    kept.into_values().filter(move |kept| free(kept)).map(|kept| (kept.holder, kept.addresses))
}
