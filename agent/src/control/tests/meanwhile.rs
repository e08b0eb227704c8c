//! The loop goes on while what takes time is under way.

use std::{future::Future, sync::mpsc as threads};

use tokio::runtime::Builder;

use super::{
    super::aside::{HostLook, RoutesLook},
    *,
};

/// Runs a test on a runtime whose one thread for what takes time has something else to do
/// until it is told.
fn with_no_thread<T: Future<Output = ()>>(test: impl FnOnce(threads::Sender<()>) -> T) {
    let runtime = Builder::new_current_thread().enable_all().max_blocking_threads(1).build();
    let runtime = runtime.expect("a runtime");
    let (tell, told) = threads::channel();
    runtime.spawn_blocking(move || told.recv());
    runtime.block_on(test(tell));
}

fn denied() -> snapshot::Event {
    snapshot::Event::Put {
        key: "/margay/v1/refused/203.0.113.0-24".into(),
        value: br#"{"v":1,"since":1,"comment":""}"#.to_vec(),
        revision: 6,
    }
}

/// Hands reports to the loop until one is a look at the host, and returns that one.
async fn look_of_host(control_loop: &mut Loop<Recorder>) -> (HostLook, Result<crate::kernel::facts::Look>) {
    loop {
        match control_loop.aside.report().await {
            Report::Links(look, result) => return (look, result),
            report => assert!(control_loop.handle(Event::Report(Box::new(report)))),
        }
    }
}

#[test]
fn a_listing_is_decoded_while_the_loop_answers() {
    with_no_thread(async |tell| {
        let bench = start(Recorder::default());
        let listing = Listing { revision: 5, entries: vec![network()] };
        bench.store.send(Feed::Listing(listing)).await.expect("the loop runs");
        while bench.store.capacity() < bench.store.max_capacity() {
            tokio::task::yield_now().await;
        }
        bench.control.expect("mgy000000000001".into()).await.expect("answered meanwhile");
        assert_eq!(bench.control.view().trust, Trust::Unseen);
        // What follows a listing counts after it.
        let whole = Snapshot::PREFIXES.into();
        let events = Feed::Events { revision: 6, whole, events: vec![denied()] };
        bench.store.send(events).await.expect("the loop runs");
        bench.control.expect("mgy000000000002".into()).await.expect("answered meanwhile");
        assert_eq!(bench.control.view().told, 0);
        tell.send(()).expect("the thread waits for it");
        bench.control.revision(6).await.expect("reached");
        let view = bench.control.view();
        assert_eq!((view.snapshot.networks.len(), view.snapshot.denied.len()), (1, 1));
    });
}

#[tokio::test]
async fn looks_without_an_answer_delay_no_request() {
    let (silent, _unheard) = crate::kernel::silent_netlink().expect("netlink needs no privilege to open");
    let (mut control_loop, bench) = prepare(Recorder::default(), Xdp::default());
    control_loop.netlink = silent;
    control_loop.held = false;
    tokio::spawn(control_loop.run());
    // The second comes after a round.
    for interface in ["mgy000000000001", "mgy000000000002"] {
        bench.control.expect(interface.into()).await.expect("answered meanwhile");
    }
    // What no route has a say in counts at once.
    let events = Feed::Events { revision: 6, whole: Snapshot::PREFIXES.into(), events: vec![denied()] };
    bench.store.send(events).await.expect("the loop runs");
    until(&bench, |_| bench.kernel.tables.lock().expect("no panic").denied.len() == 1).await;
    // What needs a look does not.
    let events = Feed::Events { revision: 7, whole: Snapshot::PREFIXES.into(), events: vec![network()] };
    bench.store.send(events).await.expect("the loop runs");
    while bench.store.capacity() < bench.store.max_capacity() {
        tokio::task::yield_now().await;
    }
    bench.control.expect("mgy000000000003".into()).await.expect("answered meanwhile");
    assert_eq!(bench.control.view().told, 6);
}

#[test]
fn change_during_a_look_causes_another_look() {
    with_no_thread(async |tell| {
        let (mut control_loop, _bench) = prepare(Recorder::default(), Xdp::default());
        control_loop.round().await;
        let under_way = |control_loop: &Loop<Recorder>| {
            [Task::Host, Task::Routes].map(|task| control_loop.aside.is_at(task))
        };
        assert_eq!((under_way(&control_loop), control_loop.aside.looks()), ([true; 2], 1));
        assert!(control_loop.handle(Event::Link) && control_loop.handle(Event::Routes(Changed::All)));
        control_loop.round().await;
        assert_eq!(control_loop.aside.looks(), 1, "one at a time");
        assert_eq!(control_loop.state.routes.stale, Some(Changed::All));
        tell.send(()).expect("the thread waits for it");
        while under_way(&control_loop).contains(&true) {
            let report = control_loop.aside.report().await;
            assert!(control_loop.handle(Event::Report(Box::new(report))));
        }
        assert!(control_loop.state.facts_stale && control_loop.state.routes.stale.is_some());
        control_loop.round().await;
        assert_eq!(under_way(&control_loop), [true; 2]);
        while under_way(&control_loop).contains(&true) {
            let report = control_loop.aside.report().await;
            assert!(control_loop.handle(Event::Report(Box::new(report))));
        }
        assert_eq!((control_loop.aside.looks(), control_loop.state.facts_stale), (2, false));
    });
}

/// An endpoint that came during a look has an interface that the look may have missed.
#[test]
fn an_endpoint_newer_than_a_look_is_not_taken_for_vanished() {
    with_no_thread(async |tell| {
        let (mut control_loop, mut bench) = prepare(Recorder::default(), Xdp::default());
        let before = served();
        control_loop.state.facts.endpoints.insert(before.id.clone(), before);
        control_loop.round().await;
        // Nobody waits for it any more, which makes no difference.
        let (reply, _) = oneshot::channel();
        assert!(control_loop.handle(Event::Request(Some(Request::Serve(Box::new(served()), reply)))));
        tell.send(()).expect("the thread waits for it");
        let (look, result) = look_of_host(&mut control_loop).await;
        assert!(look.number == 1 && look.expected.contains("mgy0123456789ab"));
        assert!(control_loop.handle(Event::Report(Box::new(Report::Links(look, result)))));
        assert!(bench.vanished.try_recv().is_err(), "the next look tells");
        control_loop.round().await;
        assert!(control_loop.aside.is_at(Task::Host), "another follows");
        let (look, result) = look_of_host(&mut control_loop).await;
        assert!(control_loop.handle(Event::Report(Box::new(Report::Links(look, result)))));
        assert_eq!(bench.vanished.try_recv().ok().as_deref(), Some("0123456789abcdef"));
    });
}

#[tokio::test]
async fn a_look_at_the_routes_of_another_uplink_does_not_count() {
    let (mut control_loop, _bench) = prepare(Recorder::default(), Xdp::default());
    let begun = |ifindex| RoutesLook {
        uplink: Uplink { name: "lo".into(), ifindex, ..Uplink::default() },
        changed: Changed::All,
    };
    control_loop.state.routes.stale = None;
    control_loop.routes_looked_at(begun(7), Ok(Default::default()));
    assert_eq!(control_loop.state.routes.stale, Some(Changed::All));
    control_loop.state.routes.stale = None;
    control_loop.routes_looked_at(begun(0), Ok(Default::default()));
    assert_eq!(control_loop.state.routes.stale, None);
}
