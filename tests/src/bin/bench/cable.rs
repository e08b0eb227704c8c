//! The cable between two hosts, as network cards have it: what belongs to one flow stays on
//! one queue.

use margay_tests::{container::Namespace, host::UPLINK, lab::Plan, process::say};

/// Has the uplinks of all hosts of this run steer by flow, over all processors (receive
/// packet steering, Linux's Documentation/networking/scaling.rst). A veth alone queues a
/// packet on the processor that sends it: a stream is sent from that of its process and
/// from that which takes in the acknowledgements, its packets overtake each other, and TCP
/// takes that for loss.
pub fn keep_order() {
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let queue = format!("/sys/class/net/{UPLINK}/queues/rx-0/rps_cpus");
    // The sysfs that shows the namespace's own interfaces.
    let line = format!("mount -t sysfs sysfs /sys && [ ! -e {queue} ] || echo {} > {queue}", mask(cpus));
    for namespace in Namespace::starting_with(&Plan::every_prefix()) {
        let said = say(namespace.command("unshare").args(["-m", "sh", "-c", &line]));
        assert!(said.ok(), "{}: {said:?}", namespace.name());
    }
}

/// All processors, as the kernel's bitmaps are written: words of 32, the highest first.
fn mask(cpus: usize) -> String {
    let word = |from: usize| (from..cpus.min(from + 32)).fold(0_u32, |word, cpu| word | 1 << (cpu - from));
    let words: Vec<String> = (0..cpus).step_by(32).rev().map(|from| format!("{:x}", word(from))).collect();
    words.join(",")
}

#[cfg(test)]
mod tests {
    use super::mask;

    #[test]
    fn a_mask_has_a_bit_for_each_processor() {
        assert_eq!(mask(2), "3");
        assert_eq!(mask(32), "ffffffff");
        assert_eq!(mask(34), "3,ffffffff");
    }
}
