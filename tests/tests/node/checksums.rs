//! Checksums of all packets that leave are finished, also where no device finishes them.

use std::net::IpAddr;

use margay_tests::{
    container::Namespace,
    eventually::eventually,
    frame::{icmpv6_checksum_is_right, sum},
    host::UPLINK,
    lab::Lab,
    process::say,
    raw::Capture,
    stream,
};

/// Two hosts with one network of both families and another.
fn lab() -> Lab {
    let lab = Lab::new(2);
    lab.h(1).ok(&["network", "create", "blue", "--subnet", "10.1.0.0/16", "--subnet", "fd00:1::/64"]);
    lab.h(1).ok(&["network", "create", "red", "--subnet", "10.2.0.0/16", "--subnet", "fd00:2::/64"]);
    lab
}

fn finishes_nothing(namespace: &Namespace, interface: &str) {
    namespace.sh(&format!("ethtool -K {interface} tx off"));
}

/// The host side of the only endpoint of a host.
fn host_side(lab: &Lab, host: usize) -> String {
    let endpoints = lab.h(host).json(&["endpoint", "ls"]);
    endpoints[0]["host_interface"].as_str().expect("a name").to_owned()
}

/// Sends a datagram, or asks for a connection: the kernel leaves the checksum of either to
/// the device.
fn send(from: &Namespace, protocol: &str, addr: IpAddr) {
    let line = format!("echo hello > /dev/{protocol}/{addr}/9");
    // Whether the sender hears of the error in time does not matter.
    drop(say(from.command("timeout").args(["5", "bash", "-c", &line])));
}

/// Whether a frame is an ICMP error, and if so whether both of its checksums are right.
fn judge(frame: &[u8]) -> Option<bool> {
    match (frame.get(12..14)?, frame.len()) {
        ([8, 0], 42..) if frame[23] == 1 && matches!(frame[34], 3 | 11) => {
            Some(sum(&frame[14..34]) == 0xffff && sum(&frame[34..]) == 0xffff)
        }
        ([0x86, 0xdd], 62..) if frame[20] == 58 && frame[54] < 128 => Some(icmpv6_checksum_is_right(frame)),
        _ => None,
    }
}

#[track_caller]
fn is_told(from: &Namespace, protocol: &str, addr: IpAddr) {
    let arrivals = Capture::of(from, "eth0");
    send(from, protocol, addr);
    let mut seen = Vec::new();
    let right = eventually("the error comes", || {
        seen.extend(arrivals.frames());
        seen.iter().find_map(|frame| judge(frame)).ok_or(&seen).map_err(|seen| format!("{seen:x?}"))
    });
    assert!(right, "{protocol} to {addr}: {seen:x?}");
}

#[test]
fn icmp_errors_leave_with_finished_checksums() {
    let lab = lab();
    let (a, _) = lab.attached(1, "blue");
    let (_b, addresses) = lab.attached(2, "blue");
    // In the block of the other host, and of nobody.
    let nobody = |addr: &IpAddr| match addr {
        IpAddr::V4(addr) => IpAddr::from(std::net::Ipv4Addr::from_bits(addr.to_bits() + 20)),
        IpAddr::V6(addr) => IpAddr::from(std::net::Ipv6Addr::from_bits(addr.to_bits() + 20)),
    };
    finishes_nothing(&lab.h(2).namespace, UPLINK);
    finishes_nothing(&lab.h(1).namespace, &host_side(&lab, 1));
    for protocol in ["udp", "tcp"] {
        // From the other host's uplink, and from the sender's own host.
        addresses.iter().map(nobody).for_each(|addr| is_told(&a, protocol, addr));
        ["10.2.0.9", "fd00:2::9"]
            .iter()
            .for_each(|red| is_told(&a, protocol, red.parse().expect("a literal")));
    }
}

#[test]
fn forwarded_packets_and_gateway_replies_leave_with_finished_checksums() {
    let lab = lab();
    let (a, _) = lab.attached(1, "blue");
    let (b, addresses) = lab.attached(2, "blue");
    for host in [1, 2] {
        finishes_nothing(&lab.h(host).namespace, UPLINK);
        finishes_nothing(&lab.h(host).namespace, &host_side(&lab, host));
    }
    for addr in &addresses {
        let _server = stream::serve(&b, *addr, &lab.h(2).dir().join("iperf.log"));
        eventually("the stream arrives", || stream::send(&a, *addr, "2M"));
        assert!(lab.h(1).namespace.pings(*addr, 2), "from a host");
    }
    // The gateway's own answers: echo, and who it is.
    a.sh("ip neigh flush dev eth0 nud all");
    for gateway in ["10.1.0.1", "fd00:1::1"] {
        assert!(a.pings(gateway.parse().expect("a literal"), 2));
    }
}
