//! Containers: every way in which Docker puts one on a network.

use margay_tests::{
    engine::{IMAGE, networks},
    eventually::eventually,
    host::Host,
    process::{say, sh},
};

use crate::{address, appears, flow, hears_nothing, lab, problems, reaches, run, well, with};

const CREATE: &str = "network create -d margay --ipam-driver margay";

pub fn no_endpoints(host: &Host) {
    eventually(&format!("no endpoint is left on {}", host.name), || {
        let left = host.json(&["endpoint", "ls"]);
        if left.as_array().is_some_and(Vec::is_empty) { Ok(()) } else { Err(left) }
    });
    eventually("no interface is left", || {
        let links = host.namespace.sh("ip -o link");
        if links.contains("mgy") || links.contains("mgp") { Err(links) } else { Ok(()) }
    });
}

/// Docker lists a container's endpoint only when it has started, which may take
/// longer than the agent waits for those that Docker has forgotten.
#[test]
fn a_container_that_starts_slowly_keeps_its_endpoint() {
    let runtime = format!("/run/margay-slow-{}", std::process::id());
    let script = "#!/bin/sh\ncase \"$*\" in *create*) sleep 8;; esac\nexec runc \"$@\"\n";
    std::fs::write(&runtime, script).expect("a disk");
    sh(&format!("chmod 755 {runtime}"));
    let lab = with(1, &[&format!("--add-runtime=slow={runtime}")]);
    lab.h(1).docker("network create -d margay --ipam-driver margay --subnet 10.1.0.0/16 blue");
    run(lab.h(1), "slow", "--network blue --runtime slow");
    let addr = address(lab.h(1), "slow", "blue").parse().expect("an address");
    assert!(lab.h(1).namespace.pings(addr, 2));
    std::fs::remove_file(runtime).expect("our own");
}

#[test]
fn container_gets_the_addresses_mac_and_name_that_the_user_asked_for() {
    let lab = lab(2);
    let h1 = lab.h(1);
    h1.docker(&format!("{CREATE} --subnet 10.65.0.0/16 --ipv6 --subnet fd00:65::/64 blue"));
    appears(lab.h(2), "blue");
    run(
        h1,
        "fixed",
        "--network blue --ip 10.65.7.7 --ip6 fd00:65::77 --mac-address 02:42:ac:11:00:22 --hostname web",
    );
    let seen = networks(&h1.docker("inspect fixed"));
    let blue = &seen["blue"];
    assert!(blue["IPAddress"] == "10.65.7.7" && blue["GlobalIPv6Address"] == "fd00:65::77", "{blue}");
    assert!(blue["MacAddress"] == "02:42:ac:11:00:22" && blue["Gateway"] == "10.65.0.1", "{blue}");
    assert!(blue["IPPrefixLen"] == 32 && blue["IPv6Gateway"] == "fd00:65::1", "{blue}");
    assert_eq!(h1.docker("exec fixed hostname"), "web");
    assert_eq!(h1.docker("exec fixed hostname -i"), "10.65.7.7");
    assert!(h1.docker("exec fixed ip link show eth0").contains("02:42:ac:11:00:22"));
    run(lab.h(2), "peer", "--network blue");
    let mac = lab.h(2).docker("inspect -f {{.NetworkSettings.Networks.blue.MacAddress}} peer");
    assert!(lab.h(2).docker("exec peer ip link show eth0").contains(&mac) && mac.len() == 17, "{mac}");
    for addr in ["10.65.7.7", "fd00:65::77"] {
        assert!(reaches(lab.h(2), "peer", addr), "{addr}");
    }
    let taken = lab.h(2).docker_refuses(&format!("run --rm --network blue --ip 10.65.7.7 {IMAGE} true"));
    assert!(taken.contains("10.65.7.7 is taken by") && taken.contains("on node h1"), "{taken}");
    let outside = h1.docker_refuses(&format!("run --rm --network blue --ip 10.66.0.1 {IMAGE} true"));
    assert!(outside.contains("10.66.0.1"), "{outside}");
    let listed: serde_json::Value =
        serde_json::from_str(&h1.ok(&["endpoint", "inspect", "fixed"])).expect("JSON");
    assert!(listed["network"] == "blue" && listed["addresses"][1] == "fd00:65::77", "{listed}");
    let refused = h1.refused(&["endpoint", "detach", "fixed"]);
    assert!(refused.contains("docker network disconnect blue fixed"), "{refused}");
    h1.docker("rm -f fixed");
    no_endpoints(h1);
}

#[test]
fn networks_come_and_go_while_traffic_flows() {
    let lab = lab(2);
    let (h1, h2) = (lab.h(1), lab.h(2));
    h1.docker(&format!("{CREATE} blue"));
    // With its subnet named, since a network without is created again while nobody uses it.
    h1.docker(&format!("{CREATE} --internal --subnet 10.67.0.0/16 inner"));
    h1.docker("network create plain");
    ["blue", "inner"].iter().for_each(|network| appears(h2, network));
    let outsider = lab.outsider();
    run(h1, "c1", "--network blue");
    run(h2, "c2", "--network blue");
    run(h2, "only-inner", "--network inner");
    let (blue, inner) = (address(h2, "c2", "blue"), address(h2, "only-inner", "inner"));
    let flow = flow(h1, "c1", &blue);
    for _ in 0..3 {
        h1.docker("network connect inner c1");
        assert!(reaches(h1, "c1", &inner), "by the second network");
        h1.docker("network connect plain c1");
        h1.docker("network disconnect inner c1");
        assert!(hears_nothing(h1, "c1", &inner), "not any more");
        h1.docker("network disconnect plain c1");
    }
    flow.end();
    // An internal network leads nowhere else; one that is not leads out of both.
    assert!(hears_nothing(h2, "only-inner", "192.0.2.200"));
    h2.docker("network connect blue only-inner");
    assert!(reaches(h2, "only-inner", "192.0.2.200"), "masqueraded as the host");
    assert!(reaches(h2, "only-inner", &address(h1, "c1", "blue")));
    // Started on several networks, one of them Docker's own.
    h1.docker(&format!("create --name both --network blue {IMAGE} sleep 1000"));
    h1.docker("network connect plain both");
    h1.docker("network connect inner both");
    h1.docker("start both");
    for addr in [&blue, &inner, "192.0.2.200"] {
        assert!(reaches(h1, "both", addr), "{addr}");
    }
    run(h1, "neighbour", "--network plain");
    assert!(reaches(h1, "both", &address(h1, "neighbour", "plain")));
    assert!(!outsider.reaches(blue.parse().expect("an address")), "from outside nobody gets in");
    h1.docker("rm -f c1 both neighbour");
    h2.docker("rm -f c2 only-inner");
    [h1, h2].into_iter().for_each(no_endpoints);
    well(h1);
}

#[test]
fn containers_leave_nothing_behind_however_they_end() {
    let lab = lab(1);
    let h1 = lab.h(1);
    h1.docker(&format!("{CREATE} blue"));
    run(h1, "peer", "--network blue");
    let peer = address(h1, "peer", "blue");
    // create, start, stop, start, restart, kill, rm: as compose does it.
    h1.docker(&format!(
        "create --name web --network blue --network-alias web --label com.docker.compose.service=web {IMAGE} sleep 1000"
    ));
    for _ in 0..2 {
        h1.docker("start web");
        assert!(reaches(h1, "web", &peer));
        h1.docker("stop -t 0 web");
    }
    h1.docker("start web");
    h1.docker("restart -t 0 web");
    assert!(reaches(h1, "web", &peer));
    h1.docker("rename web site");
    eventually("the new name", || {
        let listed = h1.json(&["endpoint", "ls"]).to_string();
        if listed.contains("\"site\"") && !listed.contains("\"web\"") { Ok(()) } else { Err(listed) }
    });
    h1.docker("kill site");
    h1.docker("start site");
    assert!(reaches(h1, "site", &peer));
    h1.docker("rm -f site");
    // Docker starts it again by itself.
    h1.docker(&format!(
        "run -d --name again --restart on-failure:3 --network blue {IMAGE} sh -c exit${{IFS}}1"
    ));
    eventually("three restarts", || {
        let count = h1.docker("inspect -f {{.RestartCount}}{{.State.Running}} again");
        if count == "3false" { Ok(()) } else { Err(count) }
    });
    h1.docker("rm again");
    h1.docker(&format!("run --rm --network blue {IMAGE} ping -c 1 -W 20 {peer}"));
    h1.docker("rm -f peer");
    no_endpoints(h1);
    h1.docker("network rm blue");
    eventually("blue is gone", || {
        let networks = h1.json(&["network", "ls"]).to_string();
        if networks == "[]" { Ok(()) } else { Err(networks) }
    });
}

#[test]
fn other_docker_network_modes_work_beside_margay() {
    let lab = lab(1);
    let h1 = lab.h(1);
    h1.docker(&format!("{CREATE} blue"));
    run(h1, "c1", "--network blue");
    let addr = address(h1, "c1", "blue");
    // The example that needs eight commands by hand needs one.
    run(h1, "bare", "--network none");
    let pid = h1.docker("inspect -f {{.State.Pid}} bare");
    h1.ok(&["endpoint", "attach", "--network", "blue", "--pid", &pid, "--name", "bare"]);
    assert!(reaches(h1, "bare", &addr));
    run(h1, "sidecar", "--network container:c1");
    assert!(h1.docker("exec sidecar ip addr").contains(&addr));
    let links = h1.docker("exec bare ip -o -4 addr show eth0");
    let bare = links.split_whitespace().nth(3).and_then(|addr| addr.split('/').next());
    assert!(reaches(h1, "sidecar", bare.expect("an address")));
    run(h1, "host", "--network host");
    assert!(reaches(h1, "host", &addr), "as the host itself");
    run(h1, "usual", "");
    let usual = h1.docker("inspect -f {{.NetworkSettings.IPAddress}} usual");
    assert!(h1.namespace.pings(usual.parse().expect("an address"), 1), "Docker's own bridge");
    h1.docker("network connect blue usual");
    assert!(reaches(h1, "usual", &addr));
    h1.docker("rm -f sidecar c1 host usual bare");
    no_endpoints(h1);
}

#[test]
fn docker_firewall_rules_and_bridges_do_not_block_containers() {
    let mut lab = lab(2);
    lab.h(1).docker(&format!("{CREATE} blue"));
    appears(lab.h(2), "blue");
    let outsider = lab.outsider();
    let world = "192.0.2.200";
    for host in &lab.hosts {
        run(host, "c1", "--network blue");
        // As Docker sets it: forwarded packets are dropped.
        host.namespace.sh("iptables -P FORWARD DROP");
    }
    let policy = lab.h(1).namespace.sh("iptables -S FORWARD");
    assert!(policy.contains("-P FORWARD DROP") && policy.contains("DOCKER-USER"), "{policy}");
    let works = |lab: &margay_tests::lab::Lab| {
        eventually("containers reach each other and the world", || {
            let peer = address(lab.h(2), "c1", "blue");
            let reached = [&*peer, world].map(|addr| reaches(lab.h(1), "c1", addr));
            if reached == [true, true] { Ok(()) } else { Err((reached, problems(lab.h(1)))) }
        });
    };
    works(&lab);
    assert!(!lab.h(1).namespace.sh("ip -o link").contains("docker_gwbridge"), "nothing asks for it");
    lab.h(1).docker(
        "network create --subnet 172.31.0.0/16 -o com.docker.network.bridge.name=docker_gwbridge \
         -o com.docker.network.bridge.enable_icc=false docker_gwbridge",
    );
    lab.h(1).docker("network connect docker_gwbridge c1");
    works(&lab);
    lab.host(1).engine_mut().stop();
    lab.host(1).engine_mut().run();
    lab.h(1).docker("start c1");
    works(&lab);
    let ping = say(lab.h(1).namespace.command("iptables").args(["-S", "DOCKER-USER"]));
    assert!(ping.ok(), "{ping:?}");
    drop(outsider);
}
