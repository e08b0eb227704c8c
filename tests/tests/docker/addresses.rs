//! A container keeps its addresses until it is removed.

use std::{collections::BTreeMap, thread::scope};

use margay_tests::{
    engine::{IMAGE, networks},
    eventually::eventually,
    host::Host,
};

use crate::{address, appears, lab, reaches, run, well};

const CREATE: &str = "network create -d margay --ipam-driver margay";

/// The IPv6 address of a container on a network.
fn address6(host: &Host, container: &str, network: &str) -> String {
    let inspected = networks(&host.docker(&format!("inspect {container}")));
    inspected[network]["GlobalIPv6Address"].as_str().unwrap_or_default().into()
}

/// Waits until containers have these addresses and Docker and the agent agree about them.
#[track_caller]
fn have(host: &Host, network: &str, wanted: &BTreeMap<String, String>) {
    eventually("every container has its address", || {
        let listed = host.json(&["endpoint", "ls"]);
        let mut found = BTreeMap::new();
        for endpoint in listed.as_array().expect("a list").iter().filter(|e| e["network"] == network) {
            let name = endpoint["name"].as_str().unwrap_or_default().to_owned();
            found.insert(name, endpoint["addresses"][0].as_str().unwrap_or_default().to_owned());
        }
        if found == *wanted { Ok(()) } else { Err((found, wanted.clone())) }
    });
    for (name, addr) in wanted {
        assert_eq!(address(host, name, network), *addr, "{name} in Docker");
    }
}

#[test]
fn a_container_keeps_its_addresses_while_it_exists() {
    let lab = lab(1);
    let h1 = lab.h(1);
    h1.ok(&["pool", "add", "fd00:77::/48"]);
    h1.docker(&format!("{CREATE} --ipv6 blue"));
    h1.docker(&format!("{CREATE} red"));
    run(h1, "web", "--network blue");
    h1.docker("network connect red web");
    let was = [address(h1, "web", "blue"), address6(h1, "web", "blue"), address(h1, "web", "red")];
    let is = || [address(h1, "web", "blue"), address6(h1, "web", "blue"), address(h1, "web", "red")];
    for _ in 0..3 {
        h1.docker("restart -t 0 web");
        assert_eq!(is(), was);
    }
    // While it is stopped no other container gets its addresses.
    h1.docker("stop -t 0 web");
    for i in 0..3 {
        run(h1, &format!("other{i}"), "--network blue");
        assert_ne!(address(h1, &format!("other{i}"), "blue"), was[0]);
    }
    h1.docker("start web");
    assert_eq!(is(), was);
    assert!(reaches(h1, "other0", &was[0]) && reaches(h1, "other0", &was[1]));
    // It crashes, and Docker starts it again.
    h1.docker(&format!(
        "run -d --name crashes --restart always --network blue {IMAGE} sh -c sleep${{IFS}}0.3;exit${{IFS}}1"
    ));
    let crashes = address(h1, "crashes", "blue");
    for wanted in ["2", "4"] {
        eventually("it has restarted", || {
            let count = h1.docker("inspect -f {{.RestartCount}} crashes");
            if count.as_str() >= wanted { Ok(()) } else { Err(count) }
        });
        eventually("it has its address", || {
            let said = h1.docker("inspect -f {{.NetworkSettings.Networks.blue.IPAddress}} crashes");
            if said == crashes { Ok(()) } else { Err(said) }
        });
    }
    h1.docker("rm -f crashes");
    well(h1);
    // Removed or disconnected, it keeps nothing.
    h1.docker("network disconnect red web");
    h1.docker("stop -t 0 web");
    h1.docker("rm web");
    for addr in [&was[0], &was[2]] {
        eventually("the address is nobody's", || {
            let dump = h1.ok(&["store", "export"]);
            if dump.contains(&format!("\"{addr}\": {{")) { Err(dump) } else { Ok(()) }
        });
    }
}

#[test]
fn twenty_containers_restarted_at_once_keep_their_addresses() {
    let lab = lab(1);
    let h1 = lab.h(1);
    h1.docker(&format!("{CREATE} blue"));
    let names: Vec<String> = (0..20).map(|i| format!("c{i}")).collect();
    names.iter().for_each(|name| run(h1, name, "--network blue"));
    let was: BTreeMap<String, String> =
        names.iter().map(|name| (name.clone(), address(h1, name, "blue"))).collect();
    for _ in 0..10 {
        scope(|scope| {
            for name in &names {
                // Without -t: a busy Docker 20.10 would also kill the container that it has just started.
                scope.spawn(move || h1.docker(&format!("restart {name}")));
            }
        });
    }
    have(h1, "blue", &was);
    let moved = h1.log().matches("connecting it again").count();
    println!("{moved} of 200 restarts were given another address first");
    assert!(reaches(h1, "c0", &was["c19"]));
    well(h1);
}

#[test]
fn stopped_containers_do_not_keep_a_network_from_being_removed() {
    let lab = lab(2);
    let h1 = lab.h(1);
    h1.docker(&format!("{CREATE} blue"));
    appears(lab.h(2), "blue");
    run(h1, "web", "--network blue");
    h1.docker("stop -t 0 web");
    h1.docker("network rm blue");
    crate::vanishes(lab.h(2), "blue");
    well(h1);
}

#[test]
fn stopped_container_gives_its_address_up_if_no_other_is_free() {
    let lab = lab(1);
    let h1 = lab.h(1);
    h1.docker(&format!("{CREATE} --subnet 10.65.0.0/29 small"));
    for i in 0..5 {
        run(h1, &format!("c{i}"), "--network small");
    }
    let was = address(h1, "c2", "small");
    h1.docker("stop -t 0 c2");
    run(h1, "new", "--network small");
    assert_eq!(address(h1, "new", "small"), was);
    let refused = h1.docker_refuses("start c2");
    assert!(refused.contains("10.65.0.0/29 is exhausted"), "{refused}");
    // A container that asks for a stopped container's address by name gets it.
    let was = address(h1, "c3", "small");
    h1.docker("stop -t 0 c3");
    h1.docker("rm -f new");
    run(h1, "named", &format!("--network small --ip {was}"));
    assert_eq!(address(h1, "named", "small"), was);
    h1.docker("start c3");
    assert_ne!(address(h1, "c3", "small"), was);
    well(h1);
}
