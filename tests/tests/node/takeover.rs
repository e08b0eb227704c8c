//! An agent that takes over the journal of one that kept each entry in a file.

use std::fs;

use margay::journal::Journal;
use margay_tests::eventually::eventually;
use serde_json::json;

use crate::attach::one_host;

#[test]
fn container_is_still_served_after_the_upgrade_of_a_file_based_journal() {
    let mut lab = one_host();
    let (container, addresses) = lab.attached(1, "blue");
    let (state, before) = (lab.h(1).dir().join("state"), lab.h(1).json(&["endpoint", "ls"]));
    let link =
        lab.h(1).namespace.sh("ip -o link").lines().find(|line| line.contains(": mgy")).map(str::to_owned);
    lab.host(1).stop();
    let journal = Journal::open(&state).expect("a journal");
    let endpoint = journal.endpoints().into_values().next().expect("an endpoint");
    let member = journal.networks().into_values().next().expect("a network");
    drop(journal);
    fs::remove_file(state.join("journal.redb")).expect("there");
    fs::remove_file(state.join("endpoints/moved.json")).expect("there");
    let write = |name: &str, value: serde_json::Value| {
        let path = state.join(name);
        fs::create_dir_all(path.parent().expect("a folder")).expect("a disk");
        fs::write(path, value.to_string()).expect("a disk");
    };
    let mac = before[0]["mac"].clone();
    write(
        &format!("endpoints/{}.json", endpoint.id),
        json!({
            "v": 1, "id": endpoint.id, "network": endpoint.network, "network_name": "blue",
            "addresses": endpoint.addresses, "mac": mac, "netns": endpoint.netns, "sandbox": endpoint.sandbox,
            "ifname": "eth0", "host_interface": endpoint.host_interface, "mtu": endpoint.mtu, "ready": true,
            "device": endpoint.device,
        }),
    );
    let mut network = serde_json::to_value(&member).expect("JSON");
    network["v"] = 1.into();
    write(&format!("networks/{}.json", endpoint.network), network);
    for _ in 0..2 {
        lab.host(1).up();
        let h = lab.h(1);
        let after = eventually("it is served", || {
            let after = h.json(&["endpoint", "ls"]);
            if after == before { Ok(after) } else { Err(after) }
        });
        assert_eq!(after[0]["addresses"][0], addresses[0].to_string());
        assert!(container.pings("10.1.0.1".parse().expect("an address"), 1));
        let left: Vec<_> = fs::read_dir(state.join("endpoints")).expect("a folder").flatten().collect();
        assert!(left.len() == 1 && !state.join("networks").exists(), "{left:?}");
        h.well();
        // Nothing was created again.
        let same =
            h.namespace.sh("ip -o link").lines().find(|line| line.contains(": mgy")).map(str::to_owned);
        assert_eq!(same, link);
        lab.host(1).kill();
    }
}
