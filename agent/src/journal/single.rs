//! Files of one value each: who the state folder belongs to, the cluster, and the last good
//! values.

use std::{collections::BTreeMap, path::Path};

use anyhow::{Context, Result};

use super::{
    Journal,
    disk::{read, remove},
};
use crate::{
    files::replace,
    model::{self, membership::Known},
};

pub(super) const CLUSTER: &str = "cluster.json";
const LAST_GOOD: &str = "last-good.json";
const INSTANCE: &str = "instance";

impl Journal {
    /// What names this state folder; made the first time, as `new` says.
    pub fn instance(&self, new: impl FnOnce() -> Result<String>) -> Result<String> {
        let path = self.dir.join(INSTANCE);
        if let Some(bytes) = read(&path)? {
            return Ok(String::from_utf8_lossy(&bytes).trim().to_owned());
        }
        let instance = new()?;
        replace(&path, instance.as_bytes())?;
        Ok(instance)
    }

    /// The cluster as it was last seen.
    pub fn known(&self) -> Result<Option<Known>> {
        let path = self.dir.join(CLUSTER);
        let Some(bytes) = read(&path)? else { return Ok(None) };
        let known = model::parse(&bytes).with_context(|| {
            format!(
                "{}: without this file the agent cannot judge the store; restore it, or remove it to trust the store",
                path.display()
            )
        })?;
        Ok(Some(known))
    }

    /// Writes the cluster as it is seen now.
    pub fn put_known(&self, known: &Known) -> Result<()> {
        replace(&self.dir.join(CLUSTER), &model::encode(known))
    }

    /// The last good values of what could not be read, by key.
    pub fn last_good(&self) -> Result<BTreeMap<String, Vec<u8>>> {
        let Some(bytes) = read(&self.dir.join(LAST_GOOD))? else { return Ok(BTreeMap::new()) };
        let values: BTreeMap<String, serde_json::Value> = serde_json::from_slice(&bytes).unwrap_or_default();
        Ok(values.into_iter().map(|(key, value)| (key, value.to_string().into_bytes())).collect())
    }

    /// Writes the last good values of what cannot be read.
    pub fn put_last_good(&self, values: &BTreeMap<String, Vec<u8>>) -> Result<()> {
        let path = self.dir.join(LAST_GOOD);
        if values.is_empty() {
            return remove(&path);
        }
        let json = |bytes: &Vec<u8>| serde_json::from_slice(bytes).unwrap_or(serde_json::Value::Null);
        let values: BTreeMap<&String, serde_json::Value> = values.iter().map(|(k, v)| (k, json(v))).collect();
        replace(&path, &serde_json::to_vec(&values)?)
    }
}

/// Removes these files.
pub(super) fn erase(dir: &Path) -> Result<()> {
    [CLUSTER, LAST_GOOD, INSTANCE].iter().try_for_each(|name| remove(&dir.join(name)))
}
