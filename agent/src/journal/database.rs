//! The database of the journal: one file, in which one step of an endpoint's life is one
//! durable transaction.

use std::{
    fs::{self, File, OpenOptions},
    io::ErrorKind,
    os::unix::fs::OpenOptionsExt,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use redb::{
    Builder, ReadableDatabase, ReadableTable, StorageBackend, TableDefinition, TableError, WriteTransaction,
    backends::InMemoryBackend,
};

use super::{
    aside::Aside,
    entry::{Changes, Place, Record, Records, Table},
};
use crate::{again::Again, problem::Problem};

/// Bytes of the file that redb may hold in memory. The agent reads it once.
const CACHE: usize = 1 << 20;
/// Permissions of the file.
const MODE: u32 = 0o600;

/// How long an agent that starts waits for who has the database open: a command that reads it
/// is done in a moment.
const PATIENCE: Duration = Duration::from_secs(3);
/// How long it waits between two attempts, at first and in the end.
const BETWEEN: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(200));

/// What stands in the database, not yet looked at.
pub(super) type Rows = Vec<(Place, Vec<u8>)>;

/// The database, open in one agent at a time.
#[derive(Debug)]
pub(super) struct Database {
    path: PathBuf,
    aside: Aside,
    /// `None` after an error: then nobody knows which transaction the file has.
    open: Option<redb::Database>,
}

/// Why a database does not open.
enum Refusal {
    /// It is no database, or a damaged one.
    Broken(String),
    /// Its disk takes no writes, which opening needs.
    Full(Problem),
    /// It cannot be had now.
    Away(Problem),
    /// Another process has it open.
    InUse(Problem),
}

impl Database {
    /// Opens the database at a path, or makes it there. A broken one is set aside as a whole. On
    /// a disk that takes no writes, the database is still read.
    ///
    /// # Errors
    ///
    /// Another process has it open for long, or its disk fails.
    pub fn open(path: &Path, aside: Aside) -> Result<(Self, Rows)> {
        let (open, rows) = match patiently(|| open_or_create(path)) {
            Err(Refusal::Broken(reason)) => {
                aside.whole(path, &reason)?;
                open_or_create(path).map_err(Refusal::into_problem).map(|(open, rows)| (Some(open), rows))?
            }
            Err(Refusal::Full(problem)) if path.exists() => match copy(path)? {
                Ok(rows) => (None, rows),
                Err(_) => return Err(problem.into()),
            },
            other => other.map_err(Refusal::into_problem).map(|(open, rows)| (Some(open), rows))?,
        };
        Ok((Self { path: path.to_owned(), aside, open }, rows))
    }

    /// Writes changes in one durable transaction. After an error the next write writes
    /// all that is `held` as well, since the file may have any of the transactions before.
    pub fn write(&mut self, changes: &Changes, held: impl FnOnce() -> Records) -> Result<(), Problem> {
        let whole = self.open.is_none().then(held);
        let path = self.path.clone();
        let written = self.ready().and_then(|database| {
            let written = commit(database, whole.as_ref(), changes);
            written.map_err(|error| refusal(&path, error).into_problem())
        });
        if written.is_err() {
            self.open = None;
        }
        written
    }

    /// Whether the last write was well, so that the file has what is held.
    pub fn is_open(&self) -> bool {
        self.open.is_some()
    }

    fn ready(&mut self) -> Result<&redb::Database, Problem> {
        if self.open.is_none() {
            let again = open_or_create(&self.path);
            let again = match again {
                Err(Refusal::Broken(reason)) => {
                    let aside = self.aside.whole(&self.path, &reason);
                    aside.map_err(|error| Problem::of(&error, "check the disk for errors"))?;
                    open_or_create(&self.path)
                }
                other => other,
            };
            self.open = Some(again.map_err(Refusal::into_problem)?.0);
        }
        self.open.as_ref().ok_or_else(|| Problem::new("the journal is not open", "see the agent's log"))
    }
}

/// What the database of an agent says that does not run; changes nothing. `None` if there is
/// no database; the inner error says in what way it is broken.
pub(super) fn peek(path: &Path) -> Result<Option<Result<Rows, String>>> {
    let file = match File::open(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        file => file.with_context(|| format!("{}", path.display()))?,
    };
    // Another process that has the database open may write into it.
    if matches!(file.try_lock_shared(), Err(fs::TryLockError::WouldBlock)) {
        let what = format!("an agent has {} open and does not answer", path.display());
        return Err(Problem::new(what, "it starts or ends just now: ask again").into());
    }
    copy(path).map(Some)
}

/// Reads a copy in memory, where a database that was not closed is made good.
fn copy(path: &Path) -> Result<Result<Rows, String>> {
    let bytes = fs::read(path).with_context(|| format!("{}", path.display()))?;
    let backend = InMemoryBackend::new();
    backend.set_len(bytes.len() as u64).and_then(|()| backend.write(0, &bytes))?;
    let opened = checked(path, || Ok(Builder::new().create_with_backend(backend)?));
    Ok(opened.map(|(_, rows)| rows).map_err(|refusal| match refusal {
        Refusal::Broken(reason) => reason,
        other => other.into_problem().problem,
    }))
}

/// Opens the database once nobody else has it open, or gives up after a while.
fn patiently<T>(mut open: impl FnMut() -> Result<T, Refusal>) -> Result<T, Refusal> {
    let (until, mut again) = (Instant::now() + PATIENCE, Again::new(BETWEEN.0, BETWEEN.1));
    loop {
        match open() {
            Err(Refusal::InUse(_)) if Instant::now() < until => thread::sleep(again.wait()),
            result => return result,
        }
    }
}

fn open_or_create(path: &Path) -> Result<(redb::Database, Rows), Refusal> {
    create(path).map_err(|error| refusal(path, error))?;
    // To redb this is a database to be made.
    if fs::metadata(path).is_ok_and(|found| found.len() == 0) {
        return Err(Refusal::Broken("it is empty".into()));
    }
    checked(path, || Ok(Builder::new().set_cache_size(CACHE).open(path)?))
}

/// Opens a database, checks and reads it.
fn checked(
    path: &Path,
    open: impl FnOnce() -> Result<redb::Database, redb::Error>,
) -> Result<(redb::Database, Rows), Refusal> {
    let read = || {
        let mut database = open()?;
        database.check_integrity()?;
        let rows = rows(&database)?;
        Ok((database, rows))
    };
    // What is written in a damaged file may lead redb to an assertion.
    match catch_unwind(AssertUnwindSafe(read)) {
        Ok(result) => result.map_err(|error| refusal(path, error)),
        Err(_) => Err(Refusal::Broken("redb cannot decode it".into())),
    }
}

/// Makes the file, whole or not at all: redb's own first writes are not one step, so they
/// happen under another name.
fn create(path: &Path) -> Result<(), redb::Error> {
    if path.exists() {
        return Ok(());
    }
    let draft = path.with_extension("new");
    let mut options = OpenOptions::new();
    let file = options.read(true).write(true).create(true).truncate(true).mode(MODE).open(&draft)?;
    drop(Builder::new().set_cache_size(CACHE).create_file(file)?);
    File::open(&draft)?.sync_all()?;
    fs::rename(&draft, path)?;
    Ok(path.parent().map_or(Ok(()), |dir| File::open(dir)?.sync_all())?)
}

fn definition(table: Table) -> TableDefinition<'static, &'static str, &'static [u8]> {
    TableDefinition::new(table.name())
}

fn rows(database: &redb::Database) -> Result<Rows, redb::Error> {
    let read = database.begin_read()?;
    let mut rows = Vec::new();
    for table in Table::ALL {
        let entries = match read.open_table(definition(table)) {
            Err(TableError::TableDoesNotExist(_)) => continue,
            entries => entries?,
        };
        for entry in entries.iter()? {
            let (key, value) = entry?;
            rows.push(((table, key.value().to_owned()), value.value().to_owned()));
        }
    }
    Ok(rows)
}

/// One transaction: with `whole`, of these entries and no others before the changes.
fn commit(database: &redb::Database, whole: Option<&Records>, changes: &Changes) -> Result<(), redb::Error> {
    let write = database.begin_write()?;
    if let Some(records) = whole {
        for table in Table::ALL {
            write.delete_table(definition(table))?;
        }
        for (place, record) in records {
            put(&write, place, record)?;
        }
    }
    for (place, change) in changes {
        match change {
            Some(record) => put(&write, place, record)?,
            None => drop(write.open_table(definition(place.0))?.remove(&*place.1)?),
        }
    }
    Ok(write.commit()?)
}

fn put(write: &WriteTransaction, (table, key): &Place, record: &Record) -> Result<(), redb::Error> {
    write.open_table(definition(*table))?.insert(&**key, &*record.encode())?;
    Ok(())
}

fn refusal(path: &Path, error: redb::Error) -> Refusal {
    use ErrorKind::{
        InvalidData, InvalidInput, QuotaExceeded, ReadOnlyFilesystem, StorageFull, UnexpectedEof,
    };
    let named = path.display();
    match error {
        redb::Error::DatabaseAlreadyOpen => Refusal::InUse(Problem::new(
            format!("another process has {named} open"),
            "if it is another agent, end that one, or name another folder with --state-dir",
        )),
        redb::Error::UpgradeRequired(version) => Refusal::Away(Problem::new(
            format!("{named} has version {version} of its format, which this agent does not read"),
            "start the agent that wrote it, or a newer one",
        )),
        redb::Error::Io(error) => match error.kind() {
            InvalidData | InvalidInput | UnexpectedEof => Refusal::Broken(error.to_string()),
            kind => {
                let what = format!("{named} cannot be written or read: {error}");
                let problem = Problem::new(what, "check that its disk has space and no errors");
                match kind {
                    StorageFull | QuotaExceeded | ReadOnlyFilesystem => Refusal::Full(problem),
                    _ => Refusal::Away(problem),
                }
            }
        },
        error => Refusal::Broken(error.to_string()),
    }
}

impl Refusal {
    fn into_problem(self) -> Problem {
        match self {
            Self::Broken(reason) => Problem::new(
                format!("the journal is damaged: {reason}"),
                "check its disk for errors, then start the agent again",
            ),
            Self::Full(problem) | Self::Away(problem) | Self::InUse(problem) => problem,
        }
    }
}

#[cfg(test)]
impl Database {
    /// As after an error.
    pub fn close(&mut self) {
        self.open = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn starting_agent_waits_for_a_reader_of_the_journal() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("journal.redb");
        drop(open_or_create(&path).unwrap_or_else(|refusal| panic!("{}", refusal.into_problem())));
        let reader = File::open(&path).expect("it is there");
        reader.lock_shared().expect("nobody has it");
        let (mut reader, mut in_use) = (Some(reader), 0);
        let opened = patiently(|| {
            let opened = open_or_create(&path);
            in_use += usize::from(matches!(opened, Err(Refusal::InUse(_))));
            // The reader is done.
            reader.take();
            opened
        });
        assert!(opened.is_ok() && in_use == 1, "{in_use}");
    }
}
