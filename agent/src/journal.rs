//! What the node remembers on disk, so that it is known before the store
//! answers and after a crash at any moment: its endpoints, their networks with
//! its stash, its cluster, and the last good values of what cannot be read.
//!
//! ```text
//! docker/<id>.json       one network of Docker's each
//! instance               who this state folder belongs to
//! endpoints/<id>.json    one endpoint each
//! networks/<id>.json     one network each, with the stash
//! cluster.json           the cluster as it was last seen
//! last-good.json         values whose present ones cannot be read
//! ```

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::ErrorKind,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tracing::warn;

use crate::files::replace;
use crate::model::{self, endpoint::Endpoint, membership::Known, network::Network};

/// A network that this node has endpoints or a stash of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// The network as it was last seen.
    pub network: Network,
    /// Addresses kept back for this node.
    #[serde(default)]
    pub stash: BTreeSet<IpAddr>,
}

/// One of Docker's networks on this host, and which network of ours it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DockerNetwork {
    /// Docker's id, on this host alone; 64 hexadecimal digits.
    pub id: String,
    /// The network's id in the cluster.
    pub network: u32,
    /// The name that its options ask for, whatever Docker calls it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wanted: Option<String>,
    /// When it was made, in seconds since 1970.
    pub since: u64,
    /// Whether Docker has removed it, so that it is to go everywhere.
    #[serde(default)]
    pub removed: bool,
}

/// The folder of the files.
#[derive(Clone, Debug)]
pub struct Journal {
    dir: PathBuf,
    /// The endpoints, as the files have them: nobody else writes these.
    endpoints: Arc<Mutex<BTreeMap<String, Endpoint>>>,
    /// Held while an endpoint is written, so that its file and what is in memory
    /// are one; several, so that many attaches do not wait for one disk.
    turns: Arc<[Mutex<()>; TURNS]>,
    /// Held while a network is written: many attaches do that at once.
    networks: Arc<Mutex<()>>,
}

/// Endpoints that may be written at a time.
const TURNS: usize = 16;
/// Folders and files below the state folder.
const ENDPOINTS: &str = "endpoints";
const NETWORKS: &str = "networks";
const DOCKER: &str = "docker";
const CLUSTER: &str = "cluster.json";
const LAST_GOOD: &str = "last-good.json";
const INSTANCE: &str = "instance";

impl Journal {
    /// Opens the journal in the state folder.
    pub fn open(dir: &Path) -> Result<Self> {
        for dir in [dir.join(ENDPOINTS), dir.join(NETWORKS), dir.join(DOCKER)] {
            fs::create_dir_all(&dir).with_context(|| format!("{}", dir.display()))?;
            // What a crash left of a write that did not come to its end.
            for path in entries(&dir)?.iter().filter(|path| path.extension().is_some_and(|e| e == "new")) {
                remove(path)?;
            }
        }
        let journal = Self {
            dir: dir.to_owned(),
            endpoints: Arc::default(),
            turns: Arc::default(),
            networks: Arc::default(),
        };
        for path in entries(&dir.join(ENDPOINTS))? {
            let Some(bytes) = read(&path)?.filter(|_| path.extension().is_some_and(|e| e == "json")) else {
                continue;
            };
            // Without it a living container would be taken for gone, and its
            // address given to another.
            let endpoint: Endpoint = model::parse(&bytes).with_context(|| {
                format!("{}: remove it if that container is gone, else restore it", path.display())
            })?;
            journal.held().insert(endpoint.id.clone(), endpoint);
        }
        Ok(journal)
    }

    fn turn(&self, id: &str) -> MutexGuard<'_, ()> {
        let number = id.bytes().map(usize::from).sum::<usize>() % TURNS;
        self.turns[number].lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn held(&self) -> MutexGuard<'_, BTreeMap<String, Endpoint>> {
        self.endpoints.lock().unwrap_or_else(PoisonError::into_inner)
    }

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

    /// All endpoints by id.
    pub fn endpoints(&self) -> BTreeMap<String, Endpoint> {
        self.held().clone()
    }

    /// Writes an endpoint; it is there whole or not at all.
    pub fn put(&self, endpoint: &Endpoint) -> Result<()> {
        let _turn = self.turn(&endpoint.id);
        replace(&self.entry(ENDPOINTS, &endpoint.id), &model::encode(endpoint))?;
        self.held().insert(endpoint.id.clone(), endpoint.clone());
        Ok(())
    }

    /// Changes an endpoint, if it is there, and gives what became of it.
    pub fn alter(&self, id: &str, change: impl FnOnce(&mut Endpoint)) -> Result<Option<Endpoint>> {
        let _turn = self.turn(id);
        let Some(mut endpoint) = self.held().get(id).cloned() else { return Ok(None) };
        change(&mut endpoint);
        replace(&self.entry(ENDPOINTS, id), &model::encode(&endpoint))?;
        self.held().insert(id.to_owned(), endpoint.clone());
        Ok(Some(endpoint))
    }

    /// Forgets an endpoint.
    pub fn remove(&self, id: &str) -> Result<()> {
        let _turn = self.turn(id);
        remove(&self.entry(ENDPOINTS, id))?;
        self.held().remove(id);
        Ok(())
    }

    /// The networks that this node has something of, by id.
    pub fn networks(&self) -> Result<BTreeMap<u32, Member>> {
        let members: Vec<Member> = self.all(NETWORKS)?;
        Ok(members.into_iter().map(|member| (member.network.id, member)).collect())
    }

    /// Writes a network, unless it stands there like that.
    pub fn put_network(&self, member: &Member) -> Result<()> {
        let path = self.entry(NETWORKS, &member.network.id.to_string());
        let bytes = model::encode(member);
        let _turn = self.networks.lock().unwrap_or_else(PoisonError::into_inner);
        if read(&path)?.as_ref() == Some(&bytes) { Ok(()) } else { replace(&path, &bytes) }
    }

    /// Forgets a network.
    pub fn remove_network(&self, id: u32) -> Result<()> {
        remove(&self.entry(NETWORKS, &id.to_string()))
    }

    /// The networks that this host's Docker has of us, by Docker's id.
    pub fn docker_networks(&self) -> Result<BTreeMap<String, DockerNetwork>> {
        let networks: Vec<DockerNetwork> = self.all(DOCKER)?;
        Ok(networks.into_iter().map(|network| (network.id.clone(), network)).collect())
    }

    /// Writes one of Docker's networks.
    pub fn put_docker_network(&self, network: &DockerNetwork) -> Result<()> {
        replace(&self.entry(DOCKER, &network.id), &model::encode(network))
    }

    /// Forgets one of Docker's networks.
    pub fn remove_docker_network(&self, id: &str) -> Result<()> {
        remove(&self.entry(DOCKER, id))
    }

    /// The cluster as it was last seen.
    pub fn known(&self) -> Result<Option<Known>> {
        let path = self.dir.join(CLUSTER);
        let Some(bytes) = read(&path)? else { return Ok(None) };
        let known = model::parse(&bytes).with_context(|| {
            format!(
                "{}: without it the store cannot be judged; restore it, or remove it to trust the store",
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

    /// Removes everything that the journal wrote.
    pub fn erase(dir: &Path) -> Result<()> {
        for folder in [ENDPOINTS, NETWORKS, DOCKER] {
            let folder = dir.join(folder);
            for path in entries(&folder)? {
                if path.extension().is_some_and(|extension| extension == "json" || extension == "new") {
                    remove(&path)?;
                }
            }
            drop(fs::remove_dir(&folder));
        }
        for name in [CLUSTER, LAST_GOOD, INSTANCE] {
            remove(&dir.join(name))?;
        }
        Ok(())
    }

    fn all<T: DeserializeOwned>(&self, folder: &str) -> Result<Vec<T>> {
        let mut all = Vec::new();
        for path in entries(&self.dir.join(folder))? {
            if path.extension().is_none_or(|extension| extension != "json") {
                continue;
            }
            // One that was removed meanwhile is not there.
            let Some(bytes) = read(&path)? else { continue };
            match model::parse(&bytes) {
                Ok(value) => all.push(value),
                Err(error) => warn!("{}: {error}", path.display()),
            }
        }
        Ok(all)
    }

    fn entry(&self, folder: &str, name: &str) -> PathBuf {
        self.dir.join(folder).join(format!("{name}.json"))
    }
}

fn entries(dir: &Path) -> Result<Vec<PathBuf>> {
    let found = match fs::read_dir(dir) {
        Ok(found) => found,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).with_context(|| format!("{}", dir.display())),
    };
    found.map(|entry| Ok(entry?.path())).collect()
}

fn read(path: &Path) -> Result<Option<Vec<u8>>> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("{}", path.display())),
    }
}

fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| format!("{}", path.display()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_found_and_strange_files_are_left() {
        let dir = tempfile::tempdir().expect("a folder");
        let journal = Journal::open(dir.path()).expect("a journal");
        let first = journal.instance(|| Ok("i1".into())).expect("made");
        assert_eq!(journal.instance(|| Ok("i2".into())).expect("found"), first);
        let values = BTreeMap::from([("/margay/v1/nodes/h1".to_owned(), br#"{"v":1}"#.to_vec())]);
        journal.put_last_good(&values).expect("a disk");
        assert_eq!(journal.last_good().expect("there"), values);
        fs::write(dir.path().join("endpoints/x.json"), "{").expect("a disk");
        let error =
            format!("{:#}", Journal::open(dir.path()).expect_err("an endpoint that is not to be lost"));
        assert!(error.contains("endpoints/x.json") && error.contains("remove it if"), "{error}");
        fs::write(dir.path().join(CLUSTER), "{").expect("a disk");
        let error = format!("{:#}", journal.known().expect_err("broken"));
        assert!(error.contains("cluster.json") && error.contains("remove it"), "{error}");
        fs::write(dir.path().join("not-ours"), "").expect("a disk");
        Journal::erase(dir.path()).expect("a disk");
        let left: Vec<_> = entries(dir.path()).expect("there");
        assert_eq!(left, [dir.path().join("not-ours")]);
    }
}
