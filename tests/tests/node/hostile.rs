//! What a container with full powers over its own interface can do: nothing.

use std::net::IpAddr;

use margay_tests::{
    container::Namespace,
    eventually::eventually,
    frame::{Frame, arp},
    lab::Lab,
    raw,
};

use crate::attach::one_host;

/// Sends a raw frame out of a container's interface, as what its own EtherType says.
fn send(container: &Namespace, frame: &[u8]) {
    raw::send(&container.path(), raw::index(container, "eth0"), 0, frame).expect("a raw socket sends it");
}

fn mac_of(container: &Namespace) -> [u8; 6] {
    raw::mac(container, "eth0")
}

/// Sends a frame and waits until it is counted under a reason.
#[track_caller]
fn refused(lab: &Lab, container: &Namespace, frame: &[u8], reason: &str) {
    let before = lab.h(1).count("from_workload", reason);
    send(container, frame);
    eventually(reason, || match lab.h(1).count("from_workload", reason) {
        n if n > before => Ok(()),
        n => Err(n),
    });
}

#[test]
fn container_with_a_foreign_address_or_mac_reaches_nobody() {
    let lab = one_host();
    // First, since it knows the address that comes first.
    raw_frames_with_foreign_addresses_are_dropped(&lab);
    tagged_frames_go_nowhere(&lab);
    a_changed_address_or_mac_stops_working(&lab);
}

fn raw_frames_with_foreign_addresses_are_dropped(lab: &Lab) {
    let (a, addr_a) = lab.attached(1, "blue");
    let (_b, addr_b) = lab.attached(1, "blue");
    let own = mac_of(&a);
    let somebody: IpAddr = "10.1.0.77".parse().expect("a literal");
    for family in 0..2 {
        let honest = Frame::udp(own, addr_a[family], addr_b[family]);
        refused(lab, &a, &Frame { eth_src: [2, 1, 1, 1, 1, 1], ..honest.clone() }.bytes(), "spoofed_mac");
        refused(lab, &a, &honest.clone().from(addr_b[family]).bytes(), "spoofed_source");
        refused(lab, &a, &honest.to_mac([2, 1, 1, 1, 1, 1]).bytes(), "other_host");
    }
    refused(lab, &a, &Frame::udp(own, somebody, addr_b[0]).bytes(), "spoofed_source");
    refused(lab, &a, &arp(own, 1, (own, [10, 1, 0, 77]), [10, 1, 0, 1]), "spoofed_source");
    refused(lab, &a, &arp(own, 1, ([2; 6], [10, 1, 0, 2]), [10, 1, 0, 1]), "spoofed_mac");
    // Cut short, as no honest stack would send it.
    let honest = Frame::udp(own, addr_a[0], addr_b[0]).bytes();
    refused(lab, &a, &honest[..30], "malformed");
    let honest = Frame::udp(own, addr_a[1], addr_b[1]).bytes();
    refused(lab, &a, &honest[..50], "malformed");
    assert!(a.pings(addr_b[0], 1), "and nothing of it did harm");
}

fn tagged_frames_go_nowhere(lab: &Lab) {
    let (a, addr_a) = lab.attached(1, "blue");
    let (_b, addr_b) = lab.attached(1, "blue");
    let mut tagged = Frame::udp(mac_of(&a), addr_a[0], addr_b[0]).bytes();
    tagged.splice(12..12, [0x81, 0, 0, 5]);
    refused(lab, &a, &tagged, "vlan");
}

fn a_changed_address_or_mac_stops_working(lab: &Lab) {
    let (a, addr_a) = lab.attached(1, "blue");
    let (_b, addr_b) = lab.attached(1, "blue");
    assert!(a.pings(addr_b[0], 1));
    a.sh(&format!("ip addr del {}/32 dev eth0", addr_a[0]));
    a.sh("ip addr add 10.1.0.99/32 dev eth0");
    a.sh("ip route replace default via 10.1.0.1 dev eth0 onlink");
    assert!(!a.reaches(addr_b[0]));
    assert!(a.pings(addr_b[1], 1), "the other family is as it was");
    a.sh("ip link set dev eth0 address 02:00:00:00:00:55");
    assert!(!a.reaches(addr_b[1]));
}

#[test]
fn veth_without_its_program_passes_nothing() {
    let lab = one_host();
    let (a, _) = lab.attached(1, "blue");
    let (_b, addr_b) = lab.attached(1, "blue");
    for switch in ["net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"] {
        lab.h(1).namespace.sysctl(switch, "1");
    }
    let endpoints = lab.h(1).json(&["endpoint", "ls"]);
    for endpoint in endpoints.as_array().expect("a list") {
        let name = endpoint["host_interface"].as_str().expect("a name");
        std::fs::remove_file(lab.plan.bpffs.join("h1/links").join(name)).expect("the pin was there");
    }
    for addr in addr_b.into_iter().chain(lab.h(1).addresses.clone()) {
        // The kernel takes a moment to free the links.
        eventually("it is closed", || if a.reaches(addr) { Err(addr) } else { Ok(()) });
    }
}

#[test]
fn outsiders_reach_routable_networks_only() {
    let lab = one_host();
    lab.h(1).ok(&[
        "network",
        "create",
        "open",
        "--subnet",
        "10.4.0.0/16",
        "--subnet",
        "fd00:4::/64",
        "--routable",
    ]);
    let outside = lab.outsider();
    let (closed, addr_closed) = lab.attached(1, "blue");
    let (open, addr_open) = lab.attached(1, "open");
    for net in ["10.1.0.0/16", "10.4.0.0/16"] {
        outside.sh(&format!("ip route add {net} via 192.0.2.1"));
    }
    for net in ["fd00:1::/64", "fd00:4::/64"] {
        outside.sh(&format!("ip -6 route add {net} via 2001:db8::1"));
    }
    let theirs: [IpAddr; 2] = ["192.0.2.200", "2001:db8::200"].map(|a| a.parse().expect("a literal"));
    for family in 0..2 {
        assert!(outside.pings(addr_open[family], 2), "in");
        assert!(open.pings(theirs[family], 2), "and out");
        let before = lab.h(1).count("from_network", "outside");
        assert!(!outside.reaches(addr_closed[family]));
        assert_eq!(lab.h(1).count("from_network", "outside"), before + 1);
        assert!(!closed.reaches(theirs[family]), "without forwarding nothing goes out either");
    }
}

#[test]
fn packet_forwarded_by_the_kernel_does_not_reach_an_unroutable_network() {
    // The host is a router of its own, as one with Docker on it is.
    let lab = one_host();
    let (_c, addr) = lab.attached(1, "blue");
    let host = &lab.h(1).namespace;
    host.sysctl("net.ipv4.ip_forward", "1");
    let behind = lab.container();
    let line =
        format!("ip link add lan0 netns {} type veth peer name eth0 netns {}", host.name(), behind.name());
    margay_tests::process::sh(&line);
    host.sh("ip addr add 172.30.0.1/24 dev lan0");
    host.sh("ip link set lan0 up");
    behind.sh("ip addr add 172.30.0.2/24 dev eth0");
    behind.sh("ip link set eth0 up");
    behind.sh("ip route add default via 172.30.0.1");
    // The host may have to find its way to start with.
    eventually("it is forwarded, and dropped", || {
        assert!(!behind.reaches(addr[0]));
        let dropped = lab.h(1).count("from_host", "outside");
        if dropped > 0 { Ok(()) } else { Err(dropped) }
    });
}
