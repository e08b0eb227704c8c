//! One TCP stream over more and more routes, beside one over those that it needs.

use margay::kernel::table::HashTable;
use margay_common::{
    maps,
    route::{Route, RouteKey},
};
use margay_tests::{
    container::Namespace,
    eventually::eventually,
    lab::{Lab, Plan},
};

use super::{HOPS, SIZES, block, route};
use crate::{cable, congestion, stats::Summary};

const ROUNDS: usize = 9;

/// Prints the ratios of interleaved rounds.
pub fn measure() {
    let base = Way::new(0);
    let ways: Vec<(u32, Way)> = SIZES.map(|routes| (routes, Way::new(routes))).into();
    let mut alone = Vec::new();
    let mut ratios = vec![Vec::new(); ways.len()];
    for _ in 0..ROUNDS {
        let few = base.gbits();
        alone.push(few);
        for ((_, way), ratios) in ways.iter().zip(&mut ratios) {
            ratios.push(way.gbits() / few);
        }
    }
    let Some(alone) = Summary::of(alone) else { return };
    println!(
        "\none TCP stream by {}, {ROUNDS} rounds, to {:.1} Gbit/s over the routes that it needs",
        congestion::of(&base.client),
        alone.median
    );
    println!("| more routes | of that | least | most |\n|--:|--:|--:|--:|");
    for ((routes, _), ratios) in ways.iter().zip(ratios) {
        let Some(ratio) = Summary::of(ratios) else { continue };
        println!("| {routes} | {:.2} | {:.2} | {:.2} |", ratio.median, ratio.min, ratio.max);
    }
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
                if client.reaches(addrs[0]) { Ok(()) } else { Err("not yet") }
            },
        );
        congestion::unify(congestion::CUBIC);
        cable::receive_like_cards();
        for i in [1, 2] {
            lab.host(i).kill();
            let pin = lab.h(i).pin(&maps::ROUTES);
            let mut map: HashTable<RouteKey, Route> = HashTable::open(&pin).expect("the map");
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
