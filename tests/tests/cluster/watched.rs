//! Which changes of the store reach an agent as events.

use std::collections::BTreeMap;

use margay_tests::{eventually::eventually, host::Host, lab::Lab, plugin::ok};
use serde_json::json;

/// Events of the store that a host has received, by kind of key.
fn events(host: &Host) -> BTreeMap<String, u64> {
    let metrics = host.ok(&["metrics"]);
    let lines = metrics.lines().filter_map(|line| line.strip_prefix("margay_store_events_total{kind=\""));
    let counted = lines.filter_map(|line| {
        let (kind, count) = line.split_once("\"} ")?;
        Some((kind.to_owned(), count.parse().ok()?))
    });
    counted.collect()
}

/// Subnets that a runtime reserves for future networks are in the store, but no node watches
/// them.
#[test]
fn pool_requests_cause_no_event_on_other_nodes() {
    let lab = Lab::new(2);
    lab.h(1).ok(&["network", "create", "blue", "--subnet", "10.1.0.0/16"]);
    let network = |host: &Host| host.json(&["network", "ls"]).as_array().map_or(0, Vec::len);
    eventually("h2 knows the network", || if network(lab.h(2)) == 1 { Ok(()) } else { Err(()) });
    let before = [1, 2].map(|i| events(lab.h(i)));
    let any = json!({"AddressSpace": "margay", "Pool": "", "SubPool": "", "Options": {}, "V6": false});
    let pools: Vec<_> =
        (0..5).map(|_| ok(lab.h(1), "/IpamDriver.RequestPool", &any)["PoolID"].clone()).collect();
    for pool in &pools[..3] {
        ok(lab.h(1), "/IpamDriver.ReleasePool", &json!({ "PoolID": pool }));
    }
    // This change concerns both nodes and comes last, so all earlier events are counted by then.
    lab.h(1).ok(&["network", "create", "red", "--subnet", "10.2.0.0/16"]);
    eventually("h2 knows the other", || if network(lab.h(2)) == 2 { Ok(()) } else { Err(()) });
    for (i, mut expected) in [1, 2].into_iter().zip(before) {
        *expected.entry("networks".into()).or_default() += 1;
        let found = events(lab.h(i));
        // A lease may have been replaced meanwhile.
        let all_but_leases = |events: BTreeMap<String, u64>| -> Vec<(String, u64)> {
            events.into_iter().filter(|(kind, _)| kind != "alive").collect()
        };
        assert_eq!(all_but_leases(found), all_but_leases(expected), "h{i}");
    }
}
