//! One TCP stream over a million routes and over those that it needs.

use margay::kernel::table::HashTable;
use margay_common::{
    route::{Route, RouteKey},
    table,
};
use margay_tests::{
    container::Namespace,
    eventually::eventually,
    lab::{Lab, Plan},
};

use super::{HOPS, block, route};
use crate::stats::Summary;

const ROUNDS: usize = 9;
const ROUTES: u32 = 1_000_000;

/// Prints the ratio of interleaved rounds.
pub fn measure() {
    let small = Way::new(0);
    let large = Way::new(ROUTES);
    let ratios = (0..ROUNDS).map(|_| (small.gbits(), large.gbits()));
    let (few, ratios): (Vec<f64>, Vec<f64>) = ratios.map(|(few, many)| (few, many / few)).unzip();
    let (Some(few), Some(ratio)) = (Summary::of(few), Summary::of(ratios)) else { return };
    println!(
        "\none TCP stream, {ROUNDS} rounds: {:.1} Gbit/s over a few routes; over {ROUTES} more {:.2} of that \
         ({:.2} to {:.2})",
        few.median, ratio.median, ratio.min, ratio.max
    );
}

/// Two hosts whose agents have gone, so that nobody takes the routes away again.
struct Way {
    _lab: Lab,
    client: Namespace,
    server: Namespace,
    target: std::net::IpAddr,
}

impl Way {
    fn new(routes: u32) -> Self {
        let mut lab = Lab::from(Plan::direct());
        lab.h(1).ok(&["network", "create", "blue", "--subnet", "172.20.0.0/16"]);
        let (client, _) = lab.attached(1, "blue");
        let (server, addrs) = lab.attached(2, "blue");
        eventually(
            "they reach each other",
            || {
                if client.pings(addrs[0], 1) { Ok(()) } else { Err("not yet") }
            },
        );
        for i in [1, 2] {
            lab.host(i).kill();
            let dir = lab.plan.bpffs.join(format!("h{i}")).join(format!("v{}", table::LAYOUT_VERSION));
            let mut map: HashTable<RouteKey, Route> = HashTable::open(&dir, table::ROUTES).expect("the map");
            (0..routes).for_each(|i| map.put(block(i), route(HOPS[0])).expect("it takes them"));
        }
        Self { _lab: lab, client, server, target: addrs[0] }
    }

    fn gbits(&self) -> f64 {
        let log = std::path::Path::new("/run/margay-bench-iperf.log");
        let _server = self.server.start(&format!("iperf3 -s -1 -B {}", self.target), log);
        eventually("iperf3 connects", || {
            let said = self.client.run(&format!("iperf3 -c {} -t 1 -J", self.target));
            let result: serde_json::Value = serde_json::from_str(&said.out).unwrap_or_default();
            result["end"]["sum_received"]["bits_per_second"].as_f64().ok_or(said)
        }) / 1e9
    }
}
