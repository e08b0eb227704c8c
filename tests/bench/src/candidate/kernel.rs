//! What the kernel does by itself.

use std::net::IpAddr;

use margay_tests::{container::Namespace, host::UPLINK, lab::Lab};

use super::{Built, host as on, hosts, uplink, wire, wired};
use crate::work::Way;

/// Size of super-packets with BIG TCP, bytes.
pub const BIG: u32 = 196_608;

/// The hosts themselves.
pub fn host() -> Built {
    let lab = hosts();
    Built {
        across: Way { client: on(&lab, 1), server: on(&lab, 2), target: uplink(2) },
        local: Way { client: on(&lab, 1), server: on(&lab, 1), target: uplink(1) },
        keep: vec![Box::new(lab)],
    }
}

/// The same with larger super-packets.
pub fn host_big() -> Built {
    let built = host();
    for namespace in [&built.across.client, &built.across.server] {
        margay_tests::netlink::big_tcp(namespace, UPLINK, BIG);
    }
    built
}

/// A candidate with BIG TCP on every interface of its hosts and containers.
pub fn enlarge(built: Built) -> Built {
    let lab = built.keep.iter().find_map(|kept| kept.downcast_ref::<Lab>()).expect("every candidate has one");
    let hosts = lab.hosts.iter().map(|host| &host.namespace);
    for namespace in hosts.chain([&built.across.client, &built.across.server]) {
        let links = namespace.sh("ip -o link show");
        let names = links.lines().filter_map(|line| line.split(": ").nth(1)?.split('@').next());
        for name in names.filter(|name| !["lo", "store0"].contains(name)) {
            margay_tests::netlink::big_tcp(namespace, name, BIG);
        }
    }
    built
}

/// Three containers, the third on the first host, made by `make` from host,
/// number and address.
pub fn three(
    lab: Lab,
    make: impl Fn(&Lab, usize, usize, IpAddr) -> Namespace,
    addr: fn(usize, usize) -> IpAddr,
) -> Built {
    let [first, second, third] =
        [(1, 1), (2, 1), (1, 2)].map(|(host, n)| (make(&lab, host, n, addr(host, n)), addr(host, n)));
    let client = Namespace::existing(first.0.name());
    Built {
        across: Way { client: first.0, server: second.0, target: second.1 },
        local: Way { client, server: third.0, target: third.1 },
        keep: vec![Box::new(lab)],
    }
}

/// An address of the cable's own network.
pub fn flat(host: usize, n: usize) -> IpAddr {
    [192, 0, 2, (100 * host + n) as u8].into()
}

/// An address of a subnet of each host's own.
fn routed_addr(host: usize, n: usize) -> IpAddr {
    [10, 6, host as u8, (1 + n) as u8].into()
}

/// A bridge that holds the uplink.
pub fn bridge() -> Built {
    let lab = hosts();
    add_bridges(&lab);
    let make = |lab: &Lab, host: usize, n: usize, addr: IpAddr| {
        let container = lab.container();
        join_bridge(lab, host, n, &container, addr);
        container
    };
    three(lab, make, flat)
}

/// Gives both hosts a bridge that holds the uplink.
pub fn add_bridges(lab: &Lab) {
    for i in [1, 2] {
        let host = &lab.h(i).namespace;
        no_bridge_filter(host);
        host.sh("ip link add br0 type bridge");
        host.sh(&format!("ip addr flush dev {UPLINK}"));
        host.sh(&format!("ip link set {UPLINK} master br0"));
        host.sh("ip link set br0 up");
        host.sh(&format!("ip addr add {}/24 dev br0", uplink(i)));
    }
}

/// Wires a container to the bridge of its host.
pub fn join_bridge(lab: &Lab, host: usize, n: usize, container: &Namespace, addr: IpAddr) {
    let host = &lab.h(host).namespace;
    wire(container, host, &format!("v{n}"));
    host.sh(&format!("ip link set v{n} master br0"));
    container.sh(&format!("ip addr add {addr}/24 dev eth0"));
}

/// Bridges of hosts without Docker pass no rules of iptables.
fn no_bridge_filter(host: &Namespace) {
    let off = "test ! -e /proc/sys/net/bridge || echo 0 > /proc/sys/net/bridge/bridge-nf-call-iptables";
    let said = margay_tests::process::say(host.command("sh").args(["-c", off]));
    assert!(said.ok(), "{said:?}");
}

/// Veths with a route each.
pub fn routed() -> Built {
    let lab = hosts();
    for (i, other) in [(1, 2), (2, 1)] {
        forwarding(&lab, i);
        lab.h(i).namespace.sh(&format!("ip route add 10.6.{other}.0/24 via {}", uplink(other)));
    }
    let make = |lab: &Lab, host: usize, n: usize, addr: IpAddr| {
        let outside = format!("cali{n}");
        let container = wired(lab, host, &outside);
        let host = &lab.h(host).namespace;
        route_to(host, &outside, &container, addr);
        container
    };
    three(lab, make, routed_addr)
}

/// A route into a container, and one out of it by an address that every host
/// answers for.
pub fn route_to(host: &Namespace, outside: &str, container: &Namespace, addr: IpAddr) {
    host.sh(&format!("ip addr add 169.254.1.1/32 dev {outside}"));
    host.sh(&format!("ip route add {addr}/32 dev {outside}"));
    container.sh(&format!("ip addr add {addr}/32 dev eth0"));
    container.sh("ip route add 169.254.1.1 dev eth0 scope link");
    container.sh("ip route add default via 169.254.1.1");
}

/// The same with rules.
pub fn routed_with_rules() -> Built {
    let built = routed();
    let lab = built.keep[0].downcast_ref::<Lab>().expect("the first that is kept");
    for host in &lab.hosts {
        let host = &host.namespace;
        for n in 0..40 {
            host.sh(&format!(
                "iptables -w -A FORWARD -s 10.99.{n}.0/24 -p tcp -m tcp --dport {} -j DROP",
                6000 + n
            ));
        }
        host.sh("iptables -w -A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT");
        host.sh("iptables -w -A FORWARD -i cali+ -j ACCEPT");
        host.sh("iptables -w -A FORWARD -o cali+ -j ACCEPT");
        host.sh("iptables -w -P FORWARD DROP");
        host.sysctl("net.netfilter.nf_conntrack_tcp_timeout_time_wait", "5");
    }
    built
}

fn forwarding(lab: &Lab, host: usize) {
    lab.h(host).namespace.sysctl("net.ipv4.ip_forward", "1");
}

/// A bridge and a VXLAN device.
pub fn vxlan() -> Built {
    let lab = hosts();
    for (i, other) in [(1, 2), (2, 1)] {
        let host = &lab.h(i).namespace;
        no_bridge_filter(host);
        forwarding(&lab, i);
        host.sh("ip link add cni0 type bridge");
        host.sh("ip link set cni0 mtu 1450 up");
        host.sh(&format!("ip addr add 10.6.{i}.1/24 dev cni0"));
        host.sh(&format!("ip link add flannel.1 address 02:00:00:00:06:0{i} type vxlan id 1 dstport 8472 local {} nolearning dev {UPLINK}", uplink(i)));
        host.sh("ip link set flannel.1 mtu 1450 up");
        host.sh(&format!("ip addr add 10.6.{i}.0/32 dev flannel.1"));
        host.sh(&format!(
            "ip neigh add 10.6.{other}.0 lladdr 02:00:00:00:06:0{other} dev flannel.1 nud permanent"
        ));
        host.sh(&format!(
            "bridge fdb add 02:00:00:00:06:0{other} dev flannel.1 dst {} self permanent",
            uplink(other)
        ));
        host.sh(&format!("ip route add 10.6.{other}.0/24 via 10.6.{other}.0 dev flannel.1 onlink"));
    }
    let make = |lab: &Lab, host: usize, n: usize, addr: IpAddr| {
        let container = wired(lab, host, &format!("v{n}"));
        lab.h(host).namespace.sh(&format!("ip link set v{n} mtu 1450 master cni0"));
        container.sh("ip link set eth0 mtu 1450");
        container.sh(&format!("ip addr add {addr}/24 dev eth0"));
        container.sh(&format!("ip route add default via 10.6.{host}.1"));
        container
    };
    three(lab, make, routed_addr)
}

/// macvlan on the uplink.
pub fn macvlan() -> Built {
    let make = |lab: &Lab, host: usize, _: usize, addr: IpAddr| {
        let container = lab.container();
        let host = &lab.h(host).namespace;
        host.sh(&format!("ip link add link {UPLINK} name mv0 type macvlan mode bridge"));
        host.sh(&format!("ip link set mv0 netns {} name eth0", container.name()));
        container.sh("ip link set eth0 up");
        container.sh(&format!("ip addr add {addr}/24 dev eth0"));
        container
    };
    three(hosts(), make, flat)
}
