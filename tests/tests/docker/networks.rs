//! Networks: created once, there on every host; removed once, gone from all.

use std::{os::unix::fs::PermissionsExt, path::Path, thread::scope};

use margay_tests::{
    engine::IMAGE,
    eventually::eventually,
    host::margay,
    lab::{Lab, Plan},
    needs::skip,
};
use serde_json::Value;

use crate::{address, appears, lab, notes, notices, problems, reaches, run, settled, tells, vanishes, well};

const CREATE: &str = "network create -d margay --ipam-driver margay";

fn inspect(host: &margay_tests::host::Host, network: &str) -> Value {
    // The network is missing for a moment on the host where the agent creates it again.
    let said = eventually("Docker has the network", || {
        let said = host.try_docker(&format!("network inspect {network}"));
        if said.ok() { Ok(said.out) } else { Err(said) }
    });
    let found: Value = serde_json::from_str(&said).expect("JSON");
    found[0].clone()
}

#[test]
fn network_created_on_one_host_appears_on_every_host() {
    let lab = lab(3);
    lab.h(1).docker(&format!("{CREATE} blue"));
    for host in &lab.hosts {
        appears(host, "blue");
        run(host, &format!("c-{}", host.name), "--network blue");
    }
    for host in &lab.hosts {
        for other in &lab.hosts {
            let addr = address(other, &format!("c-{}", other.name), "blue");
            assert!(reaches(host, &format!("c-{}", host.name), &addr), "{} to {}", host.name, other.name);
        }
    }
    // Names in the listings of either side.
    let found = lab.h(2).json(&["endpoint", "ls"]);
    assert!(found[0]["name"] == "c-h2" && found[0]["network"] == "blue", "{found}");
    let refused = lab.h(1).refused(&["network", "rm", "blue"]);
    for host in &lab.hosts {
        assert!(refused.contains(&format!("1 on node {} (c-{})", host.name, host.name)), "{refused}");
    }
    lab.h(3).docker_refuses("network rm blue");
    // Docker removes the network where no container uses it; the others still have one.
    lab.h(3).docker("rm -f c-h3");
    lab.h(3).docker("network rm blue");
    notes(lab.h(3), "docker network rm has no effect: network blue has endpoints: 1 on node h1 (c-h1)");
    appears(lab.h(3), "blue");
    // The conflict is over: no problem is left.
    well(lab.h(3));
    lab.h(3).docker("network prune -f");
    appears(lab.h(3), "blue");
    run(lab.h(3), "again", "--network blue");
    assert!(reaches(lab.h(3), "again", &address(lab.h(1), "c-h1", "blue")));
    lab.h(3).docker("rm -f again");
    lab.h(1).docker("rm -f c-h1");
    lab.h(2).docker("rm -f c-h2");
    lab.h(2).ok(&["network", "rm", "blue"]);
    for host in &lab.hosts {
        vanishes(host, "blue");
        eventually("what happened to it is of no account", || {
            let told = notices(host);
            if told.is_empty() { Ok(()) } else { Err(told) }
        });
    }
}

#[test]
fn network_options_and_labels_appear_on_every_host() {
    let lab = lab(2);
    lab.h(1).docker(&format!(
        "{CREATE} --subnet 10.65.0.0/16 --ip-range 10.65.5.0/24 --gateway 10.65.0.9 --aux-address nas=10.65.5.3 \
         --ipv6 --subnet fd00:65::/64 --label team=a -o com.docker.network.driver.mtu=1400 \
         -o com.docker.network.container_iface_prefix=net wide"
    ));
    appears(lab.h(2), "wide");
    let (one, two) = (inspect(lab.h(1), "wide"), inspect(lab.h(2), "wide"));
    assert_eq!(one["Labels"], two["Labels"]);
    assert_eq!(two["Labels"]["team"], "a");
    assert_eq!(two["Options"]["com.docker.network.driver.mtu"], "1400");
    let v4 = &two["IPAM"]["Config"][0];
    assert!(
        v4["Subnet"] == "10.65.0.0/16" && v4["IPRange"] == "10.65.5.0/24" && v4["Gateway"] == "10.65.0.9"
    );
    assert_eq!(v4["AuxiliaryAddresses"]["nas"], "10.65.5.3");
    assert!(two["EnableIPv6"] == true && two["IPAM"]["Config"][1]["Subnet"] == "fd00:65::/64", "{two}");
    for host in &lab.hosts {
        run(host, "c1", "--network wide");
        let addr = address(host, "c1", "wide");
        assert!(addr.starts_with("10.65.5.") && addr != "10.65.5.3", "{addr}");
        let links = host.docker("exec c1 ip addr");
        assert!(
            links.contains("net0@") && links.contains("mtu 1400") && links.contains("fd00:65:"),
            "{links}"
        );
        let routes = host.docker("exec c1 ip route");
        assert!(
            routes.contains("default via 10.65.0.9") && routes.contains("10.65.0.0/16 via 10.65.0.9"),
            "{routes}"
        );
    }
    assert!(reaches(lab.h(1), "c1", &address(lab.h(2), "c1", "wide")));
    let v6 = lab.h(2).docker("inspect -f {{.NetworkSettings.Networks.wide.GlobalIPv6Address}} c1");
    assert!(reaches(lab.h(1), "c1", &v6), "{v6}");
    // Another container gets neither a foreign address nor a used one.
    for (ip, reason) in
        [("10.65.5.3", "reserved for nas"), (&*address(lab.h(2), "c1", "wide"), "is taken by")]
    {
        let refused = lab.h(1).docker_refuses(&format!("run --rm --network wide --ip {ip} {IMAGE} true"));
        assert!(refused.contains(reason), "{refused}");
    }
    // Both families from the pools.
    lab.h(1).ok(&["pool", "add", "fd00:77::/48"]);
    lab.h(1).docker(&format!("{CREATE} --ipv6 six"));
    appears(lab.h(2), "six");
    let subnets = inspect(lab.h(2), "six")["IPAM"]["Config"].to_string();
    assert!(subnets.contains("10.192.0.0/20") && subnets.contains("fd00:77::/64"), "{subnets}");
    // Removed and created at once with other options: this is a different network.
    lab.h(1).docker("network rm six");
    lab.h(1).docker(&format!("{CREATE} --internal six"));
    // By their names alone the other host's may still be the one that was removed.
    eventually("the other host has the new one", || {
        let said = lab.h(2).try_docker("network inspect -f {{.Internal}} six");
        if said.out.trim() == "true" { Ok(()) } else { Err(said) }
    });
    lab.hosts.iter().for_each(settled);
    // What a command creates is Docker's, too.
    lab.h(2).ok(&["network", "create", "fast", "--subnet", "10.66.0.0/24", "--mtu", "1300", "--routable"]);
    lab.hosts.iter().for_each(|host| appears(host, "fast"));
    run(lab.h(1), "f1", "--network fast");
    assert!(lab.h(1).docker("exec f1 ip link show eth0").contains("mtu 1300"));
    lab.hosts.iter().for_each(well);
}

#[test]
fn impossible_network_requests_are_refused_without_a_trace() {
    let lab = lab(1);
    let h1 = lab.h(1);
    eventually("the cluster knows of Docker's own bridge", || {
        let dump = h1.ok(&["store", "export"]);
        if dump.contains("172.17.0.0/16") { Ok(()) } else { Err(dump) }
    });
    h1.ok(&["network", "create", "taken", "--subnet", "10.7.0.0/16"]);
    appears(h1, "taken");
    for (flags, reason) in [
        ("-d margay x", "--ipam-driver margay"),
        ("-d margay --ipam-driver margay -o mtu=big x", "mtu=big: use a number"),
        ("-d margay --ipam-driver margay -o margay.netwrk=y x", "there is no option margay.netwrk"),
        ("-d margay --ipam-driver margay -o mtuu=9000 x", "there is no option mtuu; there are mtu,"),
        ("-d margay --ipam-driver margay -o encrypted= x", "Margay does not encrypt"),
        (
            "-d margay --ipam-driver margay --subnet 172.17.128.0/24 x",
            "overlaps 172.17.0.0/16, which is on a link",
        ),
        ("-d margay --ipam-driver margay -o margay.network=host x", "reserved by the container runtime"),
        ("-d margay --ipam-driver margay --subnet 10.7.1.0/24 x", "overlaps 10.7.0.0/16 of network taken"),
        ("-d margay --ipam-driver margay --subnet 10.8.0.0/31 x", "too small"),
        ("-d margay --ipam-driver margay --subnet 192.0.2.0/24 x", "the address of node h1"),
        (
            "-d margay --ipam-driver margay --subnet 10.8.0.0/24 --subnet 10.9.0.0/24 x",
            "one subnet of each family",
        ),
        ("-d margay --ipam-driver margay --internal -o margay.routable=true x", "internal or routable"),
        ("-d margay --ipam-driver margay --ipam-opt margay.net=y x", "there is no IPAM option margay.net"),
    ] {
        let refused = h1.docker_refuses(&format!("network create {flags}"));
        assert!(refused.contains(reason), "{flags}: {refused}");
    }
    for name in ["bridge", "host", "none", "default"] {
        let refused = h1.refused(&["network", "create", name]);
        assert!(refused.contains("reserved by the container runtime"), "{refused}");
    }
    let refused = h1.refused(&["network", "create", "x", "--subnet", "172.16.0.0/12"]);
    assert!(refused.contains("overlaps 172.17.0.0/16, which is on a link of node h1"), "{refused}");
    // Harmless unknown options are kept.
    h1.docker(&format!("{CREATE} -o org.example.note=x noted"));
    assert_eq!(inspect(h1, "noted")["Options"]["org.example.note"], "x");
    h1.docker("network rm noted");
    eventually("one network is left", || {
        let left = h1.json(&["network", "ls"]);
        if left.as_array().map(Vec::len) == Some(1) { Ok(()) } else { Err(left) }
    });
    let dump = h1.ok(&["store", "export"]);
    assert!(!dump.contains("reservations"), "{dump}");
    // Publishing ports is refused, since Margay does not support it.
    let refused = h1.docker_refuses(&format!("run --rm --network taken -p 8080:80 {IMAGE} true"));
    assert!(refused.contains("does not publish ports yet"), "{refused}");
    assert_eq!(h1.json(&["endpoint", "ls"]).as_array().map(Vec::len), Some(0));
}

#[test]
fn same_create_on_every_host_makes_one_network() {
    let lab = lab(3);
    scope(|scope| {
        for host in &lab.hosts {
            // On a host whose agent was faster than its user, Docker says that the network exists.
            scope.spawn(move || {
                let said = host.try_docker(&format!("{CREATE} red"));
                assert!(said.ok() || said.err.contains("already exists"), "{said:?}");
            });
        }
    });
    lab.hosts.iter().for_each(settled);
    let subnet = inspect(lab.h(1), "red")["IPAM"]["Config"][0]["Subnet"].clone();
    for host in &lab.hosts {
        assert_eq!(inspect(host, "red")["IPAM"]["Config"][0]["Subnet"], subnet);
        run(host, "c1", "--network red");
    }
    assert!(reaches(lab.h(1), "c1", &address(lab.h(3), "c1", "red")));
    lab.hosts.iter().for_each(well);
    // Named in the call, both ways, they meet in the call.
    for more in
        ["--ipam-opt margay.network=green -o margay.network=green green-here", "--subnet 10.70.0.0/16 grey"]
    {
        let name = more.split(' ').next_back().expect("a name");
        scope(|scope| {
            for host in &lab.hosts {
                scope.spawn(move || {
                    let said = host.try_docker(&format!("{CREATE} {more}"));
                    assert!(said.ok() || said.err.contains("already exists"), "{said:?}");
                });
            }
        });
        lab.hosts.iter().for_each(|host| appears(host, name));
    }
    let subnets: Vec<Value> = lab
        .hosts
        .iter()
        .map(|host| inspect(host, "green-here")["IPAM"]["Config"][0]["Subnet"].clone())
        .collect();
    assert!(subnets[0] == subnets[1] && subnets[1] == subnets[2], "{subnets:?}");
    eventually("the cluster has each once", || {
        let names = lab.h(1).json(&["network", "ls"]);
        let names = names.as_array().expect("a list").iter();
        let mut names: Vec<String> = names.filter_map(|n| n["name"].as_str().map(str::to_owned)).collect();
        names.sort_unstable();
        if names == ["green", "grey", "red"] { Ok(()) } else { Err(names) }
    });
}

#[test]
fn differing_creates_of_one_name_keep_the_first() {
    let lab = lab(2);
    scope(|scope| {
        for (host, subnet) in lab.hosts.iter().zip(["10.71.0.0/16", "10.72.0.0/16"]) {
            scope.spawn(move || host.docker(&format!("{CREATE} --subnet {subnet} red")));
        }
    });
    lab.hosts.iter().for_each(settled);
    let subnets: Vec<Value> =
        lab.hosts.iter().map(|host| inspect(host, "red")["IPAM"]["Config"][0]["Subnet"].clone()).collect();
    assert_eq!(subnets[0], subnets[1]);
    lab.hosts.iter().for_each(well);
    let told: Vec<String> = lab.hosts.iter().map(notices).filter(|told| !told.is_empty()).collect();
    assert!(
        told.len() == 1 && told[0].contains("network red was removed from this host's Docker"),
        "{told:?}"
    );
    // By name it is refused in the call.
    let refused =
        lab.h(2).docker_refuses(&format!("{CREATE} --subnet 10.73.0.0/16 -o margay.network=red other"));
    assert!(refused.contains("network red exists with other options"), "{refused}");
    // The subnet under another name is not that network.
    let subnet = subnets[0].as_str().expect("a subnet");
    lab.h(2).docker(&format!("{CREATE} --subnet {subnet} pink"));
    vanishes(lab.h(2), "pink");
    notes(lab.h(2), &format!("network pink was removed from this host's Docker: {subnet} is network red's"));
    appears(lab.h(2), "red");
}

#[test]
fn host_that_was_down_catches_up_and_keeps_foreign_networks() {
    let mut lab = lab(2);
    lab.h(2).docker("network create own");
    lab.host(2).engine_mut().stop();
    lab.h(1).docker(&format!("{CREATE} blue"));
    lab.h(1).docker(&format!("{CREATE} own"));
    lab.host(2).engine_mut().run();
    appears(lab.h(2), "blue");
    tells(lab.h(2), "this host's Docker has a network own of driver bridge");
    assert_eq!(lab.h(2).docker("network ls --filter name=own --format {{.Driver}}"), "bridge");
    // What happens while an agent is down is seen when it is back.
    lab.host(2).kill();
    lab.h(1).docker("network rm blue");
    lab.h(1).docker(&format!("{CREATE} late"));
    eventually("blue is gone from the cluster", || {
        let networks = lab.h(1).json(&["network", "ls"]).to_string();
        if networks.contains("blue") { Err(networks) } else { Ok(()) }
    });
    lab.host(2).up();
    vanishes(lab.h(2), "blue");
    appears(lab.h(2), "late");
    lab.h(2).docker("network rm own");
    eventually("own is Margay's", || {
        let driver = lab.h(2).docker("network ls --filter name=own --format {{.Driver}}");
        if driver == "margay" { Ok(()) } else { Err(driver) }
    });
    eventually("nothing is wrong", || {
        let told = problems(lab.h(2));
        if told.is_empty() { Ok(()) } else { Err(told) }
    });
}

#[test]
fn docker_finds_the_agent_at_the_default_socket() {
    let mut lab = Lab::without_agents(Plan::for_test(1));
    lab.host(1).usual = true;
    lab.host(1).up();
    lab.host(1).start_docker(&[]);
    let socket = std::fs::metadata("/run/docker/plugins/margay.sock").expect("the usual place");
    assert_eq!(socket.permissions().mode() & 0o777, 0o600, "root's alone");
    lab.h(1).docker(&format!("{CREATE} blue"));
    run(lab.h(1), "c1", "--network blue");
    assert_eq!(lab.h(1).json(&["endpoint", "ls"]).as_array().map(Vec::len), Some(1));
    lab.h(1).docker("rm -f c1");
    lab.host(1).stop();
    assert!(!Path::new("/run/docker/plugins/margay.sock").exists());
    // A host that cannot create the network reports it to the caller.
    lab.host(1).flags.extend(["--docker-plugin".into(), "/proc/no/margay.sock".into()]);
    let said = lab.h(1).namespace.command(margay()).args(lab.h(1).own_flags()).output().expect("it runs");
    let told = String::from_utf8_lossy(&said.stderr).into_owned();
    assert!(!said.status.success() && told.contains("--docker-plugin /proc/no/margay.sock"), "{told}");
}

#[test]
fn subnet_that_docker_refuses_is_replaced_by_another() {
    let lab = lab(1);
    let h1 = lab.h(1);
    let version = h1.docker("version -f {{.Server.Version}}");
    let major: u32 = version.split('.').next().and_then(|major| major.parse().ok()).expect("a version");
    if major >= 28 {
        return skip("a Docker from 28 on takes every subnet, whatever the host's routes are");
    }
    // Docker refuses what overlaps a route of the host's links, and asks again.
    h1.namespace.sh("ip route add 10.192.0.0/19 dev up0");
    h1.docker(&format!("{CREATE} blue"));
    let subnet = inspect(h1, "blue")["IPAM"]["Config"][0]["Subnet"].clone();
    assert_eq!(subnet, "10.192.32.0/20", "the first two of the pool lie in that route");
    settled(h1);
    // What it refused is free again.
    let dump = h1.ok(&["store", "export"]);
    assert!(!dump.contains("reservations/"), "{dump}");
    // The same of a network that is named, whose subnet cannot be another.
    h1.ok(&["network", "create", "there", "--subnet", "10.193.0.0/20"]);
    h1.namespace.sh("ip route add 10.193.0.0/16 dev up0");
    let refused = h1.docker_refuses(&format!("{CREATE} --ipam-opt margay.network=there other"));
    assert!(refused.contains("Docker refuses 10.193.0.0/20"), "{refused}");
    // If the whole pool conflicts, the caller gets an error and no further attempts.
    h1.namespace.sh("ip route add 10.192.0.0/10 dev up0");
    let refused = h1.docker_refuses(&format!("{CREATE} red"));
    // Docker's error, or the route if the agent already knows it.
    let reasons =
        ["64 subnets of the pools were refused on this host", "node h1 has a route to 10.192.0.0/10"];
    assert!(reasons.iter().any(|reason| refused.contains(reason)), "{refused}");
    let dump = h1.ok(&["store", "export"]);
    assert!(!dump.contains("reservations/"), "{dump}");
}

#[test]
fn ip_option_works_on_every_host_with_an_automatic_subnet() {
    let lab = lab(2);
    lab.h(1).docker(&format!("{CREATE} blue"));
    let blue = lab.h(1).docker("network inspect -f {{.Id}} blue");
    lab.h(1).docker(&format!("{CREATE} used"));
    run(lab.h(1), "c1", "--network used");
    ["blue", "used"].iter().for_each(|network| appears(lab.h(2), network));
    // Asked for in a way that leaves Docker quiet.
    eventually("a network that nobody uses is created again", || {
        let said = lab.h(1).try_docker("network inspect -f {{.Id}} blue");
        if said.ok() && said.out.trim() != blue { Ok(()) } else { Err(said) }
    });
    for (i, host) in lab.hosts.iter().enumerate() {
        let addr = format!("10.192.0.{}", 200 + i);
        host.docker(&format!("run -d --name fixed --network blue --ip {addr} {IMAGE} sleep 1000"));
        assert_eq!(address(host, "fixed", "blue"), addr);
    }
    assert!(reaches(lab.h(1), "fixed", "10.192.0.201"));
    // A network that was used keeps its id, even without containers: somebody may refer to it.
    let id = || lab.h(1).docker("network inspect -f {{.Id}} used");
    let before = id();
    lab.h(1).docker("restart -t 0 c1");
    lab.h(1).docker("rm -f c1");
    // A network created after the last use of `used` has been recreated, so `used` would have
    // been recreated by now, too.
    lab.h(1).docker(&format!("{CREATE} later"));
    let later = lab.h(1).docker("network inspect -f {{.Id}} later");
    eventually("a network that nobody uses is made again", || {
        let said = lab.h(1).try_docker("network inspect -f {{.Id}} later");
        if said.ok() && said.out.trim() != later { Ok(()) } else { Err(said) }
    });
    assert_eq!(id(), before);
    lab.hosts.iter().for_each(settled);
    lab.hosts.iter().for_each(well);
}
