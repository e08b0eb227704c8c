use std::{fs, os::unix::fs::PermissionsExt, sync::Barrier, thread};

use serde_json::{Value, json};

use super::*;
use crate::model::endpoint::{Owner, Stage};

const ID: &str = "00000000000000aa";

/// An endpoint as an agent of before wrote it into a file.
fn old_endpoint(id: &str, host: &str) -> Value {
    json!({
        "v": 1, "id": id, "network": 1, "network_name": "blue", "addresses": ["10.1.0.2"],
        "mac": "02:00:00:00:00:01", "netns": "/run/netns/a", "sandbox": 1, "ifname": "eth0",
        "host_interface": host, "mtu": 1500, "ready": true,
    })
}

/// The same of Docker's.
fn old_docker_endpoint() -> Value {
    let mut endpoint = old_endpoint("00000000000000cc", "mgy000000000000");
    endpoint["ifname"] = "".into();
    endpoint["addresses"] = json!(["10.1.0.3"]);
    endpoint["docker"] = json!({"id": "e1", "network": "n1", "since": 7, "container": "c1", "asked": true});
    endpoint
}

fn old_network() -> Value {
    json!({"v": 1, "network": {
        "id": 1, "name": "blue", "block_size": 28,
        "subnets": [{"cidr": "10.1.0.0/16", "gateway": "10.1.0.1", "block_len": 26}],
    }, "stash": ["10.1.0.9"]})
}

fn endpoint(id: &str) -> Endpoint {
    let host = format!("mgy{}", &id[..12]);
    match parse(&(Table::Endpoints, id.into()), old_endpoint(id, &host).to_string().as_bytes()) {
        Ok(Record::Endpoint(endpoint)) => Endpoint { stage: Stage::Joined, ..endpoint },
        other => panic!("{other:?}"),
    }
}

/// Writes into the database what no agent would.
fn smuggle(dir: &Path, table: Table, key: &str, value: &str) {
    let database = redb::Database::open(dir.join(FILE)).expect("a database");
    let write = database.begin_write().expect("a transaction");
    let definition: redb::TableDefinition<'_, &str, &[u8]> = redb::TableDefinition::new(table.name());
    write.open_table(definition).expect("a table").insert(key, value.as_bytes()).expect("a disk");
    write.commit().expect("a disk");
}

fn kept() -> Kept {
    let addresses = vec!["10.1.0.3".parse().expect("a literal")];
    let (container, name, holder) = ("c1".into(), "web".into(), ID.into());
    Kept { container, name, network: 1, addresses, holder, released: 0 }
}

#[test]
fn written_values_are_found_and_foreign_files_stay() {
    let dir = tempfile::tempdir().expect("a folder");
    let journal = Journal::open(dir.path()).expect("a journal");
    let first = journal.instance(|| Ok("i1".into())).expect("made");
    assert_eq!(journal.instance(|| Ok("i2".into())).expect("found"), first);
    let values = BTreeMap::from([("/margay/v1/nodes/h1".to_owned(), br#"{"v":1}"#.to_vec())]);
    journal.put_last_good(&values).expect("a disk");
    assert_eq!(journal.last_good().expect("there"), values);
    fs::write(dir.path().join(single::CLUSTER), "{").expect("a disk");
    let error = format!("{:#}", journal.known().expect_err("broken"));
    assert!(error.contains("cluster.json") && error.contains("remove it"), "{error}");
    fs::write(dir.path().join("not-ours"), "").expect("a disk");
    Journal::erase(dir.path()).expect("a disk");
    let left: Vec<_> = disk::entries(dir.path()).expect("there");
    assert_eq!(left, [dir.path().join("not-ours")]);
}

#[test]
fn step_survives_a_restart_in_a_file_that_only_its_owner_reads() {
    let dir = tempfile::tempdir().expect("a folder");
    let journal = Journal::open(dir.path()).expect("a journal");
    journal.write(Step::default().endpoint(&endpoint(ID)).kept(&kept())).expect("a disk");
    let altered = journal.alter(ID, |endpoint| endpoint.mtu = 1400, Step::default()).expect("a disk");
    assert_eq!(altered.map(|endpoint| endpoint.mtu), Some(1400));
    let (endpoints, kept) = (journal.endpoints(), journal.kept());
    let mode = fs::metadata(dir.path().join(FILE)).expect("there").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let told = Journal::open(dir.path()).expect_err("one agent has it").to_string();
    assert!(told.contains("another agent") && told.contains("--state-dir"), "{told}");
    let told = Journal::peek(dir.path()).expect_err("its agent runs").to_string();
    assert!(told.contains("ask again"), "{told}");
    drop(journal);
    for journal in [Journal::peek(dir.path()), Journal::open(dir.path())] {
        let journal = journal.expect("a journal");
        assert_eq!((journal.endpoints(), journal.kept()), (endpoints.clone(), kept.clone()));
        assert!(journal.problems().is_empty());
    }
}

#[test]
fn concurrent_steps_are_all_written() {
    let dir = tempfile::tempdir().expect("a folder");
    let journal = Journal::open(dir.path()).expect("a journal");
    let barrier = Barrier::new(8);
    thread::scope(|scope| {
        for writer in 0..8_u64 {
            let (journal, barrier) = (&journal, &barrier);
            scope.spawn(move || {
                barrier.wait();
                for n in 0..8 {
                    let step = Step::default().endpoint(&endpoint(&format!("{:016x}", writer << 32 | n)));
                    journal.write(step).expect("a disk");
                }
            });
        }
    });
    let endpoints = journal.endpoints();
    assert_eq!(endpoints.len(), 64);
    drop(journal);
    assert_eq!(Journal::open(dir.path()).expect("a journal").endpoints(), endpoints);
}

#[test]
fn journal_is_written_whole_after_a_database_error() {
    let dir = tempfile::tempdir().expect("a folder");
    let journal = Journal::open(dir.path()).expect("a journal");
    journal.write(Step::default().endpoint(&endpoint(ID))).expect("a disk");
    // As an error leaves it, with a file that has other entries.
    if let Some(database) = journal.database().as_mut() {
        database.close();
    }
    fs::remove_file(dir.path().join(FILE)).expect("there");
    journal.write(Step::default().kept(&kept())).expect("a disk");
    drop(journal);
    let journal = Journal::open(dir.path()).expect("a journal");
    assert_eq!((journal.endpoints().len(), journal.kept().len()), (1, 1));
}

#[test]
fn bad_entry_is_set_aside_and_reported_and_the_others_load() {
    let dir = tempfile::tempdir().expect("a folder");
    drop(Journal::open(dir.path()).expect("a journal"));
    for (id, host) in [(ID, "mgy000000000000"), ("00000000000000bb", "eth0")] {
        smuggle(dir.path(), Table::Endpoints, id, &old_endpoint(id, host).to_string());
    }
    smuggle(dir.path(), Table::Endpoints, "x/../y", "{");
    smuggle(dir.path(), Table::RuntimeNetworks, "y", "[]");
    let told = Journal::peek(dir.path()).expect("a journal").problems();
    assert!(told.len() == 3 && told[0].problem.contains("is not used"), "{told:?}");
    let at = |name: &str| dir.path().join("aside").join(name);
    for _ in 0..2 {
        let journal = Journal::open(dir.path()).expect("the others load");
        let ids: Vec<String> = journal.endpoints().into_keys().collect();
        assert_eq!(ids, [ID]);
        assert!(journal.runtime_networks().is_empty());
        let told = journal.problems();
        assert_eq!(told.len(), 3, "{told:?}");
        let foreign = told.iter().find(|told| told.problem.contains("00000000000000bb.bad")).expect("told");
        assert!(foreign.problem.contains("interface") && foreign.mend.contains("rm "), "{foreign:?}");
    }
    fs::remove_file(at("endpoints-x____y.bad")).expect("it is set aside");
    assert_eq!(Journal::open(dir.path()).expect("a journal").problems().len(), 2);
    smuggle(dir.path(), Table::Endpoints, "z", r#"{"v":9}"#);
    let told = Journal::open(dir.path()).expect_err("a newer agent's is not set aside").to_string();
    assert!(told.contains("entry z of endpoints") && told.contains("newer"), "{told}");
    Journal::erase(dir.path()).expect("a disk");
    assert!(!at("endpoints-00000000000000bb.bad").exists());
}

#[test]
fn a_journal_of_files_is_taken_over_whole_and_only_then_removed() {
    let dir = tempfile::tempdir().expect("a folder");
    let files = [
        (format!("endpoints/{ID}.json"), old_endpoint(ID, "mgy000000000000").to_string()),
        ("endpoints/00000000000000cc.json".into(), old_docker_endpoint().to_string()),
        ("endpoints/00000000000000dd.json".into(), "{".into()),
        ("endpoints/00000000000000ee.bad".into(), "[".into()),
        ("endpoints/00000000000000ff.new".into(), "half".into()),
        ("kept/c1-1.json".into(), String::from_utf8(crate::model::encode(&kept())).expect("text")),
        ("networks/1.json".into(), old_network().to_string()),
        ("docker/n1.json".into(), r#"{"v":1,"id":"n1","network":1,"since":7,"chosen":true}"#.into()),
    ];
    let write = || {
        for (name, text) in &files {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().expect("a folder")).expect("a disk");
            fs::write(path, text).expect("a disk");
        }
    };
    let look = |journal: &Journal| {
        assert_eq!(journal.endpoints().len(), 2);
        assert_eq!(journal.endpoint(ID), Some(endpoint(ID)));
        let docker = journal.endpoint("00000000000000cc").expect("Docker's");
        let Owner::Runtime(handle) = docker.owner else { panic!("{docker:?}") };
        let found = (&*handle.runtime, &*handle.id, &*handle.network, handle.since, handle.asked);
        assert_eq!(found, ("docker", "e1", "n1", 7, true));
        assert_eq!((handle.container.as_deref(), docker.stage), (Some("c1"), Stage::Joined));
        assert_eq!(journal.kept().into_values().collect::<Vec<_>>(), [kept()]);
        assert_eq!(journal.networks()[&1].stash.len(), 1);
        assert!(journal.runtime_networks()["n1"].chosen);
    };
    write();
    look(&Journal::peek(dir.path()).expect("read where it is"));
    // The second time as after a crash before all of them were removed.
    for _ in 0..2 {
        write();
        let journal = Journal::open(dir.path()).expect("a journal");
        look(&journal);
        let told: Vec<String> = journal.problems().into_iter().map(|told| told.problem).collect();
        assert!(told.len() == 2 && told.iter().all(|told| told.contains("aside/endpoints-")), "{told:?}");
        let left = disk::entries(&dir.path().join("endpoints")).expect("a folder");
        assert_eq!(left, [dir.path().join("endpoints/moved.json")]);
        for folder in ["kept", "networks", "docker"] {
            assert!(!dir.path().join(folder).exists(), "{folder}");
        }
    }
    look(&Journal::open(dir.path()).expect("a journal"));
    let fence = fs::read(dir.path().join("endpoints/moved.json")).expect("a file");
    let refused = crate::model::parse::<Endpoint>(&fence).expect_err("an older agent does not start");
    assert!(matches!(refused, crate::model::ValueError::Version(_)), "{refused:?}");
}

#[test]
fn files_stay_where_they_cannot_be_taken_over() {
    let dir = tempfile::tempdir().expect("a folder");
    fs::create_dir_all(dir.path().join("endpoints")).expect("a disk");
    let good = dir.path().join(format!("endpoints/{ID}.json"));
    fs::write(&good, old_endpoint(ID, "mgy000000000000").to_string()).expect("a disk");
    let newer = dir.path().join("endpoints/00000000000000ab.json");
    fs::write(&newer, r#"{"v":9}"#).expect("a disk");
    Journal::open(dir.path()).expect_err("a newer agent's");
    assert!(good.exists() && newer.exists());
}

#[test]
fn broken_database_is_set_aside_whole_and_reported() {
    let dir = tempfile::tempdir().expect("a folder");
    let journal = Journal::open(dir.path()).expect("a journal");
    let mut step = Step::default();
    for n in 0..40_u64 {
        step = step.endpoint(&endpoint(&format!("{n:016x}")));
    }
    journal.write(step).expect("a disk");
    journal.write(Step::default().without_endpoint(&format!("{:016x}", 39))).expect("a disk");
    drop(journal);
    let file = dir.path().join(FILE);
    let good = fs::read(&file).expect("a file");
    let ends = [0, 1, 100, 320, 4095, 4096, 8192, good.len() / 2, good.len() - 1];
    let mut broken: Vec<Vec<u8>> = ends.iter().map(|len| good[..*len].to_vec()).collect();
    broken.push(b"something else altogether".repeat(1000));
    // A byte of the header, and of every few pages.
    for at in (0..128).step_by(3).chain((0..good.len()).step_by(13_007)) {
        let mut bytes = good.clone();
        bytes[at] ^= 0xff;
        broken.push(bytes);
    }
    let mut set_aside = 0;
    for bytes in broken {
        fs::write(&file, &bytes).expect("a disk");
        drop(Journal::peek(dir.path()).expect("whatever stands there"));
        let journal = Journal::open(dir.path()).expect("an agent starts with what there is");
        let told = journal.problems();
        if told.is_empty() {
            assert!(journal.endpoints().len() >= 39, "nothing is lost and not told");
            continue;
        }
        set_aside += 1;
        assert!(told[0].problem.contains("journal.redb.bad") && told[0].mend.contains("rm "), "{told:?}");
        let aside = dir.path().join("aside/journal.redb.bad");
        fs::remove_file(aside).expect("there");
        journal.write(Step::default().endpoint(&endpoint(ID))).expect("it works on");
    }
    assert!(set_aside > 9, "{set_aside}");
}
