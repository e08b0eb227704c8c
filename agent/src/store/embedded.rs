//! The store of a single host: a database in a file, durable when a commit
//! returns, open in one agent at a time.

use std::{
    fmt,
    fs::{self, File},
    net::IpAddr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use anyhow::{Context, Result, bail};
use futures::{
    FutureExt,
    future::{BoxFuture, ready},
};
use nix::fcntl::{Flock, FlockArg};
use redb::{Database, DatabaseError, ReadableDatabase, ReadableTable, TableDefinition};
use tokio::{sync::mpsc, task::spawn_blocking, time::sleep};

use super::{
    Announcement, Away, Commit, Condition, Feed, Kind, Listing, Op, Store, Txn, Unwritable, again, note,
    tell_writable,
};
use crate::model::{
    key::{Key, Prefix},
    snapshot::Event,
};

/// Values by key, each with the revision of its last change.
const VALUES: TableDefinition<'_, &str, (i64, &[u8])> = TableDefinition::new("values");
/// Numbers by name.
const META: TableDefinition<'_, &str, i64> = TableDefinition::new("meta");
/// The store's revision among them.
const REVISION: &str = "revision";
/// Bytes that the disk of a store has to have for it to take writes again.
const SPACE: usize = 1 << 18;
/// What is written to see whether anything can be.
const TRIAL: &str = "trial";
/// The database's file in the store's folder.
const FILE: &str = "margay.redb";

/// How a database is opened; again after an error, which redb asks for.
type Open = Box<dyn Fn() -> Result<Database, DatabaseError> + Send + Sync>;

/// The store of a single host.
#[derive(Clone)]
pub struct Embedded {
    inner: Arc<Inner>,
}

struct Inner {
    open: Open,
    /// The database's file.
    path: PathBuf,
    state: Mutex<State>,
    unwritable: Unwritable,
}

#[derive(Default)]
struct State {
    database: Option<Database>,
    /// Whether what an earlier agent left was cleared away.
    prepared: bool,
    /// The watchers. They get commits in order, since a commit holds the state until every
    /// watcher has it.
    watchers: Vec<Watcher>,
}

/// Somebody who watches parts of the store.
struct Watcher {
    prefixes: Vec<Prefix>,
    send: mpsc::Sender<Feed>,
}

impl Watcher {
    /// Tells what concerns it of a transaction's changes; whether it still listens.
    fn hears(&self, revision: i64, events: &[Event]) -> bool {
        let concerns =
            |event: &&Event| Prefix::of(event.key()).is_some_and(|prefix| self.prefixes.contains(&prefix));
        let events: Vec<Event> = events.iter().filter(concerns).cloned().collect();
        let whole = self.prefixes.clone();
        events.is_empty() || self.send.blocking_send(Feed::Events { revision, whole, events }).is_ok()
    }
}

impl fmt::Debug for Embedded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("embedded store")
    }
}

impl Embedded {
    /// Opens the store in a folder, or makes it there.
    pub fn open(dir: &Path) -> Result<Self> {
        fs::create_dir_all(dir).with_context(|| format!("{}", dir.display()))?;
        let path = file(dir);
        if let Err(error) = create(dir, &path) {
            bail!(explain(&path, error));
        }
        let open = {
            let path = path.clone();
            Box::new(move || Database::create(&path))
        };
        let store = Self::with(open, path.clone());
        match store.inner.prepare() {
            Ok(()) => {}
            // What is in it can be read, and the disk may have space again later.
            Err(error) if is_full(&error) => note(&store.inner.unwritable, Some(&away(&path, &error))),
            Err(error) => bail!(explain(&path, error)),
        }
        Ok(store)
    }

    fn with(open: Open, path: PathBuf) -> Self {
        let (state, unwritable) = (Mutex::default(), Unwritable::default());
        Self { inner: Arc::new(Inner { open, path, state, unwritable }) }
    }

    /// A store that is gone with the test.
    #[cfg(test)]
    pub fn in_memory() -> Arc<Self> {
        let open = || Database::builder().create_with_backend(redb::backends::InMemoryBackend::new());
        Arc::new(Self::with(Box::new(open), "memory".into()))
    }

    async fn run<T: Send + 'static>(
        &self,
        what: impl FnOnce(&Inner) -> Result<T, redb::Error> + Send + 'static,
    ) -> Result<T, Away> {
        let inner = Arc::clone(&self.inner);
        let path = self.inner.path.clone();
        match spawn_blocking(move || what(&inner)).await {
            Ok(result) => result.map_err(|error| away(&path, &error)),
            Err(_) => Err(Away::new("the agent is ending", "start it again")),
        }
    }

    /// Tries whether something can be written, where that failed.
    async fn try_to_write(&self) {
        if self.inner.unwritable.borrow().is_some() && self.run(Inner::try_to_write).await.is_ok() {
            note(&self.inner.unwritable, None);
        }
    }
}

fn is_full(error: &redb::Error) -> bool {
    use std::io::ErrorKind::{QuotaExceeded, ReadOnlyFilesystem, StorageFull};
    matches!(error, redb::Error::Io(error) if matches!(error.kind(), StorageFull | QuotaExceeded | ReadOnlyFilesystem))
}

/// What is wrong with the database, and what to do.
fn away(path: &Path, error: &redb::Error) -> Away {
    let path = path.display();
    let kind = if is_full(error) { Kind::ReadOnly } else { Kind::Away };
    let (problem, mend) = match error {
        redb::Error::Io(error) => {
            let what = error.kind();
            (
                format!("{path} cannot be written or read: {what}"),
                "check that its disk has space and no errors",
            )
        }
        redb::Error::Corrupted(what) => {
            (format!("{path} is damaged: {what}"), "put a copy in its place: margay store import")
        }
        error => (format!("{path}: {error}"), "check its disk for errors"),
    };
    Away { kind, problem, mend: mend.into() }
}

/// Makes the database's file, whole or not at all: redb's own first writes are
/// not one step, so they happen under another name.
fn create(dir: &Path, path: &Path) -> Result<(), redb::Error> {
    let dir = File::open(dir)?;
    let locked = Flock::lock(dir.try_clone()?, FlockArg::LockExclusive);
    let _alone = locked.map_err(|(_, errno)| std::io::Error::from(errno))?;
    if path.exists() {
        return Ok(());
    }
    let draft = path.with_extension("new");
    if draft.exists() {
        fs::remove_file(&draft)?;
    }
    prepare(&Database::create(&draft)?)?;
    File::open(&draft)?.sync_all()?;
    fs::rename(&draft, path)?;
    Ok(dir.sync_all()?)
}

/// Why the database does not open, and what to do.
fn explain(path: &Path, error: redb::Error) -> String {
    let path = path.display();
    match error {
        redb::Error::DatabaseAlreadyOpen => format!(
            "another agent has the store {path} open, and an embedded store serves one agent; stop that agent, \
             name another folder (--store embedded:DIR), or use etcd for several"
        ),
        redb::Error::Corrupted(_) | redb::Error::UpgradeRequired(_) => format!(
            "{path}: {error}; move the file away to begin with an empty store, or put a copy in its place"
        ),
        redb::Error::Io(error) => {
            format!("{path}: {}; check that its disk has space and no errors", error.kind())
        }
        error => format!("{path}: {error}"),
    }
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing is left half-done in it by a panic: the database has its own
        // transactions.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Clears away what an earlier agent left, which nothing is written before.
    fn prepare(&self) -> Result<(), redb::Error> {
        self.write(&mut self.state(), |_| Ok(()))
    }

    /// The same as [`Self::with_database`] for what writes.
    fn write<T>(
        &self,
        state: &mut State,
        run: impl FnOnce(&Database) -> Result<T, redb::Error>,
    ) -> Result<T, redb::Error> {
        if !state.prepared {
            self.with_database(state, prepare)?;
            state.prepared = true;
        }
        self.with_database(state, run)
    }

    /// The same for what reads: it does without the clearing if that cannot be.
    fn read<T>(
        &self,
        state: &mut State,
        run: impl FnOnce(&Database) -> Result<T, redb::Error>,
    ) -> Result<T, redb::Error> {
        match self.write(state, |_| Ok(())) {
            Err(error) if !is_full(&error) => Err(error),
            _ => self.with_database(state, run),
        }
    }

    /// Writes something of no meaning: where there is no space for a transaction, a
    /// smaller one may still find some inside of the file.
    fn try_to_write(&self) -> Result<(), redb::Error> {
        let trial = self.path.with_extension("trial");
        let written = fs::write(&trial, vec![1; SPACE]).and_then(|()| File::open(&trial)?.sync_all());
        // What was written in part goes, too.
        let removed = fs::remove_file(&trial);
        written.and(removed)?;
        self.write(&mut self.state(), |database| {
            let write = database.begin_write()?;
            write.open_table(META)?.insert(TRIAL, 0)?;
            Ok(write.commit()?)
        })
    }

    /// Runs something with the database, opening it if need be. After an error
    /// it is closed.
    fn with_database<T>(
        &self,
        state: &mut State,
        run: impl FnOnce(&Database) -> Result<T, redb::Error>,
    ) -> Result<T, redb::Error> {
        let database = match state.database.take() {
            Some(database) => database,
            None => (self.open)()?,
        };
        let result = run(&database)?;
        state.database = Some(database);
        Ok(result)
    }

    fn list(&self, prefixes: &[String]) -> Result<Listing, redb::Error> {
        self.read(&mut self.state(), |database| list(database, prefixes))
    }

    fn commit(&self, txn: &Txn) -> Result<Commit, redb::Error> {
        let mut state = self.state();
        let (commit, events) = self.write(&mut state, |database| commit(database, txn))?;
        if let Commit::Done(revision) = commit {
            state.watchers.retain(|watcher| watcher.hears(revision, &events));
        }
        Ok(commit)
    }

    fn watch(&self, watcher: Watcher) -> Result<(), redb::Error> {
        let mut state = self.state();
        let texts: Vec<String> = watcher.prefixes.iter().map(Prefix::to_string).collect();
        let listing = self.read(&mut state, |database| list(database, &texts))?;
        if watcher.send.blocking_send(Feed::Listing(listing)).is_ok() {
            state.watchers.push(watcher);
        }
        Ok(())
    }
}

/// Makes the tables. Nodes that were alive when the store was last open are not alive now.
fn prepare(database: &Database) -> Result<(), redb::Error> {
    let write = database.begin_write()?;
    {
        write.open_table(META)?;
        let mut values = write.open_table(VALUES)?;
        let alive = Prefix::Alive;
        values.retain_in(&*alive.to_string()..&*alive.end(), |_, _| false)?;
    }
    Ok(write.commit()?)
}

fn list(database: &Database, prefixes: &[String]) -> Result<Listing, redb::Error> {
    let read = database.begin_read()?;
    let revision = read.open_table(META)?.get(REVISION)?.map_or(0, |found| found.value());
    let values = read.open_table(VALUES)?;
    let mut entries = Vec::new();
    for prefix in prefixes {
        for entry in values.range(&**prefix..)? {
            let (key, value) = entry?;
            if !key.value().starts_with(prefix) {
                break;
            }
            let (revision, value) = value.value();
            entries.push(Event::Put { key: key.value().into(), value: value.into(), revision });
        }
    }
    Ok(Listing { revision, entries })
}

/// Carries a transaction out, and gives the changes.
fn commit(database: &Database, txn: &Txn) -> Result<(Commit, Vec<Event>), redb::Error> {
    let write = database.begin_write()?;
    let mut events = Vec::new();
    let revision;
    {
        let mut meta = write.open_table(META)?;
        let mut values = write.open_table(VALUES)?;
        revision = meta.get(REVISION)?.map_or(0, |found| found.value()) + 1;
        for condition in &txn.conditions {
            if !holds(&values, condition)? {
                return Ok((Commit::Conflict, events));
            }
        }
        for op in &txn.ops {
            carry_out(&mut values, op, revision, &mut events)?;
        }
        meta.insert(REVISION, revision)?;
    }
    write.commit()?;
    Ok((Commit::Done(revision), events))
}

fn holds(
    values: &impl ReadableTable<&'static str, (i64, &'static [u8])>,
    condition: &Condition,
) -> Result<bool, redb::Error> {
    let revision = |key: &Key| Ok(values.get(&*key.to_string())?.map(|found| found.value().0));
    match condition {
        Condition::Absent(key) => revision(key).map(|found| found.is_none()),
        Condition::Revision(key, wanted) => revision(key).map(|found| found == Some(*wanted)),
        Condition::UnchangedSince(prefix, since) => {
            for entry in values.range(&**prefix..)? {
                let (key, value) = entry?;
                if !key.value().starts_with(prefix) {
                    break;
                }
                if value.value().0 > *since {
                    return Ok(false);
                }
            }
            Ok(true)
        }
    }
}

fn carry_out(
    values: &mut redb::Table<'_, &'static str, (i64, &'static [u8])>,
    op: &Op,
    revision: i64,
    events: &mut Vec<Event>,
) -> Result<(), redb::Error> {
    match op {
        Op::Put(key, value) => {
            let key = key.to_string();
            values.insert(&*key, (revision, &**value))?;
            events.push(Event::Put { key, value: value.clone(), revision });
        }
        Op::Delete(key) => {
            let key = key.to_string();
            if values.remove(&*key)?.is_some() {
                events.push(Event::Delete { key });
            }
        }
        Op::DeletePrefix(prefix) => {
            let mut keys = Vec::new();
            for entry in values.range(&**prefix..)? {
                let key = entry?.0.value().to_owned();
                if !key.starts_with(prefix) {
                    break;
                }
                keys.push(key);
            }
            for key in keys {
                values.remove(&*key)?;
                events.push(Event::Delete { key });
            }
        }
    }
    Ok(())
}

impl Store for Embedded {
    fn list<'a>(&'a self, prefixes: &'a [String]) -> BoxFuture<'a, Result<Listing, Away>> {
        let prefixes = prefixes.to_vec();
        self.run(move |inner| inner.list(&prefixes)).boxed()
    }

    fn commit(&self, txn: Txn) -> BoxFuture<'_, Result<Commit, Away>> {
        async move {
            let committed = self.run(move |inner| inner.commit(&txn)).await;
            match &committed {
                Ok(Commit::Done(_)) => note(&self.inner.unwritable, None),
                Err(away) if away.kind == Kind::ReadOnly => note(&self.inner.unwritable, Some(away)),
                Ok(Commit::Conflict) | Err(_) => {}
            }
            committed
        }
        .boxed()
    }

    fn addresses(&self) -> BoxFuture<'_, Vec<IpAddr>> {
        Box::pin(ready(Vec::new()))
    }

    fn watch(&self, prefixes: &[Prefix]) -> mpsc::Receiver<Feed> {
        let (send, receive) = mpsc::channel(64);
        let (store, prefixes) = (self.clone(), prefixes.to_vec());
        tokio::spawn(async move {
            let mut again = again();
            loop {
                let watcher = Watcher { prefixes: prefixes.clone(), send: send.clone() };
                let Err(away) = store.run(move |inner| inner.watch(watcher)).await else { break };
                let wait = again.failed(&away);
                if send.send(Feed::Away(away)).await.is_err() {
                    return;
                }
                sleep(wait).await;
            }
            tell_writable(&store.inner.unwritable, || store.try_to_write(), send).await;
        });
        receive
    }

    fn announce(&self, key: Key, value: Vec<u8>) -> Announcement {
        let store = self.clone();
        let task = tokio::spawn(async move {
            let mut again = again();
            loop {
                let ops = vec![Op::Put(key.clone(), value.clone())];
                let Err(away) = store.commit(Txn { conditions: Vec::new(), ops }).await else { return };
                sleep(again.failed(&away)).await;
            }
        });
        Announcement(task.abort_handle())
    }
}

/// Where the store's file is in its folder.
pub fn file(dir: &Path) -> PathBuf {
    dir.join(FILE)
}

#[cfg(test)]
mod tests;
