//! An endpoint never reaches an endpoint of a network that it has not joined.

use margay_common::{
    net::Addr,
    route::{Route, RouteKey},
};
use margay_tests::{
    bpf::{both, mac, node},
    frame::Frame,
};

use crate::{dropped, explained, forwarded};

#[test]
fn packet_from_a_container_to_another_network_is_isolated() {
    let mut node = node();
    for family in 0..2 {
        // On this node, on another, and an unused address.
        for host in [3, 70, 200] {
            let frame = Frame::udp(mac("c2"), both(1, 3)[family], both(2, host)[family]);
            explained(&node.from_workload("c2", &frame.bytes()), "from_workload", "isolated");
        }
        // Joining one network with an address does not open the other to it.
        let frame = Frame::udp(mac("c1red"), both(1, 2)[family], both(2, 3)[family]);
        explained(&node.from_workload("c1red", &frame.bytes()), "from_workload", "isolated");
    }
}

#[test]
fn routes_and_endpoints_of_another_network_are_not_used() {
    let mut node = node();
    for addr in both(1, 200) {
        // As if red had a block and an endpoint within blue's subnet.
        let len = Addr::from(addr).mapped_len(if addr.is_ipv4() { 26 } else { 122 });
        let key = |network| RouteKey::new(network, len, Addr::from(addr).masked(&Addr::mask(len)));
        let route = node.maps().routes.read().expect("the map").into_values().find(Route::is_reachable);
        node.maps().routes.put(key(2), route.expect("some are")).expect("there is room");
        let send = |node: &mut margay_tests::bpf::Node| {
            let own = both(1, 2)[usize::from(!addr.is_ipv4())];
            node.from_workload("c1", &Frame::udp(mac("c1"), own, addr).bytes())
        };
        let by_route = send(&mut node);
        let own = Addr::from(both(2, 3)[0]);
        let endpoint = node.maps().endpoints.get(own).expect("the map").expect("red's");
        node.maps().endpoints.put(addr.into(), endpoint).expect("there is room");
        let by_endpoint = send(&mut node);
        node.maps().endpoints.remove(addr.into()).expect("it is there");
        node.maps().routes.remove(key(2)).expect("it is there");
        explained(&by_route, "from_workload", "no_endpoint");
        explained(&by_endpoint, "from_workload", "no_endpoint");
    }
}

#[test]
fn packet_from_the_wire_with_a_source_of_another_network_is_isolated() {
    let mut node = node();
    for family in 0..2 {
        for (network, host) in [(1, 3), (4, 2)] {
            let frame = Frame::udp([2; 6], both(2, 70)[family], both(network, host)[family]);
            dropped(&node.from_network(&frame.bytes()), "from_network", "isolated");
        }
    }
}

#[test]
fn packet_routed_through_the_host_does_not_reach_another_network() {
    let mut node = node();
    for family in 0..2 {
        // The host forwards a packet to a network that is not routable.
        for host in [3, 70] {
            let frame = Frame::udp([0xee; 6], both(2, 3)[family], both(1, host)[family]);
            dropped(&node.from_host_forwarded(&frame.bytes()), "from_host", "outside");
        }
        let frame = Frame::udp([0xee; 6], both(2, 3)[family], both(4, 2)[family]);
        forwarded(&node.from_host_forwarded(&frame.bytes()), "from_host", "local");
    }
}
