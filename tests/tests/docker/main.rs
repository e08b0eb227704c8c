//! Real Docker Engines, one for each host.

mod networks;

use margay_tests::{
    eventually::eventually,
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

/// Waits until it has it no more.
#[track_caller]
pub fn vanishes(host: &Host, network: &str) {
    eventually(&format!("network {network} gone from {}'s docker", host.name), || {
        let listed = host.docker("network ls --format {{.Name}}");
        if listed.lines().any(|name| name == network) { Err(listed) } else { Ok(()) }
    });
}
