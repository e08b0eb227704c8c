//! The register of Docker's networks, and the subnets of networks that Docker is creating.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use anyhow::Result;
use ipnet::IpNet;

use super::pool::PoolId;
use crate::journal::{Journal, RuntimeNetwork, Step};

/// The cluster's network of each of Docker's networks. The journal holds the same entries.
pub struct Register {
    journal: Journal,
    entries: Mutex<BTreeMap<String, RuntimeNetwork>>,
    /// Networks that the agent removes from Docker although the cluster keeps them.
    leaving: Mutex<BTreeSet<String>>,
}

impl Register {
    /// Reads the register from the journal.
    pub fn open(journal: Journal) -> Self {
        let entries = Mutex::new(journal.runtime_networks());
        Self { journal, entries, leaving: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, RuntimeNetwork>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All entries, by Docker's id.
    pub fn entries(&self) -> BTreeMap<String, RuntimeNetwork> {
        self.lock().clone()
    }

    /// Writes an entry.
    pub fn put(&self, entry: RuntimeNetwork) -> Result<()> {
        let mut entries = self.lock();
        self.journal.write(Step::default().runtime_network(&entry))?;
        entries.insert(entry.id.clone(), entry);
        Ok(())
    }

    /// Notes that the agent is about to remove a network from Docker. Docker may report the
    /// removal much later, also if a user was faster.
    pub fn leaves(&self, id: &str) {
        self.leaving.lock().unwrap_or_else(PoisonError::into_inner).insert(id.to_owned());
    }

    /// Notes that Docker has removed a network. A network without an entry is one that the agent
    /// removed. Docker also calls this to roll back a network that it fails to create, so for the
    /// `ordered` network only [`Register::made`] decides whether a user removed it.
    pub fn removed(&self, id: &str, ordered: &mut Option<Ordered>) -> Result<()> {
        if self.leaving.lock().unwrap_or_else(PoisonError::into_inner).contains(id) {
            return self.forget(id).map(drop);
        }
        let Some(entry) = self.lock().get(id).cloned() else { return Ok(()) };
        match ordered {
            Some(ordered) if ordered.network == entry.network => {
                ordered.taken_back = self.forget(id)?;
                Ok(())
            }
            _ => self.put(RuntimeNetwork { removed: true, ..entry }),
        }
    }

    /// Docker has created the network that was ordered, or has failed. If it failed, a removal
    /// since then was Docker's roll-back; if it succeeded, a user removed the network.
    pub fn made(&self, ordered: Option<Ordered>, is_made: bool) -> Result<()> {
        match ordered.and_then(|ordered| ordered.taken_back) {
            Some(entry) if is_made => self.put(RuntimeNetwork { removed: true, ..entry }),
            _ => Ok(()),
        }
    }

    /// Removes an entry and returns it.
    pub fn forget(&self, id: &str) -> Result<Option<RuntimeNetwork>> {
        self.forget_of(&mut self.lock(), id)
    }

    /// Removes an entry whose network Docker has lost, unless Docker reported meanwhile that a
    /// user removed the network.
    pub fn forget_lost(&self, id: &str) -> Result<()> {
        let mut entries = self.lock();
        match entries.get(id) {
            Some(entry) if !entry.removed => self.forget_of(&mut entries, id).map(drop),
            _ => Ok(()),
        }
    }

    fn forget_of(
        &self,
        entries: &mut BTreeMap<String, RuntimeNetwork>,
        id: &str,
    ) -> Result<Option<RuntimeNetwork>> {
        if entries.contains_key(id) {
            self.journal.write(Step::default().without_runtime_network(id))?;
        }
        Ok(entries.remove(id))
    }
}

/// The network that Docker makes now because we asked it to.
#[derive(Clone, Debug)]
pub struct Ordered {
    /// Its id in the cluster.
    pub network: u32,
    /// Its subnets, by which Docker's call is recognised.
    pub subnets: BTreeSet<IpNet>,
    /// Its entry in the register, if Docker has removed the network since.
    taken_back: Option<RuntimeNetwork>,
}

impl Ordered {
    /// A network that Docker has not made yet.
    pub fn new(network: u32, subnets: BTreeSet<IpNet>) -> Self {
        Self { network, subnets, taken_back: None }
    }
}

/// How often in a row the subnet of a named network is given out before it counts as one
/// that Docker does not take. Docker asks again at once and for ever; the agent and users
/// who make the same network at a time ask, too, and more of them than these, before the
/// first of them goes on, would be refused.
const ASKS: u32 = 8;

/// Subnets that Docker has asked for, until it made a network of them or gave
/// them up.
#[derive(Debug, Default)]
pub struct Making(Mutex<BTreeMap<IpNet, Asked>>);

#[derive(Clone, Copy, Debug)]
struct Asked {
    pool: PoolId,
    /// Whether it is of our choice, and kept in the store.
    kept: bool,
    /// How many were given it and have neither made a network nor given it up.
    holders: u32,
    /// How often we chose it since Docker last took it.
    asks: u32,
    since: Instant,
}

impl Making {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<IpNet, Asked>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Docker is to be given it, as it asked for it or, with `kept`, by our choice. Not if
    /// it was our choice too often already: then nothing is noted but that the next who
    /// asks is the first again.
    pub fn begin(&self, pool: PoolId, kept: bool) -> bool {
        let mut lock = self.lock();
        let new = Asked { pool, kept, holders: 0, asks: 0, since: Instant::now() };
        let asked = lock.entry(pool.cidr).or_insert(new);
        if kept && asked.asks == ASKS {
            asked.asks = 0;
            return false;
        }
        asked.pool.range = pool.range.or(asked.pool.range);
        asked.kept |= kept;
        asked.holders += 1;
        asked.asks += u32::from(kept);
        asked.since = new.since;
        true
    }

    /// Docker has taken it, since it asks for its gateway.
    pub fn taken(&self, cidr: IpNet) {
        if let Some(asked) = self.lock().get_mut(&cidr) {
            asked.asks = 0;
        }
    }

    /// Whether it is one of our choice.
    pub fn is_kept(&self, cidr: IpNet) -> bool {
        self.lock().get(&cidr).is_some_and(|asked| asked.kept)
    }

    /// Whether it is one of our choice that only one holds.
    pub fn is_last_kept(&self, cidr: IpNet) -> bool {
        self.lock().get(&cidr).is_some_and(|asked| asked.kept && asked.holders == 1)
    }

    /// One that was given it has made a network of it, or given it up.
    pub fn end(&self, cidr: IpNet) {
        let mut lock = self.lock();
        if let Some(asked) = lock.get_mut(&cidr) {
            asked.holders -= 1;
            if asked.holders == 0 {
                lock.remove(&cidr);
            }
        }
    }

    /// The part of a subnet that addresses are to come from: Docker tells it to
    /// the IPAM driver only.
    pub fn range_of(&self, cidr: IpNet) -> Option<IpNet> {
        self.lock().get(&cidr)?.pool.range
    }

    /// Those that were asked for within a time.
    pub fn within(&self, time: Duration) -> BTreeSet<IpNet> {
        let asked = self.lock();
        asked.iter().filter(|(_, asked)| asked.since.elapsed() < time).map(|(cidr, _)| *cidr).collect()
    }

    /// Whether any were asked for longer ago.
    pub fn is_stale(&self, time: Duration) -> bool {
        self.lock().values().any(|asked| asked.since.elapsed() >= time)
    }

    /// Forgets those that were asked for longer ago.
    pub fn forget(&self, time: Duration) {
        self.lock().retain(|_, asked| asked.since.elapsed() < time);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A register with one of Docker's networks, which is the cluster's network 1.
    fn register() -> (tempfile::TempDir, Register) {
        let dir = tempfile::tempdir().expect("a folder");
        let register = Register::open(Journal::open(dir.path()).expect("a journal"));
        let (id, network) = ("a".repeat(64), 1);
        let entry = RuntimeNetwork { id, network, wanted: None, since: 100, chosen: false, removed: false };
        register.put(entry).expect("a disk");
        (dir, register)
    }

    fn is_removed(register: &Register) -> Option<bool> {
        register.entries().into_values().map(|entry| entry.removed).next()
    }

    #[test]
    fn network_that_is_removed_before_its_order_ends_was_removed_by_its_user() {
        for (network, is_made, found) in [(1, true, Some(true)), (1, false, None), (2, true, Some(true))] {
            let (_dir, register) = register();
            let mut ordered = Some(Ordered::new(network, BTreeSet::new()));
            register.removed(&"a".repeat(64), &mut ordered).expect("a disk");
            register.made(ordered, is_made).expect("a disk");
            assert_eq!(is_removed(&register), found, "{network} {is_made}");
        }
    }

    #[test]
    fn network_that_its_user_removes_meanwhile_is_not_forgotten_as_lost() {
        let (_dir, register) = register();
        register.removed(&"a".repeat(64), &mut None).expect("a disk");
        register.forget_lost(&"a".repeat(64)).expect("a disk");
        assert_eq!(is_removed(&register), Some(true));
    }

    fn pool(text: &str) -> PoolId {
        text.parse().expect("a literal")
    }

    #[test]
    fn shared_reservation_ends_with_its_last_holder() {
        let making = Making::default();
        let (plain, ranged) = (pool("10.1.0.0/16"), pool("10.1.0.0/16 from 10.1.5.0/24"));
        assert!(making.begin(ranged, true) && making.begin(plain, false));
        assert_eq!(making.range_of(plain.cidr), ranged.range, "who says nothing of it takes nothing away");
        assert!(!making.is_last_kept(plain.cidr));
        making.end(plain.cidr);
        assert!(making.is_last_kept(plain.cidr));
        making.end(plain.cidr);
        making.end(plain.cidr);
        assert!(making.within(Duration::MAX).is_empty());
    }

    #[test]
    fn repeated_unused_requests_are_refused() {
        let (making, pool) = (Making::default(), pool("10.1.0.0/16"));
        assert!((0..ASKS).all(|_| making.begin(pool, true)));
        assert!(making.begin(pool, false), "who names the subnet is not who asks again");
        assert!(!making.begin(pool, true));
        assert!(making.begin(pool, true));
    }
}
