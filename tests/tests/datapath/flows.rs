//! XDP's memory of transit flows. It lasts for a moment, and never overrides a drop or a reply.

use std::net::IpAddr;

use margay::kernel::datapath::Extras;
use margay_common::net::Addr;
use margay_tests::{
    bpf::{Node, Outcome, both, stay},
    eventually::eventually,
    frame::Frame,
};

use crate::MINUTE;

const WIRE: [u8; 6] = [2, 9, 9, 9, 9, 9];
const NEXT: [u8; 6] = [2, 8, 8, 8, 8, 8];
const OUTSIDE: [&str; 2] = ["203.0.113.9", "2001:db8:9::9"];
const H2: [&str; 2] = ["192.0.2.2", "2001:db8::2"];

fn addr(text: &str) -> IpAddr {
    text.parse().expect("a literal")
}

/// A node whose XDP remembers flows for `hold` and has fresh next hops. Each processor has its
/// own memory.
fn remembering(hold: Option<u64>) -> Node {
    stay();
    let mut node = Node::with(Extras { tally: true, hold });
    H2.into_iter().for_each(|h2| node.confirm(addr(h2), NEXT, 600));
    node
}

/// A frame that passes through to a container of the routable network 4.
fn through(family: usize) -> Frame {
    Frame::udp(WIRE, addr(OUTSIDE[family]), both(4, 0x43)[family])
}

/// Makes XDP remember a flow: its next frames cost only the look-up in the deny list.
#[track_caller]
fn know(node: &mut Node, frame: &Frame) -> Outcome {
    node.xdp(&frame.bytes());
    let before = node.lookups();
    let out = node.xdp(&frame.bytes());
    assert_eq!((&out.counted[..], node.lookups()), (&["xdp_uplink remote".to_owned()][..], before + 1));
    out
}

/// What XDP counts a frame as.
fn counted(node: &mut Node, frame: &Frame) -> String {
    node.xdp(&frame.bytes()).counted.concat()
}

#[test]
fn xdp_forwards_a_remembered_flow_like_its_first_frame() {
    let mut node = remembering(Some(MINUTE));
    for family in 0..2 {
        let first = node.xdp(&through(family).bytes());
        assert_eq!(know(&mut node, &through(family)), first);
        // With its own hop limit, not that of the first.
        let later = know(&mut node, &through(family).ttl(9));
        let expected = through(family).ttl(8).bytes();
        assert_eq!(later.frame[12..], expected[12..], "one hop, and a right checksum");
    }
}

#[test]
fn xdp_passes_frames_of_remembered_flows_that_need_a_reply() {
    let mut node = remembering(Some(MINUTE));
    for (family, outside) in OUTSIDE.into_iter().enumerate() {
        know(&mut node, &through(family));
        let large = Frame::udp_of(WIRE, addr(outside), both(4, 0x43)[family], 1390);
        for frame in [through(family).ttl(1), large] {
            assert_eq!(counted(&mut node, &frame), "xdp_uplink passed");
        }
    }
}

#[test]
fn flow_in_a_shared_slot_is_looked_up() {
    let mut node = remembering(Some(MINUTE));
    // Destinations, then sources, whose words have the same sum and so share a slot.
    know(&mut node, &through(1));
    let refused = Frame::udp(WIRE, addr(OUTSIDE[1]), both(1, 0x46)[1]);
    assert_eq!(counted(&mut node, &refused), "xdp_uplink outside");
    know(&mut node, &Frame::udp(WIRE, addr("2001:db8:0:0:0:1::"), both(4, 0x43)[1]));
    let spoofed = Frame::udp(WIRE, addr("2001:db8::1"), both(4, 0x43)[1]);
    assert_eq!(counted(&mut node, &spoofed), "xdp_uplink spoofed_source");
}

#[test]
fn denied_prefix_applies_to_remembered_flows_at_once() {
    let mut node = remembering(Some(MINUTE));
    for (family, outside) in OUTSIDE.into_iter().enumerate() {
        know(&mut node, &through(family));
        let source = Addr::from(addr(outside));
        node.maps().denied.put(128, source).expect("the map takes it");
        assert_eq!(counted(&mut node, &through(family)), "xdp_uplink guarded");
        node.maps().denied.remove(128, source).expect("the map");
    }
}

/// Waits until a node has forgotten a flow.
fn forgets(node: &mut Node, frame: &Frame) {
    eventually("the flow is looked up again", || match &*counted(node, frame) {
        "xdp_uplink passed" => Ok(()),
        other => Err(other.to_owned()),
    });
}

#[test]
fn change_applies_to_remembered_flows_once_they_expire() {
    let mut node = remembering(None);
    for (family, h2) in H2.into_iter().enumerate() {
        assert_eq!(counted(&mut node, &through(family)), "xdp_uplink remote");
        node.confirm(addr(h2), NEXT, -1);
        forgets(&mut node, &through(family));
    }
}

#[test]
fn next_hop_expires_with_its_freshness() {
    let mut node = remembering(Some(MINUTE));
    for (family, h2) in H2.into_iter().enumerate() {
        // Fresh for one to two seconds, which may end before the packet arrives.
        eventually("it goes on while the next hop is fresh", || {
            node.confirm(addr(h2), NEXT, 2);
            match &*counted(&mut node, &through(family)) {
                "xdp_uplink remote" => Ok(()),
                other => Err(other.to_owned()),
            }
        });
        forgets(&mut node, &through(family));
    }
}
