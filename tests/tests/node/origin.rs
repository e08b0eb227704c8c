//! The host's own packets reach every network, and packets that it forwards do not, even if
//! the kernel has reassembled or fragmented them on the way.

use std::net::IpAddr;

use margay_tests::{
    container::Namespace,
    eventually::eventually,
    frame::Frame,
    lab::Lab,
    process::{Said, say, sh},
    raw::{self, Capture},
};

use crate::attach::one_host;

fn ip(text: &str) -> IpAddr {
    text.parse().expect("a literal")
}

/// A host that is a router and looks at connections, with a network card beside its uplink,
/// and who is behind that.
fn router() -> (Lab, Namespace) {
    let lab = one_host();
    let host = &lab.h(1).namespace;
    let behind = lab.container();
    sh(&format!("ip link add lan0 netns {} type veth peer name eth0 netns {}", host.name(), behind.name()));
    for (namespace, interface, n) in [(host, "lan0", 1), (&behind, "eth0", 2)] {
        namespace.sh(&format!("ip addr add 172.30.0.{n}/24 dev {interface}"));
        namespace.sh(&format!("ip addr add fd88::{n}/64 dev {interface} nodad"));
        namespace.sh(&format!("ip link set {interface} up"));
    }
    host.sysctl("net.ipv4.ip_forward", "1");
    host.sysctl("net.ipv6.conf.all.forwarding", "1");
    // Connection tracking makes the kernel reassemble fragments.
    host.sh("nft add table inet looks");
    host.sh("nft add chain inet looks forward { type filter hook forward priority 0 ; }");
    host.sh("nft add rule inet looks forward ct state established accept");
    (lab, behind)
}

/// The two fragments of a datagram of IPv6. Before the fragment header of the first there may
/// be one so long that the kernel copies each piece when it cuts the datagram again.
fn fragments(whole: &Frame, id: u8, long: bool) -> Vec<Vec<u8>> {
    let cut = whole.payload.len() / 16 * 8;
    let fragment = |offset: usize, more: bool, part: &[u8]| {
        let [high, low] = (offset as u16 | u16::from(more)).to_be_bytes();
        [&[whole.proto, 0, high, low, 0, 0, 0, id][..], part].concat()
    };
    let first = fragment(0, true, &whole.payload[..cut]);
    let options = [&[44, 31, 1, 252][..], &[0; 252]].concat();
    let first = match long {
        true => whole.clone().carrying(60, &[options, first].concat()),
        false => whole.clone().carrying(44, &first),
    };
    let later = whole.clone().carrying(44, &fragment(cut, false, &whole.payload[cut..]));
    vec![first.bytes(), later.bytes()]
}

#[test]
fn forwarded_ipv6_fragments_do_not_reach_isolated_networks() {
    let (lab, behind) = router();
    lab.h(1).ok(&["network", "create", "inner", "--subnet", "fd00:3::/64", "--internal"]);
    let host = lab.h(1);
    let (index, lan0) = (raw::index(&behind, "eth0"), raw::mac(&host.namespace, "lan0"));
    let mut id = 0;
    for network in ["blue", "inner"] {
        let (c, addresses) = lab.attached(1, network);
        let dst = addresses.into_iter().find(IpAddr::is_ipv6).expect("of both networks");
        let arrivals = Capture::of(&c, "eth0");
        // Its own address, one that the cluster knows the host by, one that it does not.
        let sources = ["fd88::2", "2001:db8::1", "fd88::1"].map(ip);
        for (src, long) in sources.into_iter().flat_map(|src| [(src, false), (src, true)]) {
            id += 1;
            let whole = Frame::udp_of(raw::mac(&behind, "eth0"), src, dst, 800).to_mac(lan0);
            let before = host.count("from_host", "outside") + host.count("from_host", "local");
            for frame in fragments(&whole, id, long) {
                raw::send(&behind.path(), index, 0, &frame).expect("a raw socket sends it");
            }
            eventually("it is decided about", || {
                let after = host.count("from_host", "outside") + host.count("from_host", "local");
                if after > before { Ok(()) } else { Err((src, long)) }
            });
            let octets = match src {
                IpAddr::V6(src) => src.octets(),
                IpAddr::V4(_) => unreachable!("they are of IPv6"),
            };
            let arrived =
                arrivals.frames().iter().filter(|frame| frame.get(22..38) == Some(&octets[..])).count();
            assert_eq!(arrived, 0, "from {src} to {network}, a long first one: {long}");
        }
    }
}

/// Connects by TCP to a port on which no process listens.
fn connect(from: &Namespace, addr: IpAddr, port: u16) -> Said {
    // Bash's own way to do so.
    let line = format!("exec 3<>/dev/tcp/{addr}/{port}");
    say(from.command("timeout").args(["20", "bash", "-c", &line]))
}

#[track_caller]
fn is_refused(from: &Namespace, addr: IpAddr, port: u16) {
    eventually("the connection is refused", || {
        let said = connect(from, addr, port);
        if said.err.contains("refused") { Ok(()) } else { Err((addr, port, said)) }
    });
}

#[test]
fn host_processes_and_kernel_replies_reach_containers() {
    let (lab, _behind) = router();
    let host = &lab.h(1).namespace;
    let (c, addresses) = lab.attached(1, "blue");
    let own = ["192.0.2.1", "2001:db8::1", "172.30.0.1", "fd88::1"].map(ip);
    for (from, to) in own.into_iter().zip(addresses.iter().cycle()) {
        for flags in ["", "-s 3000"] {
            assert!(
                host.pings_with(&format!("-I {from} {flags}"), *to, 2),
                "a process of the host's, {from}"
            );
            assert!(c.pings_with(flags, from, 2), "the kernel's own answer, {from}");
        }
        is_refused(&c, from, 9);
    }
}

/// If the host's firewall rejects TCP, the kernel replies with packets that have no socket.
#[test]
fn tcp_resets_without_a_socket_reach_containers() {
    let (lab, _behind) = router();
    let host = &lab.h(1).namespace;
    host.sh("nft add chain inet looks input { type filter hook input priority 0 ; }");
    host.sh("nft add rule inet looks input tcp dport 7 reject with tcp reset");
    let (c, _) = lab.attached(1, "blue");
    ["192.0.2.1", "2001:db8::1", "172.30.0.1", "fd88::1"]
        .map(ip)
        .iter()
        .for_each(|own| is_refused(&c, *own, 7));
    // One that comes while the agent runs.
    for addr in ["198.51.100.7/32", "fd99::7/128"] {
        host.sh(&format!("ip addr add {addr} dev lan0"));
    }
    ["198.51.100.7", "fd99::7"].map(ip).iter().for_each(|own| is_refused(&c, *own, 7));
}
