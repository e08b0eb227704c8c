//! Status, log, version, metrics, and who may ask.

use std::os::unix::fs::{MetadataExt, PermissionsExt};

use margay_common::maps;
use margay_tests::{
    eventually::eventually,
    host::margay,
    lab::{Lab, Plan},
    process::say,
};

#[test]
fn status_tells_what_is_wrong_and_what_to_do() {
    let lab = Lab::new(1);
    lab.h(1).ok(&["network", "create", "blue", "--subnet", "10.1.0.0/16"]);
    lab.h(1).well();
    assert_eq!(lab.h(1).margay(&["status", "--quiet"]).status, 0);
    let host = &lab.h(1).namespace;
    host.sh("ip link set up0 down");
    let is_told = |line: &str| {
        line.starts_with("PROBLEM") && line.contains("uplink up0 is down") && line.contains(" -> ")
    };
    let status = eventually("the uplink's end is told", || {
        let status = lab.h(1).margay(&["status"]);
        if status.status == 1 && status.out.lines().any(is_told) { Ok(status) } else { Err(status) }
    });
    assert_eq!(status.err, "", "a problem is not an error of the command");
    let quiet = lab.h(1).margay(&["status", "--quiet"]);
    assert_eq!((quiet.status, quiet.out.as_str()), (1, ""));
    host.sh("ip link set up0 up");
    // The kernel takes IPv6 addresses away with the link.
    eventually("the address that is gone is told", || {
        let status = lab.h(1).margay(&["status"]);
        if status.out.contains("node address 2001:db8::1 is not on uplink up0") {
            Ok(())
        } else {
            Err(status)
        }
    });
    host.sh("ip addr add 2001:db8::1/64 dev up0 nodad");
    lab.h(1).well();
}

#[test]
fn version_shows_commit_and_layout() {
    let said = say(std::process::Command::new(margay()).arg("--version"));
    let line = said.out.trim();
    assert!(
        line.starts_with("margay ")
            && line.contains("(commit ")
            && line.ends_with(&format!(", layout {})", maps::LAYOUT)),
        "{line}"
    );
}

/// The value of a metric, which its line has behind its name.
fn value(text: &str, name: &str) -> Option<f64> {
    text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
}

#[test]
fn metrics_are_served_on_the_socket_and_a_configured_address() {
    let mut lab = Lab::without_agents(Plan::for_test(1));
    lab.host(1).flags = vec!["--metrics".into(), "192.0.2.1:9100".into()];
    lab.host(1).up();
    lab.h(1).ok(&["network", "create", "blue", "--subnet", "10.1.0.0/16"]);
    let (a, _) = lab.attached(1, "blue");
    let (_b, addr_b) = lab.attached(1, "blue");
    assert!(a.pings(addr_b[0], 3));
    let curl = |path: &str| {
        let line =
            format!("exec 3<>/dev/tcp/192.0.2.1/9100; printf 'GET {path} HTTP/1.0\\r\\n\\r\\n' >&3; cat <&3");
        let said = say(lab.h(1).namespace.command("bash").args(["-c", &line]));
        assert!(said.ok(), "{said:?}");
        said.out
    };
    let local = "margay_packets_total{program=\"from_workload\",kind=\"forwarded\",reason=\"local\"} ";
    let texts = eventually("three echoes and their answers are counted", || {
        let texts = [curl("/metrics"), lab.h(1).ok(&["metrics"])];
        if texts.iter().all(|text| value(text, local) >= Some(6.0)) { Ok(texts) } else { Err(texts) }
    });
    let remote = &texts[0];
    assert!(remote.contains("200 OK") && remote.contains("openmetrics-text"), "{remote}");
    for text in &texts {
        assert_eq!(value(text, "margay_endpoints "), Some(2.0), "{text}");
        assert_eq!(value(text, "margay_store_in_sync "), Some(1.0));
        assert_eq!(value(text, "margay_map_entries{map=\"endpoints\"} "), Some(2.0));
        assert!(value(text, "margay_apply_seconds_count ") >= Some(1.0));
        assert!(value(text, "margay_changes_applied_total ") >= Some(8.0));
    }
    let nothing = curl("/v1/endpoints");
    assert!(nothing.contains("404"), "metrics and nothing else: {nothing}");
}

#[test]
fn every_map_that_the_agent_fills_is_in_status_and_metrics() {
    let lab = Lab::new(1);
    lab.h(1).ok(&["guard", "add", "203.0.113.0/24"]);
    eventually("the denied prefix is there", || {
        let (status, metrics) = (lab.h(1).json(&["status"]), lab.h(1).ok(&["metrics"]));
        let told: Vec<_> =
            status["maps"].as_array().expect("a list").iter().map(|map| &map["name"]).collect();
        let filled = maps::ALL.iter().filter(|map| map.fills_up()).map(|map| map.name);
        assert_eq!(told, filled.collect::<Vec<_>>(), "{status}");
        for map in status["maps"].as_array().expect("a list") {
            let name = map["name"].as_str().expect("a name").to_lowercase();
            let of = |metric: &str| value(&metrics, &format!("margay_map_{metric}{{map=\"{name}\"}} "));
            assert!(of("entries").is_some(), "{name} in\n{metrics}");
            assert_eq!(of("capacity"), map["capacity"].as_f64(), "{name}");
        }
        let guard = value(&metrics, "margay_map_entries{map=\"guard\"} ");
        if guard == Some(1.0) { Ok(()) } else { Err(metrics) }
    });
    assert!(
        ["GUARD", "NEIGHBOURS"]
            .iter()
            .all(|name| maps::ALL.iter().any(|map| map.name == *name && map.fills_up()))
    );
}

#[test]
fn log_is_json_if_configured() {
    let mut lab = Lab::without_agents(Plan::for_test(1));
    lab.host(1).flags = ["--log", "json"].map(str::to_owned).into();
    lab.host(1).up();
    lab.h(1).ok(&["network", "create", "blue", "--subnet", "10.1.0.0/16"]);
    let (a, addresses) = lab.attached(1, "blue");
    let before = lab.h(1).log().lines().count();
    assert!(a.pings("10.1.0.1".parse().expect("an address"), 50));
    let log = lab.h(1).log();
    let lines: Vec<serde_json::Value> = log
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}")))
        .collect();
    let attached = lines.iter().find(|line| line["message"] == "attached").expect("it is told");
    assert_eq!(attached["network"], "blue");
    assert_eq!(attached["addresses"], addresses[0].to_string());
    assert!(lines.iter().all(|line| line["level"].is_string() && line["timestamp"].is_string()));
    assert!(lines.len() < before + 50, "no line for each packet: {log}");
}

#[test]
fn socket_has_the_configured_owner_and_mode() {
    let mut lab = Lab::without_agents(Plan::for_test(1));
    lab.host(1).up();
    let mode = |lab: &Lab| {
        let found = std::fs::metadata(lab.h(1).socket()).expect("the socket");
        (found.permissions().mode() & 0o777, found.uid(), found.gid())
    };
    assert_eq!(mode(&lab), (0o600, 0, 0));
    lab.host(1).stop();
    let group =
        say(std::process::Command::new("id").args(["-g", "nobody"])).out.trim().parse().expect("a number");
    lab.host(1).flags = ["--socket-group", "nogroup"].map(str::to_owned).into();
    lab.host(1).up();
    assert_eq!(mode(&lab), (0o660, 0, group));
    let socket = lab.h(1).socket().display().to_string();
    let asks = |group: &str| {
        let ids = ["--reuid", "65534", "--regid", group, "--clear-groups"];
        let mut command = lab.h(1).namespace.command("setpriv");
        say(command.args(ids).arg(margay()).args(["--socket", &socket, "node", "ls"]))
    };
    let own = asks(&group.to_string());
    assert!(own.ok(), "a member of the group may ask: {own:?}");
    assert!(!asks("12345").ok(), "others may not");
}
