//! The journal of agents that kept each entry in a file of its own. It is taken over when
//! this agent starts for the first time.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::Result;
use serde_json::{Value, json};

use super::{
    aside::{Aside, BAD},
    disk::{entries, read, remove},
    entry::{Place, Table},
};
use crate::files::{private_dir, replace};

/// Their folders below the state folder. A file is `<key>.json`.
const FOLDERS: [(&str, Table); 4] = [
    ("endpoints", Table::Endpoints),
    ("kept", Table::Kept),
    ("networks", Table::Networks),
    ("docker", Table::RuntimeNetworks),
];
/// A file among them that tells an older agent to leave the host alone: it would find no
/// endpoint, and take what they have for nobody's. An agent ends at an entry of a version
/// that is not its own.
const FENCE: &str = "endpoints/moved.json";
const FENCED: &str = r#"{"v":2,"moved":"journal.redb"}"#;

/// An entry in a file of its own.
pub(super) struct Old {
    pub path: PathBuf,
    pub place: Place,
    pub bytes: Vec<u8>,
}

/// The entries of such a journal.
pub(super) fn all(dir: &Path) -> Result<Vec<Old>> {
    let mut all = Vec::new();
    for (path, place) in with_ending(dir, "json")? {
        if path == dir.join(FENCE) {
            continue;
        }
        if let Some(bytes) = read(&path)? {
            let bytes = if place.0 == Table::Endpoints { of_today(&bytes).unwrap_or(bytes) } else { bytes };
            all.push(Old { path, place, bytes });
        }
    }
    Ok(all)
}

/// An endpoint as this agent writes it: it had a flag, and what Docker knows of it; `None` for
/// what is no endpoint.
fn of_today(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut endpoint: serde_json::Map<String, Value> = serde_json::from_slice(bytes).ok()?;
    let joined = endpoint.remove("ready").is_some_and(|ready| ready == true);
    endpoint.insert("stage".into(), if joined { "joined" } else { "created" }.into());
    if let Some(mut handle) = endpoint.remove("docker").filter(|handle| !handle.is_null()) {
        handle.as_object_mut()?.insert("runtime".into(), "docker".into());
        endpoint.insert("owner".into(), json!({"runtime": handle}));
    }
    serde_json::to_vec(&endpoint).ok()
}

/// Moves what was set aside to where this agent sets it aside.
pub(super) fn take_aside(dir: &Path, aside: &Aside) -> Result<()> {
    with_ending(dir, BAD)?.into_iter().try_for_each(|(path, place)| aside.take(&place, &path))
}

/// Whether such a journal was taken over: its files may come back after a power cut.
pub(super) fn is_replaced(dir: &Path) -> Result<bool> {
    Ok(read(&dir.join(FENCE))?.as_deref() == Some(FENCED.as_bytes()))
}

/// Removes such a journal, and keeps older agents from this host.
pub(super) fn replace_by_fence(dir: &Path, all: &[Old]) -> Result<()> {
    if !is_replaced(dir)? {
        private_dir(&dir.join(FOLDERS[0].0))?;
        replace(&dir.join(FENCE), FENCED.as_bytes())?;
    }
    all.iter().try_for_each(|old| remove(&old.path))?;
    for (path, _) in with_ending(dir, "new")? {
        remove(&path)?;
    }
    FOLDERS.iter().for_each(|(folder, _)| drop(fs::remove_dir(dir.join(folder))));
    Ok(())
}

/// Removes such a journal, and the fence.
pub(super) fn erase(dir: &Path) -> Result<()> {
    for ending in ["json", "new", BAD] {
        with_ending(dir, ending)?.iter().try_for_each(|(path, _)| remove(path))?;
    }
    FOLDERS.iter().for_each(|(folder, _)| drop(fs::remove_dir(dir.join(folder))));
    Ok(())
}

fn with_ending(dir: &Path, ending: &str) -> Result<Vec<(PathBuf, Place)>> {
    let mut found = Vec::new();
    for (folder, table) in FOLDERS {
        for path in entries(&dir.join(folder))? {
            if path.extension().is_some_and(|extension| extension == ending) {
                let key = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
                found.push((path, (table, key)));
            }
        }
    }
    Ok(found)
}
