//! Real Docker Engines, one for each host.

mod addresses;
mod compose;
mod containers;
mod load;
mod networks;
mod pools;
mod protocol;
mod registry;
mod restart;

use margay_tests::{
    container::Namespace,
    engine::IMAGE,
    eventually::eventually,
    flow::Flow,
    host::Host,
    lab::{Lab, Plan},
};

/// Hosts with agents and Docker Engines.
pub fn lab(hosts: usize) -> Lab {
    with(hosts, &[])
}

/// The same with more flags for dockerd.
pub fn with(hosts: usize, flags: &[&str]) -> Lab {
    let mut lab = Lab::without_agents(Plan::for_test(hosts));
    for host in &mut lab.hosts {
        host.flags.extend(["--docker-patience".into(), "4".into()]);
        host.masquerade = true;
        host.up();
        host.start_docker(flags);
    }
    lab
}

/// Waits until a host's Docker has a network.
#[track_caller]
pub fn appears(host: &Host, network: &str) {
    eventually(&format!("network {network} in {}'s docker", host.name), || {
        let listed = host.docker("network ls --format {{.Name}}={{.Driver}}");
        let wanted = format!("{network}=margay");
        if listed.lines().any(|line| line == wanted) { Ok(()) } else { Err(listed) }
    });
}

/// Waits until a host's Docker no longer has a network.
#[track_caller]
pub fn vanishes(host: &Host, network: &str) {
    eventually(&format!("network {network} gone from {}'s docker", host.name), || {
        let listed = host.docker("network ls --format {{.Name}}");
        if listed.lines().any(|name| name == network) { Err(listed) } else { Ok(()) }
    });
}

/// Starts a container that sleeps.
#[track_caller]
pub fn run(host: &Host, name: &str, flags: &str) {
    host.docker(&format!("run -d --stop-signal KILL --name {name} {flags} {IMAGE} sleep 1000"));
}

/// A container's address on a network.
#[track_caller]
pub fn address(host: &Host, container: &str, network: &str) -> String {
    let format = format!("{{{{(index .NetworkSettings.Networks \"{network}\").IPAddress}}}}");
    let said = host.engine().docker(&["inspect", "-f", &format, container]);
    assert!(said.ok() && !said.out.trim().is_empty(), "{said:?}");
    said.out.trim().into()
}

/// Echoes from a container that go on until they are ended.
#[track_caller]
pub fn flow(host: &Host, container: &str, addr: &str) -> Flow {
    let pid = host.docker(&format!("inspect -f {{{{.State.Pid}}}} {container}"));
    let name = format!("{}-{container}", host.namespace.name());
    let inside = Namespace::of_process(&name, pid.parse().expect("an id"));
    let log = host.dir().join(format!("flow-{container}.log"));
    Flow::start(&inside, addr.parse().expect("an address"), &log)
}

/// Whether a container reaches an address.
pub fn reaches(host: &Host, container: &str, addr: &str) -> bool {
    host.try_docker(&format!("exec {container} ping -c 1 -W 20 {addr}")).ok()
}

/// Whether a container gets no answer from an address. Echoes take far less time than ping
/// waits.
pub fn hears_nothing(host: &Host, container: &str, addr: &str) -> bool {
    !host.try_docker(&format!("exec {container} ping -c 1 -W 1 {addr}")).ok()
}

/// The problems of a host, as text.
pub fn problems(host: &Host) -> String {
    let status = host.json(&["status"]);
    let list = status["problems"].as_array().expect("a list");
    list.iter().map(|p| format!("{} ({})\n", p["problem"], p["mend"])).collect()
}

/// The notices of a host, as text.
pub fn notices(host: &Host) -> String {
    let status = host.json(&["status"]);
    let list = status["notices"].as_array().expect("a list");
    list.iter().map(|p| format!("{} ({})\n", p["problem"], p["mend"])).collect()
}

/// Waits until nothing is wrong on a host.
#[track_caller]
pub fn well(host: &Host) {
    eventually(&format!("nothing is wrong on {}", host.name), || match problems(host) {
        problems if problems.is_empty() => Ok(()),
        problems => Err(problems),
    });
}

/// Waits until a host's status reports a problem.
#[track_caller]
pub fn tells(host: &Host, what: &str) {
    eventually(&format!("{}'s status tells: {what}", host.name), || {
        let problems = problems(host);
        if problems.contains(what) { Ok(()) } else { Err(problems) }
    });
}

/// Waits until a host's status has a notice.
#[track_caller]
pub fn notes(host: &Host, what: &str) {
    eventually(&format!("{}'s status tells: {what}", host.name), || {
        let told = notices(host);
        if told.contains(what) { Ok(()) } else { Err(told) }
    });
}

/// Waits until nothing is wrong on a host and every network of the cluster is
/// in its Docker.
#[track_caller]
pub fn settled(host: &Host) {
    eventually(&format!("{} is settled", host.name), || {
        let networks = host.json(&["network", "ls"]);
        let named = networks.as_array().expect("a list").iter().all(|network| network["unnamed"] == false);
        let mut names: Vec<String> = networks
            .as_array()
            .expect("a list")
            .iter()
            .map(|n| n["name"].as_str().unwrap_or("").into())
            .collect();
        names.sort();
        let listed = host.docker("network ls --filter driver=margay --format {{.Name}}");
        let mut listed: Vec<String> = listed.lines().map(str::to_owned).collect();
        listed.sort();
        if named && names == listed { Ok(()) } else { Err((networks, listed, problems(host))) }
    });
}
