//! docker-compose: the same file on every host.

use std::{fs, path::PathBuf, thread::scope};

use margay_tests::{eventually::eventually, host::Host, lab::Lab};

use crate::{address, appears, lab, reaches, settled, vanishes, well};

const CREATE: &str = "network create -d margay --ipam-driver margay";

/// Networks of every kind: with options and labels, of both families, internal, external.
const FILE: &str = r#"
version: "2.4"
services:
  web:
    image: box
    command: sleep 1000
    stop_signal: SIGKILL
    networks: [front, inner, shared]
networks:
  front:
    driver: margay
    enable_ipv6: true
    driver_opts:
      com.docker.network.driver.mtu: "1400"
    labels:
      org.example.team: a
    ipam:
      driver: margay
  inner:
    driver: margay
    internal: true
    ipam:
      driver: margay
  shared:
    external: true
"#;

fn file(host: &Host) -> PathBuf {
    let path = host.dir().join("compose.yaml");
    fs::write(&path, FILE).expect("a disk");
    path
}

/// A command that has to succeed: what it said.
#[track_caller]
fn compose(host: &Host, args: &[&str]) -> String {
    let said = host.engine().compose(&file(host), args);
    assert!(said.ok(), "{}: docker-compose {}: {said:?}", host.name, args.join(" "));
    said.out + &said.err
}

/// The one container of a host.
fn web(host: &Host) -> String {
    host.docker("ps --format {{.Names}}")
}

#[track_caller]
fn all_reach_each_other(lab: &Lab) {
    for network in ["shop_front", "shop_inner", "shared"] {
        for host in &lab.hosts {
            for other in &lab.hosts {
                let addr = address(other, &web(other), network);
                assert!(reaches(host, &web(host), &addr), "{} to {} on {network}", host.name, other.name);
            }
        }
    }
}

#[test]
fn compose_finds_its_networks_on_every_host() {
    let lab = lab(3);
    lab.h(1).ok(&["pool", "add", "fd00:77::/48"]);
    lab.h(1).docker(&format!("{CREATE} shared"));
    lab.hosts.iter().for_each(|host| appears(host, "shared"));
    // In turn: the first creates what the others find.
    for host in &lab.hosts {
        compose(host, &["up", "-d"]);
        lab.hosts
            .iter()
            .for_each(|other| ["shop_front", "shop_inner"].iter().for_each(|n| appears(other, n)));
    }
    all_reach_each_other(&lab);
    for host in &lab.hosts {
        let inspected = host.docker("network inspect shop_front");
        let inspected: serde_json::Value = serde_json::from_str(&inspected).expect("JSON");
        let options = serde_json::json!({"com.docker.network.driver.mtu": "1400"});
        assert_eq!(inspected[0]["Options"], options, "{}", host.name);
        assert_eq!(inspected[0]["Labels"]["org.example.team"], "a", "{}", host.name);
    }
    // One host's goes while the others use it, and comes again.
    for host in &lab.hosts {
        compose(host, &["down"]);
        settled(host);
        compose(host, &["up", "-d"]);
        all_reach_each_other(&lab);
    }
    for host in &lab.hosts {
        compose(host, &["down"]);
    }
    for host in &lab.hosts {
        ["shop_front", "shop_inner"].iter().for_each(|network| vanishes(host, network));
        appears(host, "shared");
    }
    lab.hosts.iter().for_each(well);
}

#[test]
fn compose_may_come_up_and_go_down_on_all_hosts_at_once() {
    let lab = lab(3);
    lab.h(1).ok(&["pool", "add", "fd00:77::/48"]);
    lab.h(1).docker(&format!("{CREATE} shared"));
    lab.hosts.iter().for_each(|host| appears(host, "shared"));
    for _ in 0..2 {
        scope(|scope| {
            for host in &lab.hosts {
                scope.spawn(move || {
                    // A host that was not the first to create a network may have to retry.
                    eventually(&format!("{} comes up", host.name), || {
                        let said = host.engine().compose(&file(host), &["up", "-d"]);
                        if said.ok() { Ok(()) } else { Err(said) }
                    });
                });
            }
        });
        lab.hosts.iter().for_each(settled);
        lab.hosts.iter().for_each(well);
        all_reach_each_other(&lab);
        scope(|scope| {
            for host in &lab.hosts {
                scope.spawn(move || compose(host, &["down"]));
            }
        });
        for host in &lab.hosts {
            ["shop_front", "shop_inner"].iter().for_each(|network| vanishes(host, network));
        }
    }
}
