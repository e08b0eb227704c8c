//! Where packets of a container go when nothing is wrong with them.

use margay_tests::{
    bpf::{Node, REDIRECT, both, mac},
    frame::{Frame, GATEWAY},
};

#[test]
fn to_a_local_endpoint() {
    let mut node = Node::new();
    for (src, dst) in both(1, 2).into_iter().zip(both(1, 3)) {
        let frame = Frame::udp(mac("c1"), src, dst).bytes();
        let out = node.from_workload("c1", &frame);
        assert_eq!((out.action, &*out.counted), (REDIRECT, &["from_workload local".to_owned()][..]));
        assert_eq!(out.frame[..6], mac("c2"), "addressed to the container");
        assert_eq!(out.frame[6..12], GATEWAY, "from the gateway");
        assert_eq!(out.frame[12..], frame[12..], "nothing else is touched, the TTL neither");
    }
}
