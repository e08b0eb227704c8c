//! What Docker does by itself.

use std::net::IpAddr;

use margay_tests::{container::Namespace, engine::IMAGE, eventually::eventually, lab::Lab};

use super::{Built, hosts, kernel, uplink};
use crate::work::{PORTS, UDP_PORTS, Way};

fn with_engines(flags: &[&str]) -> Lab {
    let mut lab = hosts();
    for host in &mut lab.hosts {
        host.start_docker(flags);
        host.namespace.sysctl("net.ipv4.ip_forward", "1");
        host.namespace.sysctl("net.netfilter.nf_conntrack_tcp_timeout_time_wait", "5");
    }
    lab
}

/// Starts a container that waits, and names its network namespace.
fn container(lab: &Lab, host: usize, name: &str, flags: &str) -> Namespace {
    let docker = lab.h(host);
    docker.docker(&format!("run -d --name {name} {flags} {IMAGE} sleep 100000"));
    let pid = docker.docker(&format!("inspect -f {{{{.State.Pid}}}} {name}")).parse().expect("a process");
    Namespace::of_process(&format!("{}-{host}-{name}", lab.plan.prefix), pid)
}

/// The address of a container in a network of Docker's.
fn address(lab: &Lab, host: usize, name: &str) -> IpAddr {
    let format = "{{range.NetworkSettings.Networks}}{{.IPAddress}}{{end}}";
    lab.h(host).docker(&format!("inspect -f {format} {name}")).parse().expect("an address")
}

/// Three containers, the third on the first host, called by their own addresses.
fn three(lab: Lab, flags: &str) -> Built {
    let [first, second, third] = [(1, "client"), (2, "far"), (1, "near")]
        .map(|(host, name)| (container(&lab, host, name, flags), address(&lab, host, name)));
    let client = Namespace::existing(first.0.name());
    eventually("the containers reach each other", || {
        let said = client.run(&format!("ping -n -q -c 1 -W 1 {}", second.1));
        if said.ok() { Ok(()) } else { Err(said) }
    });
    Built {
        across: Way { client: first.0, server: second.0, target: second.1 },
        local: Way { client, server: third.0, target: third.1 },
        keep: vec![Box::new(lab)],
    }
}

/// No network of Docker's: a veth to a bridge, by hand.
pub fn none() -> Built {
    let lab = with_engines(&[]);
    kernel::add_bridges(&lab);
    let make = |lab: &Lab, host: usize, n: usize, addr: IpAddr| {
        let container = container(lab, host, &format!("c{n}"), "--network none");
        kernel::join_bridge(lab, host, n, &container, addr);
        container
    };
    kernel::three(lab, make, kernel::flat)
}

/// A network of each host's own, and routes.
pub fn routes() -> Built {
    let lab = with_engines(&[]);
    for (i, other) in [(1, 2), (2, 1)] {
        let host = lab.h(i);
        let masquerade = "com.docker.network.bridge.enable_ip_masquerade=false";
        host.docker(&format!(
            "network create --subnet 10.6.{i}.0/24 -o {masquerade} -o com.docker.network.bridge.name=br0 app"
        ));
        host.namespace.sh(&format!("ip route add 10.6.{other}.0/24 via {}", uplink(other)));
        host.namespace.sh("iptables -w -I DOCKER-USER -o br0 -j ACCEPT");
    }
    three(lab, "--network app")
}

/// Published by rules.
pub fn ports() -> Built {
    published(with_engines(&["--userland-proxy=false"]))
}

/// Published by docker-proxy.
pub fn proxy() -> Built {
    published(with_engines(&["--iptables=false"]))
}

fn published(lab: Lab) -> Built {
    let tcp = PORTS.iter().map(|port| format!("-p {port}:{port}"));
    let udp = UDP_PORTS.iter().map(|port| format!("-p {port}:{port}/udp"));
    let ports = tcp.chain(udp).collect::<Vec<_>>().join(" ");
    for (i, other) in [(1, 2), (2, 1)] {
        // Without rules nothing hides the containers' addresses from the other.
        let host = lab.h(i);
        host.docker(&format!("network create --subnet 10.6.{i}.0/24 app"));
        host.namespace.sh(&format!("ip route add 10.6.{other}.0/24 via {}", uplink(other)));
    }
    let client = container(&lab, 1, "client", "--network app");
    let server = container(&lab, 2, "far", &format!("--network app {ports}"));
    let near = container(&lab, 1, "near", &format!("--network app {ports}"));
    Built {
        local: Way { client: Namespace::existing(client.name()), server: near, target: uplink(1) },
        across: Way { client, server, target: uplink(2) },
        keep: vec![Box::new(lab)],
    }
}

/// The overlay of swarm mode.
pub fn overlay() -> Built {
    let lab = with_engines(&[]);
    let (h1, h2) = (lab.h(1), lab.h(2));
    h1.docker(&format!("swarm init --advertise-addr {} --default-addr-pool 10.66.0.0/16", uplink(1)));
    let token = h1.docker("swarm join-token -q worker");
    h2.docker(&format!("swarm join --token {token} {}:2377", uplink(1)));
    h1.docker("network create -d overlay --attachable --subnet 10.6.0.0/16 app");
    three(lab, "--network app")
}
