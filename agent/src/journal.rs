//! What the node remembers on disk, so that it is known before the store
//! answers and after a crash at any moment: its endpoints, their networks with
//! its stash, its cluster, and the last good values of what cannot be read.
//!
//! ```text
//! docker/<id>.json       one network of Docker's each
//! instance               who this state folder belongs to
//! endpoints/<id>.json    one endpoint each
//! kept/<id>-<n>.json     the addresses of one of Docker's containers on network n
//! networks/<id>.json     one network each, with the stash
//! cluster.json           the cluster as it was last seen
//! last-good.json         values whose present ones cannot be read
//! ```
//!
//! The folder is its owner's alone. An entry that is not what it should be is set
//! aside under the ending `.bad`, which nothing is done on the word of.

mod check;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::ErrorKind,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tracing::warn;

use self::check::Entry;
use crate::{
    files::{own, private_dir, replace},
    model::{
        self, ValueError,
        endpoint::{Endpoint, Kept},
        membership::Known,
        network::Network,
    },
    problem::Problem,
};

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
    /// Whether Docker asked for subnets of our choice. Then Docker refuses `--ip`.
    #[serde(default)]
    pub chosen: bool,
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
    /// What containers keep, as the files have it.
    kept: Arc<Mutex<BTreeMap<(String, u32), Kept>>>,
    /// Held while an endpoint is written, so that its file and what is in memory
    /// are one; several, so that many attaches do not wait for one disk.
    turns: Arc<[Mutex<()>; TURNS]>,
    /// Held while a network is written: many attaches do that at once.
    networks: Arc<Mutex<()>>,
    /// Whether files may be set aside; else it is only noted which should be.
    keeper: bool,
    /// Files that were set aside, and why.
    bad: Arc<Mutex<BTreeMap<PathBuf, String>>>,
}

/// Endpoints that may be written at a time.
const TURNS: usize = 16;
/// Folders and files below the state folder.
const ENDPOINTS: &str = "endpoints";
const NETWORKS: &str = "networks";
const DOCKER: &str = "docker";
const KEPT: &str = "kept";
const CLUSTER: &str = "cluster.json";
const LAST_GOOD: &str = "last-good.json";
const INSTANCE: &str = "instance";
/// The ending of what was set aside.
const BAD: &str = "bad";

impl Journal {
    /// Opens the journal in the state folder.
    pub fn open(dir: &Path) -> Result<Self> {
        own(dir)?;
        for dir in [ENDPOINTS, NETWORKS, DOCKER, KEPT].map(|folder| dir.join(folder)) {
            private_dir(&dir)?;
            // What a crash left of a write that did not come to its end.
            for path in entries(&dir)?.iter().filter(|path| path.extension().is_some_and(|e| e == "new")) {
                remove(path)?;
            }
        }
        Self::load(dir, true)
    }

    /// Reads the journal of an agent that does not run, and changes nothing.
    pub fn peek(dir: &Path) -> Result<Self> {
        Self::load(dir, false)
    }

    fn load(dir: &Path, keeper: bool) -> Result<Self> {
        let journal = Self {
            dir: dir.to_owned(),
            endpoints: Arc::default(),
            kept: Arc::default(),
            turns: Arc::default(),
            networks: Arc::default(),
            keeper,
            bad: Arc::default(),
        };
        journal.look_at_bad::<Endpoint>(ENDPOINTS)?;
        journal.look_at_bad::<Member>(NETWORKS)?;
        journal.look_at_bad::<DockerNetwork>(DOCKER)?;
        journal.look_at_bad::<Kept>(KEPT)?;
        for endpoint in journal.all::<Endpoint>(ENDPOINTS)? {
            journal.held().insert(endpoint.id.clone(), endpoint);
        }
        let kept: Vec<Kept> = journal.all(KEPT)?;
        journal
            .kept_lock()
            .extend(kept.into_iter().map(|kept| ((kept.container.clone(), kept.network), kept)));
        Ok(journal)
    }

    /// What was set aside and is still there.
    pub fn problems(&self) -> Vec<Problem> {
        let bad = self.bad.lock().unwrap_or_else(PoisonError::into_inner);
        let there = bad.iter().filter(|(path, _)| path.exists());
        let told = |(path, reason): (&PathBuf, &String)| {
            let path = path.display();
            Problem::new(
                format!(
                    "a broken journal entry was set aside in {path}, so its container is cut off: {reason}"
                ),
                format!("attach the container again if it runs, then: rm {path}"),
            )
        };
        there.map(told).collect()
    }

    /// Sets a file aside: nothing is done on its word.
    fn set_aside(&self, path: &Path, reason: String) -> Result<()> {
        if !self.keeper {
            self.note_bad(path.to_owned(), reason);
            return Ok(());
        }
        let aside = path.with_extension(BAD);
        warn!("journal entry {} set aside as {}: {reason}", path.display(), aside.display());
        fs::rename(path, &aside).with_context(|| format!("{}", path.display()))?;
        self.note_bad(aside, reason);
        Ok(())
    }

    fn note_bad(&self, path: PathBuf, reason: String) {
        self.bad.lock().unwrap_or_else(PoisonError::into_inner).insert(path, reason);
    }

    /// Finds what an earlier agent set aside.
    fn look_at_bad<T: DeserializeOwned + Entry>(&self, folder: &str) -> Result<()> {
        for path in entries(&self.dir.join(folder))? {
            if path.extension().is_some_and(|extension| extension == BAD) {
                let fault = read(&path)?.and_then(|bytes| match parse::<T>(&path, &bytes) {
                    Ok(Parsed::Good(_)) | Err(_) => None,
                    Ok(Parsed::Bad(reason)) => Some(reason),
                });
                self.note_bad(path, fault.unwrap_or_else(|| "see the agent's log of that time".into()));
            }
        }
        Ok(())
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

    fn kept_lock(&self) -> MutexGuard<'_, BTreeMap<(String, u32), Kept>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What Docker's containers keep, by container and network.
    pub fn kept(&self) -> BTreeMap<(String, u32), Kept> {
        self.kept_lock().clone()
    }

    /// Writes what a container keeps, unless it stands there like that.
    pub fn put_kept(&self, kept: &Kept) -> Result<()> {
        let mut all = self.kept_lock();
        let key = (kept.container.clone(), kept.network);
        if all.get(&key) != Some(kept) {
            replace(&self.entry(KEPT, &kept_name(&key)), &model::encode(kept))?;
            all.insert(key, kept.clone());
        }
        Ok(())
    }

    /// Forgets what a container keeps on a network.
    pub fn remove_kept(&self, container: &str, network: u32) -> Result<Option<Kept>> {
        let mut all = self.kept_lock();
        let key = (container.to_owned(), network);
        if all.contains_key(&key) {
            remove(&self.entry(KEPT, &kept_name(&key)))?;
        }
        Ok(all.remove(&key))
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

    /// Removes everything that the journal wrote.
    pub fn erase(dir: &Path) -> Result<()> {
        for folder in [ENDPOINTS, NETWORKS, DOCKER, KEPT] {
            let folder = dir.join(folder);
            for path in entries(&folder)? {
                if path
                    .extension()
                    .is_some_and(|extension| extension == "json" || extension == "new" || extension == BAD)
                {
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

    /// Every entry of a folder that is what it should be; others are set aside.
    fn all<T: DeserializeOwned + Entry>(&self, folder: &str) -> Result<Vec<T>> {
        let mut all = Vec::new();
        for path in entries(&self.dir.join(folder))? {
            if path.extension().is_none_or(|extension| extension != "json") {
                continue;
            }
            // One that was removed meanwhile is not there.
            let Some(bytes) = read(&path)? else { continue };
            match parse(&path, &bytes)? {
                Parsed::Good(value) => all.push(value),
                Parsed::Bad(reason) => self.set_aside(&path, reason)?,
            }
        }
        Ok(all)
    }

    fn entry(&self, folder: &str, name: &str) -> PathBuf {
        self.dir.join(folder).join(format!("{name}.json"))
    }
}

/// What a file turned out to be.
enum Parsed<T> {
    Good(T),
    Bad(String),
}

/// Reads an entry. One of another generation of agents fails: it is good, and this
/// agent cannot do without it.
fn parse<T: DeserializeOwned + Entry>(path: &Path, bytes: &[u8]) -> Result<Parsed<T>> {
    let value: T = match model::parse(bytes) {
        Ok(value) => value,
        Err(error @ ValueError::Version(_)) => bail!(Problem::new(
            format!("{} {error}", path.display()),
            "start the agent that wrote it, or a newer one"
        )),
        Err(error) => return Ok(Parsed::Bad(format!("it {error}"))),
    };
    let stem = path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
    Ok(value.fault(&stem).map_or(Parsed::Good(value), Parsed::Bad))
}

/// Docker's ids are hexadecimal; the first half of one is enough for a file's name.
fn kept_name((container, network): &(String, u32)) -> String {
    let plain: String = container.chars().filter(char::is_ascii_alphanumeric).take(32).collect();
    format!("{plain}-{network}")
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
        fs::write(dir.path().join(CLUSTER), "{").expect("a disk");
        let error = format!("{:#}", journal.known().expect_err("broken"));
        assert!(error.contains("cluster.json") && error.contains("remove it"), "{error}");
        fs::write(dir.path().join("not-ours"), "").expect("a disk");
        Journal::erase(dir.path()).expect("a disk");
        let left: Vec<_> = entries(dir.path()).expect("there");
        assert_eq!(left, [dir.path().join("not-ours")]);
    }

    #[test]
    fn a_bad_entry_is_set_aside_and_told_and_the_others_load() {
        let dir = tempfile::tempdir().expect("a folder");
        drop(Journal::open(dir.path()).expect("a journal"));
        let endpoint = |id: &str, host: &str| {
            format!(
                r#"{{"v":1,"id":"{id}","network":1,"network_name":"blue","addresses":["10.1.0.2"],
                "mac":"02:00:00:00:00:01","netns":"/n","sandbox":1,"ifname":"eth0","host_interface":"{host}",
                "mtu":1500}}"#
            )
        };
        let at = |name: &str| dir.path().join(ENDPOINTS).join(name);
        for (id, host) in [("00000000000000aa", "mgy000000000000"), ("00000000000000bb", "eth0")] {
            fs::write(at(&format!("{id}.json")), endpoint(id, host)).expect("a disk");
        }
        fs::write(at("x.json"), "{").expect("a disk");
        fs::write(dir.path().join(DOCKER).join("y.json"), "[]").expect("a disk");
        for _ in 0..2 {
            let journal = Journal::open(dir.path()).expect("the others load");
            let ids: Vec<String> = journal.endpoints().into_keys().collect();
            assert_eq!(ids, ["00000000000000aa"]);
            assert!(journal.docker_networks().expect("a folder").is_empty());
            let told = journal.problems();
            assert_eq!(told.len(), 3, "{told:?}");
            let foreign =
                told.iter().find(|told| told.problem.contains("00000000000000bb.bad")).expect("told");
            assert!(foreign.problem.contains("interface") && foreign.mend.contains("rm "), "{foreign:?}");
        }
        fs::remove_file(at("x.bad")).expect("it is set aside");
        assert_eq!(Journal::open(dir.path()).expect("a journal").problems().len(), 2);
        fs::write(at("z.json"), r#"{"v":9}"#).expect("a disk");
        let told = Journal::open(dir.path()).expect_err("a newer agent's is not set aside").to_string();
        assert!(told.contains("z.json") && told.contains("newer"), "{told}");
        Journal::erase(dir.path()).expect("a disk");
        assert!(!at("00000000000000bb.bad").exists());
    }
}
