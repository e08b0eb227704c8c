//! The node's own endpoints, one file each, so that they are known before the
//! store answers and after a crash at any moment.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use tracing::warn;

use crate::model::{self, endpoint::Endpoint};

/// The folder of the files.
#[derive(Clone, Debug)]
pub struct Journal {
    dir: PathBuf,
}

impl Journal {
    /// Opens the journal below the state folder.
    pub fn open(state_dir: &Path) -> Result<Self> {
        let dir = state_dir.join("endpoints");
        fs::create_dir_all(&dir).with_context(|| format!("{}", dir.display()))?;
        Ok(Self { dir })
    }

    /// All endpoints by id. A file that does not parse is left and told.
    pub fn read(&self) -> Result<BTreeMap<String, Endpoint>> {
        let mut endpoints = BTreeMap::new();
        for entry in fs::read_dir(&self.dir).with_context(|| format!("{}", self.dir.display()))? {
            let path = entry?.path();
            if path.extension().is_none_or(|extension| extension != "json") {
                continue;
            }
            match model::decode::<Endpoint>(&fs::read(&path)?) {
                Ok(endpoint) => drop(endpoints.insert(endpoint.id.clone(), endpoint)),
                Err(error) => warn!("{}: {error}", path.display()),
            }
        }
        Ok(endpoints)
    }

    /// Writes an endpoint; it is there whole or not at all.
    pub fn put(&self, endpoint: &Endpoint) -> Result<()> {
        let path = self.path(&endpoint.id);
        let draft = path.with_extension("new");
        let write = || {
            let mut file = File::create(&draft)?;
            file.write_all(&model::encode(endpoint))?;
            file.sync_all()?;
            fs::rename(&draft, &path)?;
            File::open(&self.dir)?.sync_all()
        };
        write().with_context(|| format!("{}", path.display()))
    }

    /// Forgets an endpoint.
    pub fn remove(&self, id: &str) -> Result<()> {
        let path = self.path(id);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("{}", path.display()))
            }
            _ => Ok(()),
        }
    }

    fn path(&self, id: &str) -> PathBuf {
        self.dir.join(format!("{id}.json"))
    }
}
