//! Text in the store may come from an attacker.

use margay_tests::{eventually::eventually, lab::Lab};
use serde_json::json;

use crate::store::etcdctl;

/// Control sequences that clear a terminal, and characters that reverse text.
const HOSTILE: &str = "a\u{1b}[2J\u{202e}b\u{9b}31m";

#[test]
fn control_characters_from_the_store_are_escaped() {
    let lab = Lab::new(1);
    lab.h(1).ok(&["network", "create", "blue", "--subnet", "10.1.0.0/24"]);
    let put = |key: &str, value: serde_json::Value| {
        etcdctl(&lab, &["put", &format!("/margay/v1/{key}"), &value.to_string()]);
    };
    put("refused/203.0.113.0-24", json!({"v": 1, "comment": HOSTILE, "since": 1}));
    put("networks/99", json!({"v": 1, "id": 99, "name": HOSTILE, "subnets": []}));
    put(&format!("nodes/{HOSTILE}"), json!({"v": 1, "name": HOSTILE, "addresses": ["192.0.2.77"]}));
    put(
        "ipam/1/10.1.0.128-26",
        json!({
            "v": 1, "node": "h1",
            "addresses": {"10.1.0.130": {"endpoint": "00000000000000aa", "name": HOSTILE}},
        }),
    );
    let h = lab.h(1);
    let guard = eventually("the deny list has it", || {
        let said = h.margay(&["guard", "ls"]);
        if said.out.contains("203.0.113.0/24") { Ok(said.out) } else { Err(said) }
    });
    assert!(guard.contains("a\\u{1b}[2J\\u{202e}b\\u{9b}31m"), "{guard}");
    assert_eq!(h.json(&["guard", "ls"])[0]["comment"], HOSTILE, "JSON says what it is");
    let status = h.margay(&["status"]);
    assert!(status.out.contains("networks/99") && status.out.contains("nodes/a"), "{status:?}");
    let listings = [["network", "ls"], ["node", "ls"], ["guard", "ls"], ["pool", "ls"]];
    for args in listings.iter().map(|args| &args[..]).chain([&["endpoint", "ls", "--all"][..], &["status"]]) {
        for more in [&[][..], &["-o", "json"]] {
            let said = h.margay(&[args, more].concat());
            let acts = |c: char| (c.is_control() && c != '\n') || c == '\u{202e}';
            assert!(!said.out.contains(acts) && !said.err.contains(acts), "{args:?}: {said:?}");
        }
    }
    let names = |args: &[&str]| h.json(args).as_array().map(Vec::len);
    assert_eq!((names(&["network", "ls"]), names(&["node", "ls"])), (Some(1), Some(1)));
    assert!(!h.log().contains('\u{1b}'), "{}", h.log());
}
