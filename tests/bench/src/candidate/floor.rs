//! The floor for programs between veths and an uplink: each only redirects to one interface,
//! without a check, a look-up or a neighbour. Their cost is that of the veths and redirects, so
//! beyond noise no program between them is faster.

use std::{fs, path::Path};

use margay_tests::{
    container::Namespace,
    host::UPLINK,
    lab::Lab,
    programs::{Hook, pin, redirector},
};

use super::{Built, host, hosts, kernel::flat, wired};
use crate::work::Way;

/// Two pairs of containers: a program leads to one place, so each way has its own.
pub fn redirects() -> Built {
    let lab = hosts();
    let (client, server) = (member(&lab, 1, 1), member(&lab, 2, 1));
    for (i, container, other) in [(1, &client, flat(2, 1)), (2, &server, flat(1, 1))] {
        lead(&lab, i, "v1", UPLINK, false);
        lead(&lab, i, UPLINK, "v1", true);
        // Addressed to the host that receives, which then takes it for its own.
        let mac = mac(&host(&lab, 3 - i), UPLINK);
        container.sh(&format!("ip neigh add {other} lladdr {mac} dev eth0"));
    }
    let across = Way { client, server, target: flat(2, 1) };
    let (client, server) = (member(&lab, 1, 2), member(&lab, 1, 3));
    for (container, n, other) in [(&client, 2, 3), (&server, 3, 2)] {
        let outside = format!("v{n}");
        lead(&lab, 1, &outside, &format!("v{other}"), true);
        let mac = mac(&host(&lab, 1), &outside);
        container.sh(&format!("ip neigh add {} lladdr {mac} dev eth0", flat(1, other)));
    }
    Built { across, local: Way { client, server, target: flat(1, 3) }, keep: vec![Box::new(lab)] }
}

/// The container `n` of a host.
fn member(lab: &Lab, host: usize, n: usize) -> Namespace {
    let container = wired(lab, host, &format!("v{n}"));
    container.sh(&format!("ip addr add {}/24 dev eth0", flat(host, n)));
    container
}

/// Sends what comes in on one interface of a host to another, or into the
/// container behind that.
fn lead(lab: &Lab, i: usize, from: &str, to: &str, peer: bool) {
    let host = host(lab, i);
    let link = host.sh(&format!("ip -o link show {to}"));
    let index = link.split(':').next().and_then(|index| index.parse().ok()).expect("an index");
    let path = Path::new("/sys/fs/bpf/margay-bench-redirect");
    pin(path, Hook::Classifier, &redirector(index, peer));
    host.sh(&format!("tc qdisc add dev {from} clsact"));
    host.sh(&format!("tc filter add dev {from} ingress bpf da object-pinned {}", path.display()));
    fs::remove_file(path).expect("a pin");
}

/// An interface's MAC.
fn mac(namespace: &Namespace, interface: &str) -> String {
    let link = namespace.sh(&format!("ip -o link show {interface}"));
    link.split("link/ether ").nth(1).and_then(|rest| rest.split(' ').next()).expect("a MAC").to_owned()
}
