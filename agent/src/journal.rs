//! What the node remembers on disk, so that it is known before the store
//! answers and after a crash at any moment: its endpoints, their networks with
//! its stash, its cluster, and the last good values of what cannot be read.
//!
//! ```text
//! journal.redb           the database, with these tables
//!   endpoints            the endpoints of this host, by id
//!   kept                 what a runtime's containers keep, by container and network
//!   networks             the networks of those, with the stash, by id
//!   runtime-networks     which network of ours a runtime's is, by the runtime's id
//! aside/*.bad            what was set aside
//! instance               who this state folder belongs to
//! cluster.json           the cluster as it was last seen
//! last-good.json         values whose present ones cannot be read
//! endpoints/moved.json   keeps agents away that know no database
//! ```
//!
//! The folder is its owner's alone. One step of an endpoint's life is one durable
//! transaction ([`Step`]). An entry that is not what it should be is set aside, and so is
//! the database if it is broken: nothing is done on their word.

mod aside;
mod check;
mod database;
mod disk;
mod entry;
mod old;
mod single;
mod step;

use std::{
    collections::BTreeMap,
    mem,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
};

use anyhow::{Context, Result, bail};
use tracing::warn;

use self::{
    aside::Aside,
    database::{Database, Rows},
    entry::{Changes, Fault, Place, Record, Records, Table, parse},
};
pub use self::{
    entry::{Member, RuntimeNetwork},
    step::Step,
};
use crate::{
    files::own,
    model::endpoint::{Endpoint, Kept},
    problem::Problem,
};

/// The database's file in the state folder.
const FILE: &str = "journal.redb";

/// What the node remembers.
#[derive(Clone, Debug)]
pub struct Journal {
    dir: PathBuf,
    /// The entries, as the database has them: nobody else writes it.
    held: Arc<Mutex<Records>>,
    /// Steps that are about to be written.
    waiting: Arc<Mutex<Vec<Waiting>>>,
    /// Held by the task that writes; `None` if the agent of this journal does not run.
    database: Arc<Mutex<Option<Database>>>,
    aside: Aside,
}

/// A step, and what becomes of it.
#[derive(Debug)]
struct Waiting {
    step: Step,
    written: Written,
}

type Written = Arc<OnceLock<Result<(), Problem>>>;

impl Journal {
    /// Opens the journal in the state folder. One that an older agent kept in files is
    /// taken over.
    ///
    /// # Errors
    ///
    /// The folder cannot be used, another agent uses it, or a newer one has written what
    /// this one cannot read.
    pub fn open(dir: &Path) -> Result<Self> {
        own(dir)?;
        let aside = Aside::of(dir)?;
        old::take_aside(dir, &aside)?;
        let (database, rows) = Database::open(&dir.join(FILE), aside.clone())?;
        let journal = Self::of(dir, Some(database), aside);
        journal.take(rows)?;
        journal.take_over()?;
        Ok(journal)
    }

    /// Reads the journal of an agent that does not run, and changes nothing.
    ///
    /// # Errors
    ///
    /// The agent runs after all, or its folder cannot be read.
    pub fn peek(dir: &Path) -> Result<Self> {
        let (journal, path) = (Self::of(dir, None, Aside::of(dir)?), dir.join(FILE));
        match database::peek(&path)? {
            None => {}
            Some(Ok(rows)) => journal.take(rows)?,
            Some(Err(reason)) => journal.aside.note(&path, &reason),
        }
        for old in old::all(dir)? {
            match journal.read(&old.place, &old.bytes)? {
                Ok(record) => drop(journal.held().insert(old.place, record)),
                Err(reason) => journal.aside.note(&old.path, &reason),
            }
        }
        Ok(journal)
    }

    fn of(dir: &Path, database: Option<Database>, aside: Aside) -> Self {
        let database = Arc::new(Mutex::new(database));
        Self { dir: dir.to_owned(), held: Arc::default(), waiting: Arc::default(), database, aside }
    }

    /// Takes what the database says, and sets aside what is bad.
    fn take(&self, rows: Rows) -> Result<()> {
        let mut bad = Changes::new();
        for (place, bytes) in rows {
            match self.read(&place, &bytes)? {
                Ok(record) => drop(self.held().insert(place, record)),
                Err(reason) if self.set_aside(&place, &bytes, &reason) => drop(bad.insert(place, None)),
                Err(reason) => self.aside.note(&self.dir.join(FILE), &format!("{}: {reason}", place.1)),
            }
        }
        if let Some(database) = self.database().as_mut()
            && !bad.is_empty()
            && let Err(problem) = database.write(&bad, || self.held().clone())
        {
            warn!("entries that were set aside could not be removed from the journal: {problem}");
        }
        Ok(())
    }

    /// Whether an entry could be set aside: not if it is another agent's, nor on a full disk.
    fn set_aside(&self, place: &Place, bytes: &[u8], reason: &str) -> bool {
        let result = match *self.database() {
            Some(_) => self.aside.entry(place, bytes, reason),
            None => return false,
        };
        result.inspect_err(|error| warn!("entry {} cannot be set aside: {error:#}", place.1)).is_ok()
    }

    /// Takes over a journal of files, in one transaction; only then the files go.
    fn take_over(&self) -> Result<()> {
        let (all, mut step) = (old::all(&self.dir)?, Step::default());
        if old::is_replaced(&self.dir)? {
            // They are in the database already, and what has come since is newer.
            return old::replace_by_fence(&self.dir, &all);
        }
        for old in &all {
            match self.read(&old.place, &old.bytes)? {
                Ok(record) => step = step.put(record),
                Err(reason) => self.aside.entry(&old.place, &old.bytes, &reason)?,
            }
        }
        self.write(step)?;
        old::replace_by_fence(&self.dir, &all)
    }

    /// Reads an entry; the inner error says why it is bad.
    fn read(&self, place: &Place, bytes: &[u8]) -> Result<Result<Record, String>> {
        match parse(place, bytes) {
            Ok(record) => Ok(Ok(record)),
            Err(Fault::Bad(reason)) => Ok(Err(reason)),
            Err(Fault::Version(error)) => bail!(Problem::new(
                format!("entry {} of {} in {} {error}", place.1, place.0.name(), self.dir.display()),
                "start the agent that wrote it, or a newer one"
            )),
        }
    }

    fn held(&self) -> MutexGuard<'_, Records> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn database(&self) -> MutexGuard<'_, Option<Database>> {
        self.database.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn waiting(&self) -> MutexGuard<'_, Vec<Waiting>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What was set aside and is still there.
    pub fn problems(&self) -> Vec<Problem> {
        self.aside.problems()
    }

    /// Carries out a step: when this returns, the whole step is on disk, or nothing. Steps that
    /// wait for the disk at the same time are written together.
    ///
    /// # Errors
    ///
    /// The disk takes no writes.
    pub fn write(&self, step: Step) -> Result<()> {
        let written = Written::default();
        self.waiting().push(Waiting { step, written: Arc::clone(&written) });
        let mut database = self.database();
        if written.get().is_none() {
            self.write_waiting(&mut database);
        }
        match written.get() {
            Some(result) => Ok(result.clone()?),
            None => bail!("the journal was not written: report it with what the agent's log says"),
        }
    }

    /// The same from within the runtime: no thread of it waits for the disk.
    ///
    /// # Errors
    ///
    /// The disk takes no writes.
    pub async fn commit(&self, step: Step) -> Result<()> {
        let journal = self.clone();
        tokio::task::spawn_blocking(move || journal.write(step)).await.context("the agent is ending")?
    }

    fn write_waiting(&self, database: &mut Option<Database>) {
        let waiting = mem::take(&mut *self.waiting());
        let (steps, written): (Vec<Step>, Vec<Written>) =
            waiting.into_iter().map(|waiting| (waiting.step, waiting.written)).unzip();
        let changes = steps.into_iter().flat_map(Step::into_changes).collect();
        let result = self.put_down_with(database, changes);
        for one in written {
            // Nobody else sets it.
            drop(one.set(result.clone()));
        }
    }

    /// Writes what does not stand there like that, and then holds what was written.
    fn put_down_with(&self, database: &mut Option<Database>, mut changes: Changes) -> Result<(), Problem> {
        {
            let held = self.held();
            changes.retain(|place, change| held.get(place) != change.as_ref());
        }
        let Some(database) = database else {
            return Err(Problem::new(
                "this journal is open for reading only, because its agent does not run",
                "start that agent",
            ));
        };
        if changes.is_empty() && database.is_open() {
            return Ok(());
        }
        database.write(&changes, || self.held().clone())?;
        let mut held = self.held();
        for (place, change) in changes {
            match change {
                Some(record) => held.insert(place, record),
                None => held.remove(&place),
            };
        }
        Ok(())
    }

    /// Changes an endpoint and carries out the rest of the step, if the endpoint is there,
    /// and gives what became of it. Nobody else's change of it is lost.
    ///
    /// # Errors
    ///
    /// The disk takes no writes.
    pub fn alter(
        &self,
        id: &str,
        change: impl FnOnce(&mut Endpoint),
        rest: Step,
    ) -> Result<Option<Endpoint>> {
        let mut database = self.database();
        let Some(mut endpoint) = self.endpoint(id) else { return Ok(None) };
        change(&mut endpoint);
        self.put_down_with(&mut database, rest.endpoint(&endpoint).into_changes())?;
        Ok(Some(endpoint))
    }

    /// Forgets what a container keeps on a network, and gives it.
    ///
    /// # Errors
    ///
    /// The disk takes no writes.
    pub fn take_kept(&self, container: &str, network: u32) -> Result<Option<Kept>> {
        let mut database = self.database();
        let found = self.kept().remove(&(container.to_owned(), network));
        let changes = Step::default().without_kept(container, network).into_changes();
        self.put_down_with(&mut database, changes)?;
        Ok(found)
    }

    /// An endpoint by its id.
    pub fn endpoint(&self, id: &str) -> Option<Endpoint> {
        match self.held().get(&(Table::Endpoints, id.to_owned()))? {
            Record::Endpoint(endpoint) => Some(endpoint.clone()),
            _ => None,
        }
    }

    /// All endpoints by id.
    pub fn endpoints(&self) -> BTreeMap<String, Endpoint> {
        self.of_table(Table::Endpoints, |record| match record {
            Record::Endpoint(endpoint) => Some((endpoint.id.clone(), endpoint.clone())),
            _ => None,
        })
    }

    /// What a runtime's containers keep, by container and network.
    pub fn kept(&self) -> BTreeMap<(String, u32), Kept> {
        self.of_table(Table::Kept, |record| match record {
            Record::Kept(kept) => Some(((kept.container.clone(), kept.network), kept.clone())),
            _ => None,
        })
    }

    /// The networks that this node has something of, by id.
    pub fn networks(&self) -> BTreeMap<u32, Member> {
        self.of_table(Table::Networks, |record| match record {
            Record::Network(member) => Some((member.network.id, member.clone())),
            _ => None,
        })
    }

    /// The networks that this host's runtimes have of us, by the runtime's id.
    pub fn runtime_networks(&self) -> BTreeMap<String, RuntimeNetwork> {
        self.of_table(Table::RuntimeNetworks, |record| match record {
            Record::RuntimeNetwork(network) => Some((network.id.clone(), network.clone())),
            _ => None,
        })
    }

    fn of_table<K: Ord, V>(&self, table: Table, entry: impl Fn(&Record) -> Option<(K, V)>) -> BTreeMap<K, V> {
        let held = self.held();
        let from = held.range((table, String::new())..).take_while(|((of, _), _)| *of == table);
        from.filter_map(|(_, record)| entry(record)).collect()
    }

    /// Removes everything that the journal wrote.
    pub fn erase(dir: &Path) -> Result<()> {
        for name in [FILE, "journal.new"] {
            disk::remove(&dir.join(name))?;
        }
        old::erase(dir)?;
        aside::erase(dir)?;
        single::erase(dir)
    }
}

#[cfg(test)]
mod tests;
