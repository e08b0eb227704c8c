//! What was set aside, since nothing is to be done on its word: an entry in a file of its
//! own in `aside/`, and a broken database as a whole. It is told until an operator has
//! removed the file.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use anyhow::{Context, Result};
use tracing::warn;

use super::{
    disk::{entries, read, remove},
    entry::{Fault, Place, Table, parse},
};
use crate::{
    files::{private_dir, replace},
    problem::Problem,
};

/// The folder below the state folder.
const FOLDER: &str = "aside";
/// The ending of what was set aside.
pub(super) const BAD: &str = "bad";
/// How long the part of a file's name is that comes from an entry's key, characters.
const KEY_MAX: usize = 128;
/// Why something was set aside, where that cannot be found out again.
const OF_THAT_TIME: &str = "see the agent's log of that time";

/// What was set aside in a state folder.
#[derive(Clone, Debug)]
pub(super) struct Aside {
    dir: PathBuf,
    /// Files, and what is told while they are there.
    told: Arc<Mutex<Vec<(PathBuf, Problem)>>>,
}

impl Aside {
    /// Finds what earlier agents set aside.
    pub fn of(state_dir: &Path) -> Result<Self> {
        let aside = Self { dir: state_dir.join(FOLDER), told: Arc::default() };
        for path in entries(&aside.dir)? {
            if path.extension().is_some_and(|extension| extension == BAD) {
                let reason = match place_of(&path) {
                    Some(place) => fault(&place, &read(&path)?.unwrap_or_default()),
                    None => OF_THAT_TIME.into(),
                };
                aside.tell(&path, &reason);
            }
        }
        Ok(aside)
    }

    fn lock(&self) -> MutexGuard<'_, Vec<(PathBuf, Problem)>> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The problems of entries whose files still exist.
    pub fn problems(&self) -> Vec<Problem> {
        let told = self.lock();
        told.iter().filter(|(path, _)| path.exists()).map(|(_, problem)| problem.clone()).collect()
    }

    /// Sets an entry aside.
    pub fn entry(&self, place: &Place, bytes: &[u8], reason: &str) -> Result<()> {
        let path = self.path_of(place)?;
        warn!("journal entry {} of {} set aside as {}: {reason}", place.1, place.0.name(), path.display());
        replace(&path, bytes)?;
        self.tell(&path, reason);
        Ok(())
    }

    /// Sets the database aside.
    pub fn whole(&self, database: &Path, reason: &str) -> Result<()> {
        private_dir(&self.dir)?;
        let name = database.file_name().unwrap_or_default().to_string_lossy();
        let path = self.dir.join(format!("{name}.{BAD}"));
        warn!("{} is damaged and set aside as {}: {reason}", database.display(), path.display());
        fs::rename(database, &path).with_context(|| format!("{}", database.display()))?;
        self.tell(&path, reason);
        Ok(())
    }

    /// Takes over what an agent set aside that kept the journal in files.
    pub fn take(&self, place: &Place, file: &Path) -> Result<()> {
        let (path, reason) = (self.path_of(place)?, fault(place, &read(file)?.unwrap_or_default()));
        fs::rename(file, &path).with_context(|| format!("{}", file.display()))?;
        self.tell(&path, &reason);
        Ok(())
    }

    /// Tells of what is bad in a file and is left there: its agent does not run.
    pub fn note(&self, file: &Path, reason: &str) {
        let what = format!("an entry of the journal in {} is not used: {reason}", file.display());
        self.lock().push((file.to_owned(), Problem::new(what, "start the agent: it sets the entry aside")));
    }

    fn tell(&self, path: &Path, reason: &str) {
        let named = path.display();
        let problem = if place_of(path).is_some() {
            Problem::new(
                format!(
                    "a broken journal entry was set aside in {named}, so its container is cut off: {reason}"
                ),
                format!("attach the container again if it runs, then: rm {named}"),
            )
        } else {
            Problem::new(
                format!("the journal is broken and was set aside in {named}: {reason}"),
                format!("attach the containers of this host again that run, then: rm {named}"),
            )
        };
        let mut told = self.lock();
        told.retain(|(other, _)| other != path);
        told.push((path.to_owned(), problem));
    }

    /// Where an entry is set aside.
    fn path_of(&self, (table, key): &Place) -> Result<PathBuf> {
        private_dir(&self.dir)?;
        let plain = |c: char| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' };
        let key: String = key.chars().take(KEY_MAX).map(plain).collect();
        Ok(self.dir.join(format!("{}-{key}.{BAD}", table.name())))
    }
}

/// Removes all that was set aside.
pub(super) fn erase(state_dir: &Path) -> Result<()> {
    let dir = state_dir.join(FOLDER);
    for path in entries(&dir)? {
        if path.extension().is_some_and(|extension| extension == BAD || extension == "new") {
            remove(&path)?;
        }
    }
    drop(fs::remove_dir(&dir));
    Ok(())
}

/// The entry whose file this is.
fn place_of(path: &Path) -> Option<Place> {
    let stem = path.file_stem()?.to_str()?;
    let of = |table: Table| Some((table, stem.strip_prefix(table.name())?.strip_prefix('-')?.to_owned()));
    Table::ALL.into_iter().find_map(of)
}

/// What is wrong with an entry that was set aside.
fn fault(place: &Place, bytes: &[u8]) -> String {
    match parse(place, bytes) {
        Err(Fault::Bad(reason)) => reason,
        Err(Fault::Version(_)) | Ok(_) => OF_THAT_TIME.into(),
    }
}
