use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
};

use margay_common::{
    endpoint::{EndpointEntry, Workload},
    net::Addr,
    route::RouteKey,
    verdict::Program,
};

use tokio::sync::Semaphore;

use super::*;
use crate::{
    desired::{LocalFacts, Uplink, Xdp},
    model::{
        membership::{Loss, Trust},
        snapshot::{self, Snapshot},
    },
    problem::Problem,
    reconcile::Change,
    store::{Away, Listing},
    tables::{Attachment, Entry, Firewall, HostRoute, Key, Tables, XdpAttachment},
};

mod meanwhile;

/// A kernel that holds what it is told and notes every call.
#[derive(Clone, Default)]
struct Recorder {
    tables: Arc<Mutex<Tables>>,
    calls: Arc<Mutex<Vec<String>>>,
    refuse: Arc<Mutex<Option<Key>>>,
    /// Changes of the firewall wait for this.
    slow: Option<Arc<Semaphore>>,
}

impl Kernel for Recorder {
    async fn read(&mut self, part: Part) -> Result<Tables> {
        self.calls.lock().expect("no panic").push(format!("read {part:?}"));
        let mut tables = self.tables.lock().expect("no panic").clone();
        if part == Part::Host {
            let Tables { host_routes, firewall, accepts, sysctls, .. } = tables;
            tables = Tables { host_routes, firewall, accepts, sysctls, ..Tables::default() };
        }
        Ok(tables)
    }

    async fn apply(&mut self, change: &Change) -> Result<()> {
        self.calls.lock().expect("no panic").push(format!("{change:?}"));
        if self.refuse.lock().expect("no panic").as_ref() == Some(&change.key()) {
            return Err(crate::kernel::xdp::Refused("no room".into()).into());
        }
        if let (Key::Firewall(()), Some(slow)) = (change.key(), &self.slow) {
            slow.acquire().await.expect("it is open").forget();
        }
        let mut tables = self.tables.lock().expect("no panic");
        match change {
            Change::Put(entry) => tables.put(entry.clone()),
            Change::Remove(key) => tables.remove(key),
        }
        Ok(())
    }
}

struct Bench {
    kernel: Recorder,
    store: mpsc::Sender<Feed>,
    control: Control,
    vanished: mpsc::Receiver<String>,
    _links: mpsc::Sender<()>,
}

fn start(kernel: Recorder) -> Bench {
    start_with(kernel, Xdp::default())
}

fn start_with(kernel: Recorder, xdp: Xdp) -> Bench {
    let (control_loop, bench) = prepare(kernel, xdp);
    tokio::spawn(control_loop.run());
    bench
}

fn prepare(kernel: Recorder, xdp: Xdp) -> (Loop<Recorder>, Bench) {
    let netlink = crate::kernel::netlink().expect("netlink needs no privilege to open");
    let (store, store_feed) = mpsc::channel(8);
    let (links, link_feed) = mpsc::channel(1);
    let (control, requests) = Control::channel();
    let (tell_vanished, vanished) = mpsc::channel(8);
    let facts = LocalFacts {
        node: "h1".into(),
        uplink: Uplink { name: "lo".into(), ..Uplink::default() },
        xdp,
        ..LocalFacts::default()
    };
    let state = State { facts, ..State::default() };
    let sources = Sources {
        store: store_feed,
        links: link_feed,
        routes: mpsc::channel(1).1,
        world: mpsc::channel(1).1,
        requests,
        vanished: tell_vanished,
        rounds: watch::channel(0).0,
    };
    let originals = Originals::of("/nonexistent".as_ref());
    let control_loop = Loop::new(kernel.clone(), netlink, originals, state, sources);
    (control_loop, Bench { kernel, store, control, vanished, _links: links })
}

/// Whether anything is under way beside the loop, or will be.
fn at_work(control_loop: &Loop<Recorder>) -> bool {
    let Loop { aside, open, .. } = control_loop;
    let reads = aside.is_reading(Part::Own) || aside.is_reading(Part::Host);
    let looks = [Task::Host, Task::Routes, Task::Told].into_iter().any(|task| aside.is_at(task));
    reads || looks || control_loop.has_to_look() || control_loop.restless || !open.is_empty(Lane::Quick)
}

/// Waits until the view says so.
async fn until(bench: &Bench, holds: impl Fn(&State) -> bool) {
    while !holds(&bench.control.view()) {
        tokio::task::yield_now().await;
    }
}

fn network() -> snapshot::Event {
    snapshot::Event::Put {
        key: "/margay/v1/networks/1".into(),
        value: br#"{"v":1,"id":1,"name":"blue","subnets":[
            {"cidr":"10.1.0.0/16","gateway":"10.1.0.1","block_len":26}]}"#
            .to_vec(),
        revision: 5,
    }
}

#[tokio::test]
async fn nothing_is_touched_before_the_store_is_in_sync() {
    let mut tables = Tables::default();
    tables.workloads.insert(9, Default::default());
    let kernel = Recorder { tables: Arc::new(Mutex::new(tables)), ..Recorder::default() };
    let bench = start(kernel);
    bench.store.send(Feed::Away(Away::new("down", "mend"))).await.expect("the loop runs");
    until(&bench, |state| state.store.away.is_some()).await;
    assert!(bench.kernel.calls.lock().expect("no panic").is_empty());
    let listing = Listing { revision: 5, entries: vec![network()] };
    bench.store.send(Feed::Listing(listing)).await.expect("the loop runs");
    bench.control.revision(5).await.expect("reached");
    let tables = bench.kernel.tables.lock().expect("no panic");
    assert!(tables.workloads.is_empty(), "what is not wanted is swept");
    assert_eq!(tables.host_routes.len(), 1);
}

#[tokio::test]
async fn failed_change_is_shown_as_pending_and_stops_no_other() {
    let refused = Key::HostRoute("10.1.0.0/16".parse().expect("a literal"));
    let kernel = Recorder { refuse: Arc::new(Mutex::new(Some(refused.clone()))), ..Recorder::default() };
    let bench = start(kernel);
    let listing = Listing { revision: 5, entries: vec![network()] };
    bench.store.send(Feed::Listing(listing)).await.expect("the loop runs");
    bench.control.revision(5).await.expect("reached");
    let key = refused.clone();
    let reason =
        bench.control.look(move |state| state.retry.pending().get(&key).map(|p| p.reason.problem.clone()));
    assert_eq!(reason.await.expect("the loop runs").as_deref(), Some("no room"));
    assert_eq!(bench.kernel.tables.lock().expect("no panic").prefixes.len(), 1);
    *bench.kernel.refuse.lock().expect("no panic") = None;
    // The loop tries again by itself.
    until(&bench, |state| state.retry.pending().is_empty()).await;
    assert_eq!(bench.kernel.tables.lock().expect("no panic").host_routes.len(), 1);
}

#[tokio::test]
async fn xdp_program_that_cannot_be_removed_is_reported() {
    let stuck = Recorder { refuse: Arc::new(Mutex::new(Some(Key::Xdp("lo".into())))), ..Recorder::default() };
    let there = XdpAttachment { native: true, current: true };
    stuck.tables.lock().expect("no panic").xdp.insert("lo".into(), there);
    let bench = start_with(stuck, Xdp::Off("off".into()));
    bench.store.send(Feed::Listing(Listing { revision: 5, entries: vec![] })).await.expect("the loop runs");
    until(&bench, |state| state.xdp() == "native (no room)").await;
}

#[tokio::test]
async fn xdp_is_off_after_the_driver_refuses_it_unless_native_is_configured() {
    for (wanted, pending, xdp) in
        [(Xdp::Auto, 0, Xdp::Off("off: no room".into())), (Xdp::Native, 1, Xdp::Native)]
    {
        let refuse = Arc::new(Mutex::new(Some(Key::Xdp("lo".into()))));
        let bench = start_with(Recorder { refuse, ..Recorder::default() }, wanted);
        let listing = Listing { revision: 5, entries: vec![network()] };
        bench.store.send(Feed::Listing(listing)).await.expect("the loop runs");
        until(&bench, |state| {
            let told = (state.xdp(), state.hooks_are_settled());
            (state.retry.pending().len(), state.facts.xdp.clone(), told)
                == (pending, xdp.clone(), ("off: no room".into(), true))
        })
        .await;
    }
}

#[tokio::test]
async fn xdp_auto_removes_its_program_when_the_driver_refuses_a_change() {
    let stuck = Recorder { refuse: Arc::new(Mutex::new(Some(Key::Xdp("lo".into())))), ..Recorder::default() };
    let there = XdpAttachment { native: false, current: true };
    stuck.tables.lock().expect("no panic").xdp.insert("lo".into(), there);
    let bench = start_with(stuck, Xdp::Auto);
    bench.store.send(Feed::Listing(Listing { revision: 5, entries: vec![] })).await.expect("the loop runs");
    // After it was refused, it was tried to take it off.
    until(&bench, |state| state.xdp() == "generic (no room)").await;
}

#[tokio::test]
async fn an_in_sync_kernel_is_only_read() {
    let first = start(Recorder::default());
    let listing = || Feed::Listing(Listing { revision: 5, entries: vec![network()] });
    first.store.send(listing()).await.expect("the loop runs");
    first.control.revision(5).await.expect("reached");
    let kernel = Recorder { tables: Arc::clone(&first.kernel.tables), ..Recorder::default() };
    let second = start(kernel);
    second.store.send(listing()).await.expect("the loop runs");
    second.control.revision(5).await.expect("reached");
    let reads = || second.kernel.calls.lock().expect("no panic").len() >= 2;
    until(&second, |state| state.is_read() && !state.changing && reads()).await;
    let mut calls = second.kernel.calls.lock().expect("no panic").clone();
    calls.sort();
    assert_eq!(calls, ["read Host", "read Own"]);
}

/// Who looks between the minute's tick and what it has read is told what was read last.
#[tokio::test]
async fn last_reading_counts_until_the_next_one_is_complete() {
    let (mut control_loop, bench) = prepare(Recorder::default(), Xdp::default());
    let reads =
        || bench.kernel.calls.lock().expect("no panic").iter().filter(|call| *call == "read Own").count();
    let listing = Listing { revision: 5, entries: vec![network()] };
    assert!(control_loop.handle(Event::Store(Some(Feed::Listing(listing)))));
    control_loop.round().await;
    while !control_loop.state.is_read() {
        let report = control_loop.aside.report().await;
        assert!(control_loop.handle(Event::Report(Box::new(report))));
        control_loop.round().await;
    }
    control_loop.read_due = Instant::now();
    assert!(control_loop.handle(Event::Tick));
    assert!(control_loop.state.is_read() && control_loop.aside.is_reading(Part::Own));
    // One who asks meanwhile has it read once more behind that.
    control_loop.state.doubts += 1;
    control_loop.round().await;
    while !control_loop.state.is_read() {
        let report = control_loop.aside.report().await;
        assert!(control_loop.handle(Event::Report(Box::new(report))));
        control_loop.round().await;
    }
    assert_eq!(reads(), 3);
}

/// A firewall's program that takes its time keeps nobody waiting, and what it came to counts.
#[tokio::test]
async fn a_slow_change_blocks_no_other() {
    let slow = Arc::new(Semaphore::new(0));
    let kernel = Recorder { slow: Some(Arc::clone(&slow)), ..Recorder::default() };
    kernel.tables.lock().expect("no panic").put(Entry::Firewall((), Firewall::default()));
    let bench = start(kernel);
    bench.store.send(Feed::Listing(Listing { revision: 5, entries: vec![] })).await.expect("the loop runs");
    bench.control.revision(5).await.expect("reached");
    // Not masqueraded: the table is to go, which takes as long as it takes.
    let gone = "Remove(Firewall(()))";
    until(&bench, |_| bench.kernel.calls.lock().expect("no panic").iter().any(|call| call == gone)).await;
    let events = Feed::Events { revision: 6, whole: Snapshot::PREFIXES.into(), events: vec![network()] };
    bench.store.send(events).await.expect("the loop runs");
    bench.control.revision(6).await.expect("reached");
    let held = |bench: &Bench| {
        let tables = bench.kernel.tables.lock().expect("no panic");
        (tables.host_routes.len(), tables.firewall.len())
    };
    assert_eq!(held(&bench), (1, 1), "the network is there, the table as well");
    assert!(!bench.control.view().actual.as_ref().expect("read").firewall.is_empty());
    slow.add_permits(1);
    until(&bench, |state| state.actual.as_ref().is_some_and(|actual| actual.firewall.is_empty())).await;
    assert_eq!(held(&bench), (1, 0));
    let calls = bench.kernel.calls.lock().expect("no panic");
    assert_eq!(calls.iter().filter(|call| *call == gone).count(), 1, "once is enough");
}

/// A reading that began before a change does not undo it.
#[tokio::test]
async fn change_made_during_a_reading_outlives_the_reading() {
    let (mut control_loop, _bench) = prepare(Recorder::default(), Xdp::default());
    let key = Key::Workload(7);
    control_loop.state.doubts = 3;
    let mut read = Tables::default();
    read.put(Entry::Workload(8, Workload::default()));
    let before = Tables { workloads: [(7, Workload::default())].into(), ..Tables::default() };
    control_loop.state.actual = Some(before);
    control_loop.state.has_read(read, &[key.clone(), Key::Workload(8)].into(), 3);
    let actual = control_loop.state.actual.as_ref().expect("read");
    assert!(actual.get(&key).is_some() && actual.workloads.len() == 1 && control_loop.state.is_read());
}

/// What is tried again is the change that failed, and nothing is folded for it.
#[tokio::test]
async fn retry_repeats_the_failed_change_alone() {
    let refused = Key::HostRoute("10.1.0.0/16".parse().expect("a literal"));
    let kernel = Recorder { refuse: Arc::new(Mutex::new(Some(refused.clone()))), ..Recorder::default() };
    let (mut control_loop, bench) = prepare(kernel, Xdp::default());
    let listing = Listing { revision: 5, entries: vec![network()] };
    assert!(control_loop.handle(Event::Store(Some(Feed::Listing(listing)))));
    control_loop.round().await;
    // Everything has been read, and folded for the last time.
    let is_open = |control_loop: &Loop<Recorder>| control_loop.state.retry.pending().contains_key(&refused);
    while !is_open(&control_loop) || !control_loop.aside.has_read_host() || at_work(&control_loop) {
        let event = control_loop.next().await;
        assert!(control_loop.handle(event));
        control_loop.round().await;
    }
    // A fold would take this away again.
    let strange = Key::HostRoute("10.9.0.0/16".parse().expect("a literal"));
    let route = HostRoute { gateway: "10.9.0.1".parse().expect("a literal"), source: None, mtu: 1500 };
    control_loop.state.fold.tables.host_routes.insert("10.9.0.0/16".parse().expect("a literal"), route);
    *bench.kernel.refuse.lock().expect("no panic") = None;
    bench.kernel.calls.lock().expect("no panic").clear();
    while !control_loop.state.retry.pending().is_empty() {
        let event = control_loop.next().await;
        assert!(control_loop.handle(event));
        control_loop.round().await;
    }
    let calls = bench.kernel.calls.lock().expect("no panic").clone();
    let puts: Vec<&String> = calls.iter().filter(|call| !call.starts_with("read")).collect();
    assert!(puts.len() == 1 && puts[0].contains("10.1.0.0/16"), "{calls:?}");
    assert!(control_loop.state.fold.tables.get(&strange).is_some());
}

/// The minute's reading is compared with what was folded before, and folds nothing.
#[tokio::test]
async fn reading_restores_lost_entries_without_a_fold() {
    let (mut control_loop, bench) = prepare(Recorder::default(), Xdp::default());
    let listing = Listing { revision: 5, entries: vec![network()] };
    assert!(control_loop.handle(Event::Store(Some(Feed::Listing(listing)))));
    control_loop.round().await;
    let settled =
        |control_loop: &Loop<Recorder>| control_loop.aside.has_read_host() && !at_work(control_loop);
    while !settled(&control_loop) {
        let event = control_loop.next().await;
        assert!(control_loop.handle(event));
        control_loop.round().await;
    }
    // A fold would take this away.
    let strange = Entry::Workload(9, Workload::default());
    let lost = control_loop.state.fold.tables.host_routes.keys().next().copied().expect("the network's");
    control_loop.state.fold.tables.put(strange.clone());
    let held = || bench.kernel.tables.lock().expect("no panic");
    held().put(strange.clone());
    held().host_routes.remove(&lost);
    control_loop.read(Part::Own);
    while !settled(&control_loop) {
        let event = control_loop.next().await;
        assert!(control_loop.handle(event));
        control_loop.round().await;
    }
    assert!(held().host_routes.contains_key(&lost), "the kernel had lost it");
    assert_eq!(held().get(&strange.key()), Some(strange));
}

/// Without the store and without endpoints there is no round that would set the next tick.
#[tokio::test]
async fn idle_tick_is_not_followed_by_another_at_once() {
    let (mut control_loop, _bench) = prepare(Recorder::default(), Xdp::default());
    assert!(control_loop.handle(Event::Tick) && !control_loop.has_business());
    assert!(control_loop.read_due > Instant::now(), "it would spin");
}

#[tokio::test]
async fn unreadable_value_removes_nothing() {
    let first = start(Recorder::default());
    let listing = |event| Feed::Listing(Listing { revision: 5, entries: vec![event] });
    first.store.send(listing(network())).await.expect("the loop runs");
    first.control.revision(5).await.expect("reached");
    let mut tables = first.kernel.tables.lock().expect("no panic").clone();
    let key = |network| RouteKey::new(network, 96, Addr::default());
    tables.routes.insert(key(1), Default::default());
    let mut kernel = tables.clone();
    kernel.routes.insert(key(2), Default::default());
    // A restarted agent has no last good value of what it cannot read.
    let second = start(Recorder { tables: Arc::new(Mutex::new(kernel)), ..Recorder::default() });
    let broken =
        snapshot::Event::Put { key: "/margay/v1/networks/1".into(), value: b"{".to_vec(), revision: 5 };
    second.store.send(listing(broken)).await.expect("the loop runs");
    second.control.revision(5).await.expect("reached");
    let left = second.kernel.tables.lock().expect("no panic");
    assert_eq!(*left, tables, "what hangs on it stays, a route of another network goes");
}

#[tokio::test]
async fn interface_of_an_attach_in_progress_is_kept() {
    let kernel = Recorder::default();
    let bench = start(kernel.clone());
    bench.control.expect("mgy000000000001".into()).await.expect("the loop runs");
    let veth = crate::tables::Interface::Endpoint;
    for name in ["mgy000000000001", "mgy000000000002"] {
        kernel.tables.lock().expect("no panic").interfaces.insert(name.into(), veth);
    }
    bench.store.send(Feed::Listing(Listing { revision: 5, entries: vec![] })).await.expect("the loop runs");
    bench.control.revision(5).await.expect("reached");
    let tables = kernel.tables.lock().expect("no panic");
    assert!(tables.interfaces.contains_key("mgy000000000001"));
    assert!(!tables.interfaces.contains_key("mgy000000000002"), "an orphan goes");
}

/// An attach under a store that lost something: the container's number comes after its
/// entries, and is this host's own to know. All else of them is the store's.
#[test]
fn a_container_is_numbered_also_while_the_store_is_lossy() {
    let workload = Workload { network: 1, ..Workload::default() };
    let endpoint = EndpointEntry { ifindex: 9, network: 1, ..EndpointEntry::default() };
    let addr = Addr::default();
    let mut actual = Tables::default();
    actual.put(Entry::Workload(9, workload));
    actual.put(Entry::Endpoint(addr, endpoint));
    let state = State { trust: Trust::Lossy(Loss::Emptied), ..State::default() };
    let permits = |entry| state.permits(&Change::Put(entry), &actual, &BTreeSet::new());
    assert!(permits(Entry::Workload(9, Workload { sandbox: 4, ..workload })));
    assert!(permits(Entry::Endpoint(addr, EndpointEntry { sandbox: 4, ..endpoint })));
    assert!(!permits(Entry::Workload(9, Workload { sandbox: 4, network: 2, ..workload })));
    assert!(!permits(Entry::Endpoint(addr, EndpointEntry { sandbox: 4, network: 2, ..endpoint })));
}

/// The loop may have the store's listing before the kernel has any of it. A request at that time
/// must not remove maps that an earlier object's programs still read.
#[test]
fn hooks_are_settled_when_no_program_of_another_object_is_left() {
    let settled = |tc: bool, xdp: bool| {
        let mut actual = Tables::default();
        let attachment = Attachment { program: Program::FromNetwork, current: tc };
        actual.put(Entry::Attachment("up0".into(), attachment));
        actual.put(Entry::Xdp("up0".into(), XdpAttachment { native: true, current: xdp }));
        let state = State { trust: Trust::Whole, actual: Some(actual), read: Some(0), ..State::default() };
        state.hooks_are_settled()
    };
    assert!(settled(true, true));
    assert!(!settled(false, true) && !settled(true, false));
    assert!(!State::default().hooks_are_settled(), "the kernel was not read yet");
}

fn served() -> crate::model::endpoint::Endpoint {
    serde_json::from_value(serde_json::json!({
        "id": "0123456789abcdef", "network": 1, "network_name": "blue", "addresses": ["10.1.0.2"],
        "mac": "02:00:00:00:00:01", "netns": "/a", "sandbox": 5, "ifname": "eth0",
        "host_interface": "mgy0123456789ab", "mtu": 1500, "owner": "command",
    }))
    .expect("an endpoint")
}

#[tokio::test]
async fn update_of_a_released_endpoint_does_nothing_and_says_so() {
    let (mut control_loop, _bench) = prepare(Recorder::default(), Xdp::default());
    let endpoint = served();
    for is_there in [false, true] {
        if is_there {
            control_loop.state.facts.endpoints.insert(endpoint.id.clone(), endpoint.clone());
        }
        let (reply, told) = oneshot::channel();
        let mut renamed = endpoint.clone();
        renamed.name = Some("web".into());
        control_loop.take(Request::Update(Box::new(renamed), reply));
        control_loop.publish();
        assert_eq!(told.await, Ok(is_there));
        let endpoints = control_loop.state.facts.endpoints.values();
        let names: Vec<_> = endpoints.map(|endpoint| endpoint.name.as_deref()).collect();
        assert_eq!(names, if is_there { vec![Some("web")] } else { vec![] });
    }
}

#[tokio::test]
async fn request_whose_sender_has_gone_is_dropped() {
    let (mut control_loop, bench) = prepare(Recorder::default(), Xdp::default());
    let (gone, here) = (oneshot::channel(), oneshot::channel());
    for (reply, revision) in [(gone.0, 7), (here.0, 8)] {
        assert!(control_loop.handle(Event::Request(Some(Request::Revision(revision, reply)))));
    }
    let (served_gone, served_here) = (oneshot::channel(), oneshot::channel());
    for reply in [served_gone.0, served_here.0] {
        control_loop.take(Request::Serve(Box::new(served()), reply));
    }
    drop((gone.1, served_gone.1));
    control_loop.answer();
    assert_eq!((control_loop.revisions.len(), control_loop.waiters.len()), (1, 1));
    drop((here.1, served_here.1, bench));
}

/// A change that failed and is due while the store is not to be believed stays, and is tried
/// again when it may be made.
#[tokio::test]
async fn due_change_that_may_not_be_made_waits_again() {
    let (mut control_loop, bench) = prepare(Recorder::default(), Xdp::default());
    let key = Key::Workload(9);
    let tables = Tables { workloads: [(9, Workload::default())].into(), ..Tables::default() };
    bench.kernel.tables.lock().expect("no panic").put(Entry::Workload(9, Workload::default()));
    (control_loop.state.actual, control_loop.state.read) = (Some(tables), Some(0));
    control_loop.dirty = Dirty::Nothing;
    control_loop.state.trust = Trust::Lossy(Loss::Emptied);
    control_loop.state.retry.failed(key.clone(), Problem::new("no", "wait"), Duration::ZERO);
    let due = control_loop.state.retry.take_due(Duration::MAX);
    assert_eq!(due, std::slice::from_ref(&key));
    control_loop.reopen(&key);
    control_loop.apply().await;
    let State { retry, .. } = &control_loop.state;
    assert!(retry.next_due().is_some() && retry.pending().contains_key(&key));
    assert_eq!(retry.pending().values().map(|pending| pending.failures).next(), Some(1), "nothing failed");
    control_loop.state.trust = Trust::Whole;
    control_loop.reopen(&key);
    control_loop.apply().await;
    assert!(control_loop.state.retry.pending().is_empty());
    assert!(bench.kernel.tables.lock().expect("no panic").workloads.is_empty());
}

#[tokio::test]
async fn open_changes_are_dropped_while_no_change_is_permitted() {
    let (mut control_loop, _bench) = prepare(Recorder::default(), Xdp::default());
    let tables = Tables { workloads: [(9, Workload::default())].into(), ..Tables::default() };
    (control_loop.state.actual, control_loop.state.read) = (Some(tables), Some(0));
    control_loop.dirty = Dirty::Nothing;
    control_loop.reopen(&Key::Workload(9));
    assert!(!control_loop.has_business() && !control_loop.open.is_done());
    control_loop.round().await;
    assert!(control_loop.open.is_done() && !control_loop.state.changing);
    assert_eq!(control_loop.dirty, Dirty::Everything, "or it would be missed later");
}
