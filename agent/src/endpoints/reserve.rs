//! Addresses that are reserved for endpoints to come: a runtime asks for an address by itself,
//! and may never make an endpoint of it.

use std::{
    collections::{BTreeMap, VecDeque},
    net::IpAddr,
    sync::{Mutex, MutexGuard, PoisonError, atomic::Ordering},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, bail};
use tracing::{debug, info, warn};

use super::{Endpoints, identity::new_id};
use crate::{
    ipam,
    model::{
        Unknown,
        block::Holder,
        endpoint::{Endpoint, Kept},
        network::{Network, Subnet},
    },
};

/// Addresses that a runtime asked for, until an endpoint has them or they are
/// given up.
#[derive(Debug, Default)]
pub(super) struct Reservations(Mutex<BTreeMap<IpAddr, Reservation>>);

#[derive(Clone, Debug)]
pub(super) struct Reservation {
    pub network: u32,
    /// Who has the address in the store; the endpoint's id to be.
    pub holder: String,
    /// Whether the store does not know of it yet.
    pub stashed: bool,
    /// Whether a stopped container keeps the address. Then `holder` is the endpoint that
    /// the container had.
    pub kept: bool,
    /// Whether a user named the address.
    pub asked: bool,
    pub since: Instant,
}

impl Reservations {
    pub(super) fn lock(&self) -> MutexGuard<'_, BTreeMap<IpAddr, Reservation>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether one of the addresses was reserved out of what a container keeps, and whether
    /// a user named one.
    pub(super) fn origin(&self, addresses: &[IpAddr]) -> (bool, bool) {
        let reserved = self.lock();
        let found: Vec<&Reservation> = addresses.iter().filter_map(|addr| reserved.get(addr)).collect();
        (found.iter().any(|reservation| reservation.kept), found.iter().any(|reservation| reservation.asked))
    }
}

/// For how long a runtime may still give up the address of an endpoint that has ended: while the
/// agent does not answer, it asks again for half a minute.
const LATE: Duration = Duration::from_secs(120);

/// Addresses of a runtime's endpoints that have ended and that it has not given up yet. One
/// may be another endpoint's by then: a stopped container's address is given again at once.
#[derive(Debug, Default)]
pub(super) struct Ended(Mutex<BTreeMap<IpAddr, VecDeque<(String, Instant)>>>);

impl Ended {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<IpAddr, VecDeque<(String, Instant)>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that an endpoint has ended.
    pub(super) fn note(&self, endpoint: &Endpoint, now: Instant) {
        let mut lock = self.lock();
        for addr in &endpoint.addresses {
            lock.entry(*addr).or_default().push_back((endpoint.id.clone(), now));
        }
    }

    /// Whose address is given up, if that one has ended: the runtime gives up what it had
    /// first.
    pub(super) fn take(&self, addr: IpAddr, now: Instant) -> Option<String> {
        self.forget(now);
        self.lock().get_mut(&addr)?.pop_front().map(|(id, _)| id)
    }

    /// Forgets those that will not be given up any more.
    pub(super) fn forget(&self, now: Instant) {
        self.lock().retain(|_, ended| {
            ended.retain(|(_, since)| now.saturating_duration_since(*since) < LATE);
            !ended.is_empty()
        });
    }
}

impl Endpoints {
    /// Gives a runtime an address of a subnet, for an endpoint to come: the one that is
    /// `wanted`, which a user named if `asked`, or any that nobody has or keeps.
    pub async fn reserve(
        &self,
        network: &Network,
        subnet: &Subnet,
        wanted: Option<IpAddr>,
        asked: bool,
    ) -> Result<IpAddr> {
        self.joined().await?;
        if let Some(addr) = wanted.and_then(|addr| self.reserve_kept(network, addr, asked)) {
            return Ok(addr);
        }
        let holder = new_id()?;
        let narrow = Network { subnets: vec![subnet.clone()], ..network.clone() };
        let request = ipam::Request {
            holder: Holder { endpoint: holder.clone(), name: None, node: None, unknown: Unknown::new() },
            wanted: wanted.into_iter().collect(),
        };
        let (addresses, stashed) = self.allocate(&narrow, &request).await?;
        let addr = *addresses.first().context("no address")?;
        let reservation =
            Reservation { network: network.id, holder, stashed, kept: false, asked, since: Instant::now() };
        self.reservations.lock().insert(addr, reservation);
        Ok(addr)
    }

    /// Takes an address back from a runtime, and the endpoint that still has
    /// it; one that it does not have is fine, and so is one that another has since.
    pub async fn give_up(&self, addr: IpAddr) -> Result<()> {
        if let Some(ended) = self.ended.take(addr, Instant::now()) {
            return self.give_up_of(&ended, addr).await;
        }
        let endpoints = self.journal.endpoints();
        let has = |endpoint: &&Endpoint| endpoint.addresses.contains(&addr);
        let with_handle = |endpoint: &Endpoint| Some((endpoint.id.clone(), endpoint.handle()?.id.clone()));
        if let Some((endpoint, handle)) = endpoints.values().filter(has).find_map(with_handle) {
            self.delete(&handle).await?;
            // That was the giving up.
            self.ended.take(addr, Instant::now());
            return self.give_up_of(&endpoint, addr).await;
        }
        let reservation = self.reservations.lock().remove(&addr);
        if let Some(reservation) = reservation {
            self.give_back(addr, &reservation).await?;
        }
        Ok(())
    }

    /// Gives back an address that is reserved for an endpoint, which has ended; one that
    /// another has, or that is given to the container again, is left alone.
    pub async fn give_up_of(&self, holder: &str, addr: IpAddr) -> Result<()> {
        let reservation = {
            let mut reserved = self.reservations.lock();
            let is_its = reserved
                .get(&addr)
                .is_some_and(|reservation| !reservation.kept && reservation.holder == holder);
            if is_its { reserved.remove(&addr) } else { None }
        };
        match reservation {
            Some(reservation) => self.give_back(addr, &reservation).await,
            None => Ok(()),
        }
    }

    async fn give_back(&self, addr: IpAddr, reservation: &Reservation) -> Result<()> {
        let still = |kept: &Kept| kept.holder == reservation.holder && kept.addresses.contains(&addr);
        if reservation.kept && self.journal.kept().values().any(still) {
            return Ok(());
        }
        self.ipam.forget_one(&reservation.holder, addr).await;
        // A store that is known to be away is not waited for: membership takes
        // the address back once it answers.
        let away = match self.control.refusal() {
            Some(reason) => Some(reason.problem),
            None => {
                let released = self.ipam.release_one(reservation.network, &reservation.holder, addr).await;
                released.err().map(|away| away.to_string())
            }
        };
        if let Some(away) = away {
            self.dirty.store(true, Ordering::Relaxed);
            debug!("address {addr}: {away}");
        }
        Ok(())
    }

    /// Takes back what a runtime asked for and has not used for a while.
    pub async fn end_stale_reservations(&self, patience: Duration) {
        self.ended.forget(Instant::now());
        let stale = |(addr, reservation): (&IpAddr, &Reservation)| {
            (reservation.since.elapsed() >= patience).then_some(*addr)
        };
        let stale: Vec<IpAddr> = self.reservations.lock().iter().filter_map(stale).collect();
        for addr in stale {
            // An endpoint may have it by now.
            let still = |reservation: &Reservation| reservation.since.elapsed() >= patience;
            let reservation = {
                let mut reserved = self.reservations.lock();
                if reserved.get(&addr).is_some_and(still) { reserved.remove(&addr) } else { None }
            };
            let Some(reservation) = reservation else { continue };
            info!("took address {addr} back, which a runtime requested and did not use");
            if let Err(error) = self.give_back(addr, &reservation).await {
                warn!("address {addr}: {error:#}");
            }
        }
    }

    /// Reserves an address that a stopped container keeps; `None` if none does.
    pub(super) fn reserve_kept(&self, network: &Network, addr: IpAddr, asked: bool) -> Option<IpAddr> {
        let kept = self.journal.kept();
        let kept = kept.values().find(|k| k.network == network.id && k.addresses.contains(&addr))?;
        if self.has_endpoint(addr) {
            return None;
        }
        let holder = kept.holder.clone();
        let reservation = Reservation {
            network: network.id,
            holder,
            stashed: false,
            kept: true,
            asked,
            since: Instant::now(),
        };
        let mut reserved = self.reservations.lock();
        if reserved.contains_key(&addr) {
            return None;
        }
        reserved.insert(addr, reservation);
        Some(addr)
    }

    /// The holders of the addresses in the store. Reservations that the agent forgot at a restart
    /// are made again.
    pub(super) async fn holders(&self, network: &Network, addresses: &[IpAddr]) -> Result<Vec<String>> {
        let mut holders = Vec::new();
        for addr in addresses {
            let Some(subnet) = network.subnet_of(*addr) else {
                bail!("address {addr} is not of network {}", network.name);
            };
            if !self.reservations.lock().contains_key(addr) {
                self.reserve(network, subnet, Some(*addr), false).await?;
            }
            // Used from now on, so not to be taken back for its age.
            holders.extend(self.reservations.lock().get_mut(addr).map(|reservation| {
                reservation.since = Instant::now();
                reservation.holder.clone()
            }));
        }
        holders.dedup();
        if holders.is_empty() {
            Err(anyhow!("the agent took the addresses back just now; try again"))
        } else {
            Ok(holders)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn released_address_ends_the_oldest_endpoint_that_had_it_within_the_time_limit() {
        let endpoint = |id: &str| -> Endpoint {
            serde_json::from_value(serde_json::json!({
                "id": id, "network": 1, "network_name": "blue", "addresses": ["10.1.0.2", "fd00:1::2"],
                "mac": "02:00:00:00:00:01", "netns": "", "sandbox": 1, "ifname": "", "host_interface": id,
                "mtu": 1500, "owner": "command",
            }))
            .expect("an endpoint")
        };
        let (ended, now) = (Ended::default(), Instant::now());
        let [v4, v6]: [IpAddr; 2] = ["10.1.0.2", "fd00:1::2"].map(|addr| addr.parse().expect("a literal"));
        ended.note(&endpoint("a"), now);
        ended.note(&endpoint("b"), now + LATE / 2);
        let take = |addr, now| ended.take(addr, now);
        assert_eq!(take(v4, now).as_deref(), Some("a"));
        assert_eq!(take(v4, now).as_deref(), Some("b"));
        assert_eq!(take(v4, now), None, "the address is not one of an ended endpoint any more");
        assert_eq!(take(v6, now + LATE).as_deref(), Some("b"), "the first is not given up any more");
        assert!(ended.take(v6, now + LATE).is_none() && ended.lock().values().all(VecDeque::is_empty));
    }
}
