//! Foreign text is escaped before it is printed, files belong to root alone, and the agent
//! checks their contents before it acts on them.

use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt,
    path::Path,
};

use margay_tests::{eventually::eventually, lab::Lab};

use crate::attach::one_host;

/// What clears a terminal.
const HOSTILE: &str = "web\u{1b}[2J";

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path)
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()))
        .permissions()
        .mode()
        & 0o777
}

#[test]
fn names_and_comments_have_no_control_characters() {
    let lab = one_host();
    let h = lab.h(1);
    let c = lab.container();
    let path = c.path().display().to_string();
    let attach = ["endpoint", "attach", "--network", "blue", "--netns", &path, "--name"];
    for (args, what) in [
        ([&attach[..], &[HOSTILE]].concat(), "endpoint name"),
        ([&attach[..], &["we\u{202e}b"]].concat(), "endpoint name"),
        (vec!["guard", "add", "203.0.113.0/24", "--comment", "a\nb"], "comment"),
        (vec!["network", "create", HOSTILE], "network name"),
    ] {
        let said = h.refused(&args);
        assert!(said.contains(what), "{said}");
        assert!(!said.trim_end().contains(|c: char| c.is_control() || c == '\u{202e}'), "{said:?}");
    }
    assert_eq!(h.json(&["endpoint", "ls"]).as_array().map(Vec::len), Some(0));
    // What is looked for is printed, too.
    let said = h.refused(&["endpoint", "inspect", HOSTILE]);
    assert!(said.contains("web\\u{1b}[2J") && !said.contains('\u{1b}'), "{said:?}");
    assert!(!h.log().contains('\u{1b}'), "{}", h.log());
}

#[test]
fn state_folder_left_open_by_an_older_agent_is_closed_to_others() {
    let mut lab = one_host();
    let (_c, _) = lab.attached(1, "blue");
    let state = lab.h(1).dir().join("state");
    let file = state.join("journal.redb");
    let closed = || {
        let found =
            [mode(&state), mode(&state.join("endpoints")), mode(&file), mode(&state.join("instance"))];
        assert_eq!(found.map(|mode| format!("{mode:o}")), ["700", "700", "600", "600"]);
    };
    closed();
    lab.host(1).stop();
    for (path, open) in [(state.clone(), 0o755), (state.join("endpoints"), 0o755), (file.clone(), 0o644)] {
        fs::set_permissions(path, Permissions::from_mode(open)).expect("ours");
    }
    lab.host(1).up();
    closed();
}

#[test]
fn journal_entry_of_a_foreign_interface_is_set_aside_and_the_interface_stays() {
    let mut lab = one_host();
    let (good, addresses) = lab.attached(1, "blue");
    let state = lab.h(1).dir().join("state");
    lab.host(1).stop();
    // As an older agent, without a database, would have left them.
    let endpoints = state.join("endpoints");
    fs::remove_file(endpoints.join("moved.json")).expect("that the files are taken over is noted");
    let hostile = r#"{"v":1,"id":"00000000000000aa","network":1,"network_name":"blue",
        "addresses":["10.1.0.99"],"mac":"02:00:00:00:00:01","netns":"/run/netns/nobody","sandbox":1,
        "ifname":"eth0","host_interface":"victim0","mtu":1500}"#;
    fs::write(endpoints.join("00000000000000aa.json"), hostile).expect("a disk");
    fs::write(endpoints.join("00000000000000bb.json"), "{").expect("a disk");
    lab.h(1).namespace.sh("ip link add victim0 type veth peer name victim1");
    lab.host(1).up();
    let h = lab.h(1);
    let told = eventually("both are told", || {
        let told = h.json(&["status"])["problems"].to_string();
        let both = ["00000000000000aa.bad", "00000000000000bb.bad"].iter().all(|name| told.contains(name));
        if both { Ok(told) } else { Err(told) }
    });
    assert!(told.contains("its interface on the host does not belong to its id"), "{told}");
    assert!(good.pings("10.1.0.1".parse().expect("an address"), 1), "the others are served");
    assert_eq!(h.json(&["endpoint", "ls"])[0]["addresses"][0], addresses[0].to_string());
    // Detaching it by its id finds nothing to remove.
    h.ok(&["endpoint", "detach", "00000000000000aa"]);
    h.namespace.sh("ip link show victim0");
    for id in ["00000000000000aa", "00000000000000bb"] {
        fs::remove_file(state.join(format!("aside/endpoints-{id}.bad"))).expect("set aside");
    }
    h.well();
}

#[test]
fn world_writable_state_folder_is_refused() {
    let mut lab = Lab::without_agents(margay_tests::lab::Plan::for_test(1));
    let state = lab.h(1).dir().join("state");
    fs::create_dir_all(&state).expect("a folder");
    fs::set_permissions(&state, Permissions::from_mode(0o1777)).expect("ours");
    let said = margay_tests::process::say(
        lab.h(1)
            .namespace
            .command("timeout")
            .arg("60")
            .arg(margay_tests::host::margay())
            .args(lab.h(1).own_flags()),
    );
    assert!(said.status == 1 && said.err.contains("--state-dir"), "{said:?}");
    assert_eq!(mode(&state), 0o777);
    lab.host(1).kill();
}
