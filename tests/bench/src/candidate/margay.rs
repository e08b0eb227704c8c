//! Margay itself.

use margay_tests::{
    container::Namespace,
    lab::{Lab, Plan},
};

use super::Built;
use crate::work::Way;

/// With the defaults that ship.
pub fn margay() -> Built {
    on(Lab::from(Plan::direct()))
}

/// The same with BIG TCP.
pub fn margay_big() -> Built {
    flagged(&["--big-tcp"])
}

/// The same with netkits.
pub fn margay_netkit() -> Built {
    flagged(&["--container-device", "netkit"])
}

/// With flags for the agents.
fn flagged(flags: &[&str]) -> Built {
    let mut lab = Lab::without_agents(Plan::direct());
    for host in &mut lab.hosts {
        host.flags = flags.iter().map(|&flag| flag.to_owned()).collect();
        host.up();
    }
    on(lab)
}

/// Containers on running hosts.
fn on(lab: Lab) -> Built {
    lab.h(1).ok(&["network", "create", "blue", "--subnet", "10.1.0.0/16", "--subnet", "fd00:1::/64"]);
    let (client, _) = lab.attached(1, "blue");
    let (far, far_addr) = lab.attached(2, "blue");
    let (near, near_addr) = lab.attached(1, "blue");
    Built {
        across: Way { client: Namespace::existing(client.name()), server: far, target: far_addr[0] },
        local: Way { client, server: near, target: near_addr[0] },
        keep: vec![Box::new(lab)],
    }
}
