//! What has to be remembered of Docker's networks between its calls.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use anyhow::Result;
use ipnet::IpNet;

use super::pool::PoolId;
use crate::journal::{DockerNetwork, Journal};

/// Which network of the cluster each of Docker's is; in the journal, too.
pub struct Book {
    journal: Journal,
    entries: Mutex<BTreeMap<String, DockerNetwork>>,
}

impl Book {
    /// Reads it from the journal.
    pub fn open(journal: Journal) -> Result<Self> {
        let entries = Mutex::new(journal.docker_networks()?);
        Ok(Self { journal, entries })
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, DockerNetwork>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All of it, by Docker's id.
    pub fn entries(&self) -> BTreeMap<String, DockerNetwork> {
        self.lock().clone()
    }

    /// Writes an entry.
    pub fn put(&self, entry: DockerNetwork) -> Result<()> {
        let mut entries = self.lock();
        self.journal.put_docker_network(&entry)?;
        entries.insert(entry.id.clone(), entry);
        Ok(())
    }

    /// Notes that Docker has removed a network. One that nobody knows is fine:
    /// we removed it ourselves.
    pub fn removed(&self, id: &str) -> Result<()> {
        let found = self.lock().get(id).cloned();
        found.map_or(Ok(()), |entry| self.put(DockerNetwork { removed: true, ..entry }))
    }

    /// Forgets an entry, and gives it.
    pub fn forget(&self, id: &str) -> Result<Option<DockerNetwork>> {
        let mut entries = self.lock();
        if entries.contains_key(id) {
            self.journal.remove_docker_network(id)?;
        }
        Ok(entries.remove(id))
    }
}

/// Subnets that Docker has asked for, until it made a network of them or gave
/// them up.
#[derive(Debug, Default)]
pub struct Making(Mutex<BTreeMap<IpNet, (PoolId, Instant)>>);

impl Making {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<IpNet, (PoolId, Instant)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Docker asked for it.
    pub fn begin(&self, pool: PoolId) {
        self.lock().insert(pool.cidr, (pool, Instant::now()));
    }

    /// Docker has made a network of it, or given it up.
    pub fn end(&self, cidr: IpNet) {
        self.lock().remove(&cidr);
    }

    /// The part of a subnet that addresses are to come from: Docker tells it to
    /// the IPAM driver only.
    pub fn range_of(&self, cidr: IpNet) -> Option<IpNet> {
        self.lock().get(&cidr)?.0.range
    }

    /// Those that were asked for within a time.
    pub fn within(&self, time: Duration) -> BTreeSet<IpNet> {
        self.lock().iter().filter(|(_, (_, since))| since.elapsed() < time).map(|(cidr, _)| *cidr).collect()
    }

    /// Forgets those that were asked for longer ago. Whether there were any.
    pub fn forget(&self, time: Duration) -> bool {
        let mut making = self.lock();
        let before = making.len();
        making.retain(|_, (_, since)| since.elapsed() < time);
        making.len() < before
    }
}
