//! The command line: its arguments, its output, and what it can show without an agent.

use std::process::Command;

use margay_tests::{
    eventually::eventually,
    host::{Host, margay},
    lab::Lab,
    process::{Said, say},
};
use serde_json::Value;

use crate::attach::one_host;

fn inspect(host: &Host, id: &str) -> Value {
    serde_json::from_str(&host.ok(&["endpoint", "inspect", id])).expect("JSON")
}

#[test]
fn endpoint_is_found_by_a_unique_beginning_of_its_id() {
    let lab = one_host();
    let h = lab.h(1);
    let mut ids: Vec<String> = Vec::new();
    // Sixteen digits, so of seventeen two begin alike.
    let _containers: Vec<_> = (0..17)
        .map(|_| {
            let container = lab.attached(1, "blue");
            let listed = h.json(&["endpoint", "ls"]);
            ids = listed
                .as_array()
                .expect("a list")
                .iter()
                .filter_map(|e| e["id"].as_str())
                .map(str::to_owned)
                .collect();
            container
        })
        .collect();
    let alike = ids.iter().find(|id| ids.iter().filter(|other| other[..1] == id[..1]).count() > 1);
    let alike = alike.expect("two that begin alike");
    let said = h.refused(&["endpoint", "inspect", &alike[..1]]);
    for id in ids.iter().filter(|id| id[..1] == alike[..1]) {
        assert!(said.contains(id.as_str()), "all are listed: {said}");
    }
    let said = h.refused(&["endpoint", "detach", &alike[..1]]);
    assert!(said.contains("begin with") && said.contains(alike.as_str()), "{said}");
    let shortest = |id: &str| {
        (1..=16)
            .find(|n| ids.iter().filter(|other| other.starts_with(&id[..*n])).count() == 1)
            .expect("ids differ")
    };
    let begin = &alike[..shortest(alike)];
    assert_eq!(inspect(h, begin)["id"], **alike);
    let way = h.json(&["route", "get", "10.1.0.1", "--from", begin]);
    assert_eq!((way["from"].as_str(), way["verdict"].as_str()), (Some(&**alike), Some("answered")));
    let said = h.margay(&["endpoint", "detach", begin]);
    assert!(said.ok() && said.err.is_empty(), "{said:?}");
    let again = h.margay(&["endpoint", "detach", alike]);
    assert!(again.ok() && again.err.contains("nothing to detach"), "{again:?}");
    assert_eq!(h.json(&["endpoint", "list"]).as_array().map(Vec::len), Some(16));
}

#[test]
fn commands_have_aliases_and_usage_names_them() {
    let lab = one_host();
    let h = lab.h(1);
    for listing in ["network", "endpoint", "route", "node", "pool", "guard"] {
        assert_eq!(h.ok(&[listing, "list"]), h.ok(&[listing, "ls"]), "{listing}");
    }
    h.ok(&["network", "remove", "blue"]);
    let said = h.margay(&["endpoint", "attach", "--network", "blue"]);
    assert!(said.status == 2 && said.err.contains("--netns") && said.err.contains("--pid"), "{said:?}");
    let said = h.margay(&["endpoint", "detach", "--netns", "/run/netns/nobody"]);
    assert!(said.ok() && said.err.contains("/run/netns/nobody: nothing to detach"), "{said:?}");
}

/// What bash offers for a command line.
fn completed(host: &Host, line: &str) -> Vec<String> {
    let margay = margay();
    let dir = margay.parent().expect("a folder").display();
    let words: Vec<&str> = line.split(' ').collect();
    let listed = words.iter().map(|word| format!("'{word}'")).collect::<Vec<_>>().join(" ");
    let script = format!(
        "PATH={dir}:$PATH; export MARGAY_SOCKET={}; source <(margay completions bash); \
         COMP_WORDS=({listed}); COMP_CWORD={}; COMP_TYPE=9; COMP_LINE='{line}'; COMP_POINT={}; \
         f=$(complete -p margay | sed 's/.*-F \\([^ ]*\\).*/\\1/'); $f margay '{}' '{}'; printf '%s\\n' \"${{COMPREPLY[@]}}\"",
        host.socket().display(),
        words.len() - 1,
        line.len(),
        words[words.len() - 1],
        words[words.len() - 2],
    );
    let said = say(Command::new("bash").args(["-c", &script]));
    assert!(said.ok(), "{said:?}");
    said.out.lines().map(|line| line.trim().to_owned()).collect()
}

#[test]
fn bash_completes_verbs_and_names_known_to_the_agent() {
    let lab = one_host();
    let h = lab.h(1);
    h.ok(&["network", "create", "blank", "--subnet", "10.7.0.0/24"]);
    let c = lab.container();
    h.attach(&c, "blue", &["--name", "web"]);
    assert_eq!(completed(h, "margay network ins"), ["inspect"]);
    assert_eq!(completed(h, "margay network rm bl"), ["blank", "blue"]);
    assert_eq!(completed(h, "margay endpoint detach w"), ["web"]);
    assert!(completed(h, "margay node rm ").contains(&"h1".to_owned()));
    let id = h.json(&["endpoint", "ls"])[0]["id"].as_str().expect("an id").to_owned();
    assert_eq!(completed(h, &format!("margay endpoint inspect {}", &id[..6])), [id]);
}

#[test]
fn route_get_shows_a_packets_path_and_reason() {
    let lab = Lab::new(2);
    lab.h(1).ok(&["network", "create", "blue", "--subnet", "10.1.0.0/16"]);
    lab.h(1).ok(&["network", "create", "red", "--subnet", "10.2.0.0/16", "--internal"]);
    let (a, _) = lab.attached(1, "blue");
    let (_b, addr_b) = lab.attached(1, "blue");
    let (_c, addr_c) = lab.attached(2, "blue");
    let (_d, addr_d) = lab.attached(1, "red");
    let h = lab.h(1);
    let remote = addr_c[0].to_string();
    eventually("the other's block is routed", || if a.reaches(addr_c[0]) { Ok(()) } else { Err(()) });
    let listed = h.json(&["endpoint", "ls"]);
    let id_of = |addr: &str| {
        let all = listed.as_array().expect("a list");
        let found =
            all.iter().find(|e| e["addresses"][0] == addr).unwrap_or_else(|| panic!("{addr}: {listed}"));
        found["id"].as_str().expect("an id").to_owned()
    };
    let a = listed
        .as_array()
        .expect("a list")
        .iter()
        .find(|e| e["network"] == "blue" && e["addresses"][0] != addr_b[0].to_string());
    let a = a.expect("the first")["id"].as_str().expect("an id").to_owned();
    let d = id_of(&addr_d[0].to_string());
    let way = |to: &str, from: Option<&str>| {
        let from = from.map(|from| vec!["--from", from]).unwrap_or_default();
        h.json(&[&["route", "get", to][..], &from].concat())
    };
    let is = |way: &Value, verdict: &str| assert_eq!(way["verdict"], verdict, "{way}");
    let local = way(&addr_b[0].to_string(), Some(&a));
    is(&local, "local");
    assert_eq!(
        (&local["endpoint"], &local["network"]),
        (&Value::from(id_of(&addr_b[0].to_string())), &"blue".into())
    );
    for from in [Some(&*a), None] {
        let there = way(&remote, from);
        is(&there, "remote");
        assert_eq!((&there["node"], &there["next_hop"]), (&"h2".into(), &"192.0.2.2".into()), "{there}");
        assert_eq!((&there["interface"], &there["network"]), (&"up0".into(), &"blue".into()));
        assert!(there["prefix"].as_str().is_some_and(|prefix| prefix.contains('/')), "{there}");
    }
    is(&way(&addr_d[0].to_string(), Some(&a)), "isolated");
    is(&way("10.1.255.254", Some(&a)), "no_endpoint");
    is(&way("192.0.2.1", Some(&a)), "host");
    is(&way("192.0.2.2", Some(&a)), "remote");
    is(&way("203.0.113.9", Some(&a)), "host");
    is(&way("203.0.113.9", Some(&d)), "internal");
    is(&way("224.0.0.1", Some(&a)), "multicast");
    is(&way("203.0.113.9", None), "passed");
    is(&way("2001:db8::9", Some(&a)), "spoofed_source");
    let said = h.ok(&["route", "get", &addr_d[0].to_string(), "--from", &a]);
    assert!(said.contains("dropped: isolated") && said.contains("another network"), "{said}");
    h.refused(&["route", "get", &remote, "--from", "nobody"]);
    who_has_an_address(&lab, &remote);
}

/// Every node can list who has an address in the cluster.
fn who_has_an_address(lab: &Lab, addr: &str) {
    for host in &lab.hosts {
        let all = host.json(&["endpoint", "ls", "--all"]);
        let all = all.as_array().expect("a list");
        assert_eq!(all.len(), 4, "{all:?}");
        let found = all.iter().find(|holder| holder["addresses"][0] == addr).expect("it is listed");
        assert_eq!((&found["node"], &found["network"]), (&"h2".into(), &"blue".into()), "{found}");
        let table = host.ok(&["endpoint", "ls", "--all"]);
        assert!(
            table.lines().any(|line| line.trim_start().starts_with(addr) && line.contains("h2")),
            "{table}"
        );
    }
}

#[test]
fn commands_read_kernel_and_journal_when_the_agent_is_dead() {
    let mut lab = one_host();
    let c = lab.container();
    lab.h(1).attach(&c, "blue", &["--name", "web"]);
    assert!(c.pings("10.1.0.1".parse().expect("an address"), 2));
    let h = lab.h(1);
    let listings = [["endpoint", "ls"], ["route", "ls"]];
    let without = |mut value: Value| {
        for item in value.as_array_mut().into_iter().flatten() {
            assert!(item["source"] == "agent" || item["source"] == "host", "{item}");
            item["source"] = Value::Null;
        }
        value
    };
    let before = listings.map(|args| without(h.json(&args)));
    let counted = h.count("from_workload", "answered");
    let attached = h.json(&["status"])["attachments"].clone();
    lab.host(1).kill();
    let h = lab.h(1);
    for (args, before) in listings.iter().zip(before) {
        assert_eq!(without(h.json(args)), before, "{args:?}");
        assert_eq!(h.json(args)[0]["source"], "host");
        let said = h.margay(args);
        assert!(said.ok() && said.err.contains("pinned maps"), "{said:?}");
    }
    assert_eq!(h.count("from_workload", "answered"), counted);
    let status = h.margay(&["status"]);
    assert_eq!(status.status, 1, "{status:?}");
    assert!(status.out.contains("no agent runs") && status.err.contains("pinned maps"), "{status:?}");
    let status = h.json(&["status"]);
    let told = (&status["source"], &status["node"], &status["endpoints"]);
    assert_eq!(told, (&"host".into(), &"h1".into(), &1.into()));
    assert_eq!(status["attachments"], attached);
    assert_eq!(inspect(h, "web")["network"], "blue");
    // What only an agent knows or does.
    assert!(h.refused(&["node", "ls"]).contains("no agent answers"));
    lab.host(1).up();
    assert_eq!(lab.h(1).json(&["status"])["source"], "agent");
}

#[test]
fn listings_without_the_store_are_marked_stale() {
    let mut lab = one_host();
    let _container = lab.attached(1, "blue");
    assert_eq!(lab.h(1).json(&["node", "ls"])[0]["stale_since"], Value::Null);
    assert_eq!(lab.h(1).margay(&["network", "ls"]).err, "");
    lab.kill_etcd();
    let h = lab.h(1);
    for listing in ["node", "network", "endpoint", "pool"] {
        let args = [listing, "ls"];
        eventually("it is told", || {
            let said: Said = h.margay(&args);
            let told = said.err.contains("margay: as of ") && said.err.contains("store away since then");
            if said.ok() && told { Ok(()) } else { Err(said) }
        });
        assert!(h.json(&args)[0]["stale_since"].as_u64().is_some_and(|since| since > 0), "{listing}");
    }
    // Also of nothing.
    let nothing = h.margay(&["guard", "ls", "-o", "json"]);
    assert!(nothing.err.contains("margay: as of ") && nothing.out.trim() == "[]", "{nothing:?}");
}

#[test]
fn missing_permission_for_the_socket_is_explained() {
    let lab = one_host();
    let socket = lab.h(1).socket().display().to_string();
    let mut command = lab.h(1).namespace.command("setpriv");
    command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups"]);
    let said = say(command.arg(margay()).args(["--socket", &socket, "status"]));
    assert_eq!(said.status, 1);
    for words in ["permission denied on the agent's socket", "sudo", "--socket-group"] {
        assert!(said.err.contains(words), "{said:?}");
    }
    assert!(!said.err.contains("margay agent`"), "it runs: {said:?}");
}

#[test]
fn errors_show_no_debug_text() {
    let lab = one_host();
    let h = lab.h(1);
    for args in [
        &["endpoint", "attach", "--network", "blue", "--netns", "/run/netns/nobody"][..],
        &["endpoint", "attach", "--network", "blue", "--pid", "999999"],
        &["store", "import", "/nowhere", "--store", "etcd://192.0.2.254:2379"],
    ] {
        let said = h.refused(args);
        assert!(!said.contains("os error") && !said.contains("Error("), "{args:?}: {said}");
    }
    h.namespace.sh("ip link set up0 down");
    let problems = eventually("the uplink's end is told", || {
        let problems = h.json(&["status"])["problems"].clone();
        let uplink =
            problems.as_array().and_then(|all| all.iter().find(|p| p["problem"].to_string().contains("up0")));
        uplink.cloned().ok_or(problems)
    });
    assert_eq!(problems["problem"], "uplink up0 is down: containers here reach no other host");
    assert_eq!(problems["mend"], "ip link set up0 up");
}
