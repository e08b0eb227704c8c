use std::{collections::BTreeMap, io};

use redb::StorageBackend;

use super::*;
use crate::model::key::ROOT;

fn put(key: u32, value: &str) -> Op {
    Op::Put(Key::Network(key), value.as_bytes().to_vec())
}

fn txn(conditions: Vec<Condition>, ops: Vec<Op>) -> Txn {
    Txn { conditions, ops }
}

#[tokio::test]
async fn transactions_happen_whole_or_not_at_all() {
    let store = Embedded::in_memory();
    let first = store.commit(txn(vec![], vec![put(1, "a"), put(2, "b")])).await.expect("memory");
    assert_eq!(first, Commit::Done(1));
    let absent = Condition::Absent(Key::Network(1));
    let refused = store.commit(txn(vec![absent], vec![put(3, "c")])).await.expect("memory");
    assert_eq!(refused, Commit::Conflict);
    let stale = Condition::Revision(Key::Network(1), 0);
    assert_eq!(store.commit(txn(vec![stale], vec![put(3, "c")])).await.expect("memory"), Commit::Conflict);
    let networks = format!("{ROOT}networks/");
    let unchanged = |since| Condition::UnchangedSince(networks.clone(), since);
    let refused = store.commit(txn(vec![unchanged(0)], vec![put(3, "c")])).await.expect("memory");
    assert_eq!(refused, Commit::Conflict);
    let fresh = vec![unchanged(1), Condition::Revision(Key::Network(2), 1)];
    let ops = vec![Op::Delete(Key::Network(2)), put(3, "c")];
    assert_eq!(store.commit(txn(fresh, ops)).await.expect("memory"), Commit::Done(2));
    let listing = store.list(std::slice::from_ref(&networks)).await.expect("memory");
    let keys: Vec<_> = listing.entries.iter().map(Event::key).collect();
    assert_eq!((keys, listing.revision), (vec!["/margay/v1/networks/1", "/margay/v1/networks/3"], 2));
    let gone = vec![Op::DeletePrefix(networks.clone())];
    store.commit(txn(vec![], gone)).await.expect("memory");
    assert!(store.list(&[networks]).await.expect("memory").entries.is_empty());
}

#[tokio::test]
async fn watcher_receives_exactly_the_events_of_its_prefixes_in_order() {
    let store = Embedded::in_memory();
    store.commit(txn(vec![], vec![put(1, "a")])).await.expect("memory");
    let mut feed = store.watch(&[Prefix::Networks]);
    let mut of_ids = store.watch(&[Prefix::Sequence]);
    let Some(Feed::Listing(listing)) = feed.recv().await else { panic!("a listing first") };
    assert_eq!((listing.revision, listing.entries.len()), (1, 1));
    // Before anything is written: a listing has what was written until it is made.
    let Some(Feed::Listing(listing)) = of_ids.recv().await else { panic!("a listing first") };
    assert!(listing.entries.is_empty());
    let unwatched = Op::Put(Key::Sequence, b"x".to_vec());
    for ops in [vec![unwatched.clone()], vec![put(2, "b"), unwatched], vec![Op::Delete(Key::Network(1))]] {
        store.commit(txn(vec![], ops)).await.expect("memory");
    }
    for (expected, key) in [(3, "/margay/v1/networks/2"), (4, "/margay/v1/networks/1")] {
        let Some(Feed::Events { revision, whole, events }) = feed.recv().await else { panic!("events") };
        assert_eq!((revision, events.len(), events[0].key()), (expected, 1, key));
        assert_eq!(whole, [Prefix::Networks]);
    }
    // Another watcher gets the events of its own prefixes.
    for expected in [2, 3] {
        let Some(Feed::Events { revision, events, .. }) = of_ids.recv().await else { panic!("events") };
        assert_eq!((revision, events.len(), events[0].key()), (expected, 1, "/margay/v1/guard"));
    }
    assert!(of_ids.try_recv().is_err());
}

#[tokio::test]
async fn database_opens_for_one_agent_at_a_time_and_keeps_all_but_alive_keys() {
    let dir = tempfile::tempdir().expect("a folder");
    let store = Embedded::open(dir.path()).expect("new");
    let alive = Op::Put(Key::Alive("h1".into()), b"x".to_vec());
    store.commit(txn(vec![], vec![put(1, "a"), alive])).await.expect("a disk");
    let refusal = Embedded::open(dir.path()).expect_err("open").to_string();
    assert!(refusal.contains("another agent") && refusal.contains("--store"), "{refusal}");
    drop(store);
    let store = Embedded::open(dir.path()).expect("there");
    let listing = store.list(&[ROOT.into()]).await.expect("a disk");
    let keys: Vec<_> = listing.entries.iter().map(Event::key).collect();
    assert_eq!((keys, listing.revision), (vec!["/margay/v1/networks/1"], 1), "nobody is alive any more");
}

#[test]
fn file_that_is_no_store_is_refused_by_name() {
    let dir = tempfile::tempdir().expect("a folder");
    fs::write(file(dir.path()), "not a database".repeat(1000)).expect("a file");
    let refusal = Embedded::open(dir.path()).expect_err("no store").to_string();
    assert!(refusal.contains("margay.redb"), "{refusal}");
}

/// A disk whose power fails at a given write: what was not synced by then is
/// there, torn, or not, as `seed` says.
#[derive(Clone, Debug, Default)]
struct Disk(Arc<Mutex<Platter>>);

#[derive(Debug, Default)]
struct Platter {
    synced: Vec<u8>,
    now: Vec<u8>,
    /// Writes since the last sync.
    pending: Vec<(usize, Vec<u8>)>,
    writes: usize,
    fails_at: Option<usize>,
}

impl Disk {
    fn at(&self) -> MutexGuard<'_, Platter> {
        self.0.lock().expect("no panic")
    }

    /// What the next boot finds.
    fn after_power_loss(&self, seed: usize) -> Self {
        let platter = self.at();
        let mut bytes = platter.synced.clone();
        bytes.resize(platter.now.len().max(bytes.len()), 0);
        for (i, (offset, data)) in platter.pending.iter().enumerate() {
            let kept = match (seed >> (2 * (i % 16))) & 3 {
                0 => 0,
                1 => data.len() / 2,
                _ => data.len(),
            };
            bytes[*offset..offset + kept].copy_from_slice(&data[..kept]);
        }
        Self(Arc::new(Mutex::new(Platter { synced: bytes.clone(), now: bytes, ..Platter::default() })))
    }
}

impl Platter {
    fn step(&mut self) -> io::Result<()> {
        self.writes += 1;
        let dead = self.fails_at.is_some_and(|at| self.writes > at);
        if dead { Err(io::Error::other("no power")) } else { Ok(()) }
    }
}

impl StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.at().now.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let platter = self.at();
        let from = offset as usize;
        let bytes = platter.now.get(from..from + out.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        out.copy_from_slice(bytes);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut platter = self.at();
        platter.step()?;
        platter.now.resize(len as usize, 0);
        // The file system's journal keeps lengths in order.
        platter.synced.resize(len as usize, 0);
        platter.pending.retain(|(offset, data)| offset + data.len() <= len as usize);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut platter = self.at();
        platter.step()?;
        platter.synced = platter.now.clone();
        platter.pending.clear();
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut platter = self.at();
        let from = offset as usize;
        // The write at which power fails may still reach the platter in part.
        let result = platter.step();
        if result.is_ok() {
            platter.now[from..from + data.len()].copy_from_slice(data);
        }
        platter.pending.push((from, data.to_vec()));
        result
    }
}

fn open(disk: &Disk) -> Embedded {
    let disk = disk.clone();
    Embedded::with(Box::new(move || Database::builder().create_with_backend(disk.clone())), "disk".into())
}

/// Pairs of keys that are only ever written together.
fn rounds(store: &Embedded) -> u32 {
    for round in 1..=12_u32 {
        let value = "v".repeat(40 * round as usize);
        let ops = vec![
            put(2 * (round % 5), &value),
            put(2 * (round % 5) + 1, &value),
            put(100, &round.to_string()),
        ];
        if store.inner.commit(&txn(vec![], ops)).is_err() {
            return round - 1;
        }
    }
    12
}

#[test]
fn committed_data_survives_power_loss_at_any_write() {
    let fresh = Disk::default();
    drop(open(&fresh).inner.prepare());
    // Making the file is one step, by its name; what follows may fail anywhere.
    let fresh = || fresh.after_power_loss(0);
    let whole = fresh();
    assert_eq!(rounds(&open(&whole)), 12);
    let writes = whole.at().writes;
    assert!(writes > 30, "{writes}");
    for at in 0..writes {
        for seed in [0, usize::MAX, 0x1b1b_1b1b, 0x6c6c_6c6c] {
            let disk = fresh();
            disk.at().fails_at = Some(at);
            let acknowledged = rounds(&open(&disk));
            let store = open(&disk.after_power_loss(seed));
            let listing = store.inner.list(&[ROOT.into()]);
            let listing = listing.unwrap_or_else(|error| panic!("after write {at}, seed {seed:x}: {error}"));
            let found: BTreeMap<_, _> = listing
                .entries
                .iter()
                .map(|entry| match entry {
                    Event::Put { key, value, revision } => (key.as_str(), (value.clone(), *revision)),
                    Event::Delete { key } => panic!("{key} is listed as deleted"),
                })
                .collect();
            let counted = found
                .get("/margay/v1/networks/100")
                .map_or(0, |(value, _)| String::from_utf8_lossy(value).parse::<u32>().expect("a number"));
            assert!(counted == acknowledged || counted == acknowledged + 1, "at write {at}: {counted}");
            assert_eq!(listing.revision, i64::from(counted), "at write {at}");
            for pair in 0..5 {
                let key = |i| format!("/margay/v1/networks/{}", 2 * pair + i);
                assert_eq!(found.get(&*key(0)), found.get(&*key(1)), "at write {at}: half a transaction");
            }
        }
    }
}
