//! Networks: created once, there on every host.

use margay_tests::engine::IMAGE;

use crate::{appears, lab, vanishes};

#[test]
fn a_network_that_one_host_creates_is_everywhere() {
    let lab = lab(3);
    lab.h(1).docker("network create -d margay --ipam-driver margay blue");
    for host in &lab.hosts {
        appears(host, "blue");
    }
    for host in &lab.hosts {
        host.docker(&format!("run -d --network blue --name c-{} {IMAGE} sleep 600", host.name));
    }
    let addr = lab.h(3).docker("inspect -f {{.NetworkSettings.Networks.blue.IPAddress}} c-h3");
    lab.h(1).docker(&format!("exec c-h1 ping -c 2 -W 1 {addr}"));
    for host in &lab.hosts {
        host.docker(&format!("rm -f c-{}", host.name));
    }
    lab.h(2).docker("network rm blue");
    for host in &lab.hosts {
        vanishes(host, "blue");
    }
}
