//! Dropped packets in the log.

use margay_tests::{container::Namespace, eventually::eventually, frame::Frame, host::Host, lab::Lab, raw};

use crate::attach::one_host;

fn switch(host: &Host, to: &str) {
    host.ok(&["log", "datapath", to]);
}

#[track_caller]
fn is_logged(host: &Host, line: &str) {
    eventually("the drop is logged", || {
        let log = host.log();
        if log.contains(line) { Ok(()) } else { Err(log) }
    });
}

/// A host with a container that has a name, and one of another network.
fn lab() -> (Lab, Namespace) {
    let lab = one_host();
    lab.h(1).ok(&["network", "create", "red", "--subnet", "10.2.0.0/16", "--subnet", "fd00:2::/64"]);
    let web = lab.container();
    lab.h(1).attach(&web, "blue", &["--name", "web"]);
    (lab, web)
}

#[test]
fn drops_are_logged_while_switched_on() {
    let (lab, web) = lab();
    let host = lab.h(1);
    let (db, red) = (lab.container(), lab.container());
    host.attach(&red, "red", &["--name", "db"]);
    assert!(!web.reaches("10.2.0.7".parse().expect("a literal")));
    switch(host, "on");
    assert!(!web.reaches("10.2.0.8".parse().expect("a literal")));
    is_logged(host, "from_workload dropped 98 bytes from web (10.1.0.2): isolated, to 10.2.0.8");
    assert!(!web.reaches("fd00:2::2".parse().expect("a literal")));
    is_logged(host, "from_workload dropped 118 bytes from web (fd00:1::2): isolated, to db (fd00:2::2)");
    let frame = Frame::udp(raw::mac(&web, "eth0"), [10, 1, 0, 9].into(), [10, 1, 0, 3].into());
    raw::send(&web.path(), raw::index(&web, "eth0"), 0, &frame.bytes()).expect("a raw socket sends it");
    is_logged(
        host,
        "from_workload dropped 74 bytes from web (10.1.0.2): spoofed_source, as 10.1.0.9, to 10.1.0.3",
    );
    let outside = lab.outsider();
    outside.sh("ip route add 10.1.0.0/16 via 192.0.2.1");
    assert!(!outside.reaches("10.1.0.2".parse().expect("a literal")));
    is_logged(host, "from_network dropped 98 bytes from 192.0.2.200: outside, to web (10.1.0.2)");
    // Drops are not logged while the log is switched off.
    switch(host, "off");
    let before = host.count("from_workload", "isolated");
    assert!(!web.reaches("10.2.0.10".parse().expect("a literal")));
    assert_eq!(host.count("from_workload", "isolated"), before + 1);
    switch(host, "on");
    assert!(!web.reaches("10.2.0.11".parse().expect("a literal")));
    is_logged(host, "isolated, to 10.2.0.11");
    let log = host.log();
    assert!(!log.contains("10.2.0.7") && !log.contains("10.2.0.10"), "{log}");
    drop(db);
}

/// A flood of one container neither fills the log nor hides other containers' drops, and the
/// log says how many drops it left out.
#[test]
fn a_flood_of_drops_is_rate_limited_and_counted() {
    const FLOOD: u64 = 20_000;
    let (lab, web) = lab();
    let host = lab.h(1);
    let other = lab.container();
    host.attach(&other, "blue", &["--name", "other"]);
    switch(host, "on");
    // Forged source addresses change nothing, since the budget belongs to the interface.
    let frame = Frame::udp(raw::mac(&web, "eth0"), [10, 1, 0, 3].into(), [10, 1, 0, 4].into()).bytes();
    let index = raw::index(&web, "eth0");
    raw::send_times(&web.path(), index, 0, &frame, FLOOD as usize).expect("a raw socket sends them");
    assert!(!other.reaches("10.2.0.7".parse().expect("a literal")));
    is_logged(host, "from other (10.1.0.3): isolated, to 10.2.0.7");
    let told = eventually("every drop is logged or counted as omitted", || {
        let log = host.log();
        let told = log.lines().filter(|line| line.contains("spoofed_source")).count() as u64;
        let more = log.lines().filter_map(|line| line.split_once(" more drops are not logged"));
        let omitted: u64 = more.filter_map(|(line, _)| line.rsplit(' ').next()?.parse::<u64>().ok()).sum();
        // Neighbour discovery of the container's own kernel may be among them.
        let all = told + omitted >= FLOOD && omitted == host.count("from_workload", "log_limited");
        if all { Ok(told) } else { Err((told, omitted)) }
    });
    // Its discovery of neighbours takes a part of the ten that it has in a second.
    assert!((1..FLOOD).contains(&told), "{told} of {FLOOD}");
}
