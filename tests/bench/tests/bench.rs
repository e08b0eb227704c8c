//! The bench works: two candidates in its quick form, and its own loads. This test does not
//! check figures.

use std::{fs, process::Command};

use margay_tests::{container::Namespace, eventually::eventually, process::say};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

#[test]
fn the_bench_compares_and_reports() {
    let out = std::env::temp_dir().join(format!("margay-bench-{}", std::process::id()));
    let mut bench = Command::new(env!("CARGO_BIN_EXE_margay-bench"));
    // Reno is always built in and allowed; hardly a machine has it by default.
    bench.args(["--quick", "--only", "margay", "--rounds", "1", "--congestion", "reno", "--out"]).arg(&out);
    let said = say(&mut bench);
    assert!(said.ok(), "{said:?}");
    let read =
        |name: &str| fs::read_to_string(out.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
    let report = [read("report.json"), read("report.md"), read("report.html")];
    fs::remove_dir_all(&out).expect("our own folder");
    let [json, text, page] = report;
    let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(json["machine"]["congestion"], "reno", "all have what was asked for");
    let records = json["records"].as_array().expect("records");
    for name in ["host", "margay"] {
        let of = records.iter().filter(|record| record["candidate"] == name);
        let measured = of.filter(|record| record["measured"]["rate"].as_f64().is_some_and(|rate| rate > 0.0));
        assert_eq!(measured.count(), 3, "{name} did each kind of work once: {records:#?}");
    }
    assert!(text.contains("### one TCP stream, Gbit/s") && text.contains("| margay |"), "{text}");
    assert!(text.starts_with("# Margay compared\n\n## Summary\n"), "{text}");
    assert!(
        page.contains("<body>\n<h1>Margay compared</h1>\n<h2>Summary</h2>"),
        "it begins with the summary"
    );
    assert!(page.contains("<table") && !page.contains("<pre"), "tables are tables");
    assert!(page.contains("<td>margay</td>") && page.contains("This run did not measure it."), "{page}");
    assert!(
        page.contains("<svg") && !page.contains("src=") && !page.contains("href="),
        "one page for itself"
    );
}

#[test]
fn load_server_as_process_1_answers_until_it_is_interrupted() {
    let bench = env!("CARGO_BIN_EXE_margay-bench");
    let place = Namespace::new(&format!("load-{}", std::process::id()));
    let dir = tempfile::tempdir().expect("a folder");
    let machine = format!("unshare --pid --fork --kill-child {bench} load serve");
    let mut server = place.start(&machine, &dir.path().join("log"));
    eventually("all ports are listened on", || {
        let said = place.sh("ss -lntuH");
        if [5202, 5203, 5204].iter().all(|port| said.contains(&format!(":{port} "))) {
            Ok(())
        } else {
            Err(said)
        }
    });
    for (kind, numbers) in [("connections", 7), ("tcp", 7), ("udp", 7), ("flood", 2)] {
        let said = place.sh(&format!("{bench} load ask {kind} 127.0.0.1 1000"));
        let told: Vec<f64> = said.split_whitespace().map(|n| n.parse().expect("a number")).collect();
        assert_eq!(told.len(), numbers, "{kind}: how often, for how long, and how long each took: {said}");
        assert!(told.iter().all(|n| *n > 0.0) && told[2..].is_sorted(), "{kind}: {said}");
    }
    // Process 1 has no default action for signals, so it needs a handler.
    let children = fs::read_to_string(format!("/proc/{0}/task/{0}/children", server.id()));
    let first = children.expect("children").trim().parse().expect("one child");
    kill(Pid::from_raw(first), Signal::SIGINT).expect("it runs");
    let status = eventually("the machine ends", || server.ended().ok_or_else(|| server.log()));
    assert_eq!(status.code(), Some(130));
}
