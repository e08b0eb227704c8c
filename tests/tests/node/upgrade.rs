//! An agent replaces one with another layout of maps, under traffic.

use std::{collections::BTreeMap, fs, net::Ipv4Addr};

use aya::maps::MapInfo;
use margay_common::maps::{self, Map};
use margay_tests::{
    container::Namespace,
    eventually::eventually,
    flow::Flow,
    host::{margay, other_layout},
    lab::{ETCD, Lab, Plan},
    needs::skip,
    process::say,
};

/// The kernel's ids of all pinned maps, by their path below the agent's folder.
fn ids(lab: &Lab) -> BTreeMap<String, u32> {
    let mut ids = BTreeMap::new();
    for dir in fs::read_dir(lab.h(1).bpffs()).expect("pins").filter_map(Result::ok) {
        let layout = dir.file_name().into_string().expect("ours");
        for pin in fs::read_dir(dir.path()).expect("pins").filter_map(Result::ok) {
            if let (true, Ok(info)) = (layout.starts_with('v'), MapInfo::from_pin(pin.path())) {
                ids.insert(format!("{layout}/{}", pin.file_name().display()), info.id());
            }
        }
    }
    ids
}

/// Routes of another network, filled in before those of the echoes: an agent that used a map
/// before it is filled would lose echoes.
const ROUTES: u32 = 12_000;

fn many_routes(lab: &Lab) {
    lab.h(1).ok(&["network", "create", "large", "--subnet", "10.64.0.0/10"]);
    let id = lab.h(1).json(&["network", "ls"])[0]["id"].as_u64().expect("an id");
    let put = |i: u32| {
        let block = Ipv4Addr::from_bits(0x0a40_0000 + (i << 6));
        format!("put /margay/v1/routes/{id}/{block}-26 {{\"v\":1,\"node\":\"h2\"}}\n")
    };
    let dir = lab.plan.dir.join("transactions");
    fs::create_dir(&dir).expect("a folder");
    for first in (0..ROUTES).step_by(100) {
        let puts: String = (first..first + 100).map(put).collect();
        fs::write(dir.join(first.to_string()), format!("\n{puts}\n\n")).expect("a file");
    }
    let line =
        format!("for part in {}/*; do etcdctl --endpoints {ETCD}:2379 txn < $part; done", dir.display());
    let said = say(lab.wire.command("bash").env("ETCDCTL_API", "3").args(["-c", &line]));
    assert!(said.ok(), "{said:?}");
    eventually("the routes are there", || {
        let maps = lab.h(1).json(&["status"])["maps"].clone();
        let routes = maps.as_array().expect("a list").iter().find(|map| map["name"] == maps::ROUTES.name);
        if routes.expect("it is told")["used"].as_u64() >= Some(ROUTES.into()) { Ok(()) } else { Err(maps) }
    });
}

/// Two hosts; h1 has two containers, and echoes go between these, and between one and h2's.
struct Traffic {
    lab: Lab,
    containers: [Namespace; 3],
    flows: Vec<Flow>,
}

impl Traffic {
    fn start(flags: &[&str]) -> Self {
        let mut lab = Lab::from(Plan::for_test(2));
        lab.host(1).stop();
        lab.host(1).flags = flags.iter().map(|flag| (*flag).to_owned()).collect();
        lab.host(1).up();
        many_routes(&lab);
        lab.h(1).ok(&["network", "create", "blue", "--subnet", "10.1.0.0/16", "--subnet", "fd00:1::/64"]);
        let [(a, addr_a), (near, addr_near), (far, addr_far)] =
            [1, 1, 2].map(|host| lab.attached(host, "blue"));
        let mut flows = Vec::new();
        let ways = [(&a, &addr_near), (&near, &addr_a), (&a, &addr_far), (&far, &addr_a)];
        for (from, to) in ways {
            for addr in to {
                let log = lab.plan.dir.join(format!("flow{}.log", flows.len()));
                flows.push(Flow::start(from, *addr, &log));
            }
        }
        Self { lab, containers: [a, near, far], flows }
    }

    /// Replaces h1's agent, and waits until everything of the old one is removed.
    fn replace_agent(&mut self, change: impl FnOnce(&mut Lab)) {
        let told = "attached this agent's programs to every hook";
        let before = self.lab.h(1).log().matches(told).count();
        self.lab.host(1).stop();
        change(&mut self.lab);
        self.lab.host(1).up();
        eventually("what the other agent had is gone", || {
            let log = self.lab.h(1).log();
            if log.matches(told).count() > before { Ok(()) } else { Err(log) }
        });
        assert!(!self.lab.h(1).log().contains("cannot remove old programs"), "{}", self.lab.h(1).log());
        self.lab.h(1).well();
    }

    /// Ends the echoes, of which none was lost.
    fn end(self) {
        self.flows.into_iter().for_each(Flow::end);
        drop(self.containers);
    }
}

/// Where this build pins a map, below the agent's folder.
fn path(map: &Map, layout: u32) -> String {
    format!("v{layout}/{}", map.name)
}

fn another_layout_of_one_map(flags: &[&str]) {
    let Some(other) = other_layout() else {
        return skip("cargo xtask test builds the agent with another layout for this kernel alone");
    };
    let mut traffic = Traffic::start(flags);
    let usual = maps::ROUTES.layout.expect("it is pinned");
    let (old, new) = (path(&maps::ROUTES, usual), path(&maps::ROUTES, maps::LAYOUT + 1));
    let mut others = ids(&traffic.lab);
    let id = others.remove(&old).expect("it is pinned");
    let counted = traffic.lab.h(1).count("from_workload", "remote");

    traffic.replace_agent(|lab| lab.host(1).program = other);
    let mut forwards = ids(&traffic.lab);
    assert!(forwards.remove(&new).is_some(), "{forwards:?}");
    assert_eq!(forwards, others, "the others are what they were, and the old one is gone");
    assert!(traffic.lab.h(1).count("from_workload", "remote") > counted, "counters go on");

    traffic.replace_agent(|lab| lab.host(1).program = margay());
    let mut backwards = ids(&traffic.lab);
    assert_ne!(backwards.remove(&old).expect("it is there again"), id, "it was filled again");
    assert_eq!(backwards, others);
    traffic.end();
}

#[test]
fn upgrade_to_another_layout_of_one_map_and_back_loses_no_packet() {
    another_layout_of_one_map(&[]);
}

#[test]
fn upgrade_to_another_layout_of_one_map_and_back_loses_no_packet_with_clsact() {
    another_layout_of_one_map(&["--tc-mode", "clsact"]);
}

/// As after an agent with another layout of every map: the new one can take none over.
#[test]
fn upgrade_to_another_layout_of_all_maps_loses_no_packet() {
    let mut traffic = Traffic::start(&[]);
    let before = ids(&traffic.lab);
    traffic.replace_agent(|lab| {
        let rename = |from: &str, to: &str| {
            let bpffs = lab.h(1).bpffs();
            fs::rename(bpffs.join(from), bpffs.join(to)).expect("it is there");
        };
        let usual = maps::LAYOUT;
        rename(&format!("v{usual}"), "v1");
        let programs = lab.h(1).bpffs().join("programs");
        for object in fs::read_dir(programs).expect("pins").filter_map(Result::ok) {
            rename(&format!("programs/{}", object.file_name().display()), "programs/another");
        }
    });
    let after = ids(&traffic.lab);
    assert!(after.keys().eq(before.keys()), "{after:?}");
    assert!(after.iter().all(|(name, id)| before[name] != *id), "{before:?} {after:?}");
    traffic.end();
}
