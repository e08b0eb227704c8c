//! The bench works: two candidates in its quick form. Its figures are nobody's
//! business here.

use std::{fs, process::Command};

use margay_tests::process::say;

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
    assert!(
        page.contains("<svg") && !page.contains("src=") && !page.contains("href="),
        "one page for itself"
    );
}
