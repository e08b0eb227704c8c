//! The lines, and how many of them.

use std::path::PathBuf;

use margay_common::{net::Mac, verdict::DropReason};

use super::*;
use crate::model::endpoint::{Device, Owner, Stage};

fn ip(text: &str) -> IpAddr {
    text.parse().expect("a literal")
}

fn endpoint(id: &str, name: Option<&str>, addresses: &[&str]) -> Endpoint {
    Endpoint {
        id: id.into(),
        name: name.map(str::to_owned),
        network: 1,
        network_name: "blue".into(),
        addresses: addresses.iter().map(|addr| ip(addr)).collect(),
        mac: Mac([2, 0, 0, 0, 0, 1]),
        netns: PathBuf::new(),
        sandbox: 1,
        ifname: "eth0".into(),
        host_interface: format!("mgy{id}"),
        device: Device::Veth,
        mtu: 1500,
        stage: Stage::Joined,
        owner: Owner::Command,
        lost: None,
    }
}

fn line(program: Program, reason: DropReason, ifindex: u32, src: &str, dst: &str) -> String {
    let mut state = State::default();
    for (id, name, index, addresses) in
        [("e1", Some("web"), 7, &["10.1.0.2", "fd00:1::2"][..]), ("e2", None, 8, &["10.1.0.3"][..])]
    {
        state.facts.endpoints.insert(id.into(), endpoint(id, name, addresses));
        state.facts.interfaces.insert(format!("mgy{id}"), index);
    }
    let (src, dst) = (ip(src).into(), ip(dst).into());
    let mut drop = Logged::new(program, reason as u32, ifindex, 98);
    (drop.src, drop.dst) = (src, dst);
    let mut lines = lines(&state, &[drop]);
    assert_eq!(lines.len(), 1);
    lines.remove(0)
}

#[test]
fn a_line_names_program_endpoint_addresses_and_reason() {
    use Program::{FromHost, FromNetwork, FromWorkload, Xdp};
    let cases = [
        (
            (FromWorkload, DropReason::Isolated, 7, "10.1.0.2", "10.2.0.7"),
            "from_workload dropped 98 bytes from web (10.1.0.2): isolated, to 10.2.0.7",
        ),
        (
            (FromWorkload, DropReason::Isolated, 7, "fd00:1::2", "fd00:2::7"),
            "from_workload dropped 98 bytes from web (fd00:1::2): isolated, to fd00:2::7",
        ),
        // What it claims to be is not what it is.
        (
            (FromWorkload, DropReason::SpoofedSource, 7, "10.1.0.3", "10.1.0.9"),
            "from_workload dropped 98 bytes from web (10.1.0.2): spoofed_source, as 10.1.0.3, to 10.1.0.9",
        ),
        (
            (FromWorkload, DropReason::EtherType, 8, "::", "::"),
            "from_workload dropped 98 bytes from e2 (10.1.0.3): ether_type",
        ),
        (
            (FromWorkload, DropReason::UnknownInterface, 9, "10.1.0.2", "10.1.0.3"),
            "from_workload dropped 98 bytes from interface 9: unknown_interface, as 10.1.0.2, to e2 (10.1.0.3)",
        ),
        (
            (FromNetwork, DropReason::Outside, 3, "203.0.113.9", "10.1.0.2"),
            "from_network dropped 98 bytes from 203.0.113.9: outside, to web (10.1.0.2)",
        ),
        (
            (FromHost, DropReason::NoEndpoint, 4, "192.0.2.1", "10.1.0.99"),
            "from_host dropped 98 bytes from 192.0.2.1: no_endpoint, to 10.1.0.99",
        ),
        (
            (Xdp, DropReason::Guarded, 3, "203.0.113.9", "192.0.2.1"),
            "xdp_uplink dropped 98 bytes from 203.0.113.9: guarded, to 192.0.2.1",
        ),
    ];
    for ((program, reason, ifindex, src, dst), expected) in cases {
        assert_eq!(line(program, reason, ifindex, src, dst), expected);
    }
}

#[test]
fn omitted_lines_are_counted() {
    let mut limit = Limit { withheld: 1000, ..Limit::default() };
    let granted = (0..LINES_PER_SECOND + 5).filter(|_| limit.grants()).count() as u64;
    assert_eq!(granted, LINES_PER_SECOND);
    assert_eq!(limit.left_out(1003), 8, "three that the programs withheld, five of ours");
    assert!(limit.grants(), "another second");
    assert_eq!(limit.left_out(1003), 0);
}
