//! The cable between two hosts, as network cards have it.

use margay_tests::{container::Namespace, host::UPLINK, lab::Plan};

/// Has the uplinks of all hosts of this run receive like network cards: one queue, taken in
/// by NAPI, with generic receive offload, which cards have by default (a veth has both with
/// the one, since Linux 5.13). A veth alone queues a packet on the processor that sends it:
/// a stream is sent from that of its process and from that which takes in the
/// acknowledgements, its packets overtake each other, and TCP takes that for loss; from one
/// queue that is rare.
pub fn receive_like_cards() {
    let hosts = Namespace::starting_with(&Plan::every_prefix());
    let is_host = |host: &&Namespace| host.run(&format!("ip link show {UPLINK}")).ok();
    let ends =
        hosts.iter().filter(is_host).map(|host| host.sh(&format!("ethtool -K {UPLINK} gro on"))).count();
    assert!(ends >= 2, "{ends} ends of cables were found");
}
