//! The cable between two hosts, as network cards have it: what belongs to one flow stays on
//! one queue.

use std::{fs, path::Path};

use margay_tests::{container::Namespace, host::UPLINK, lab::Plan, process::say};

/// Which processors the interrupts of network cards go to by themselves, in the form that
/// receive packet steering takes.
const ALL: &str = "/proc/irq/default_smp_affinity";

/// Whether this kernel has receive packet steering.
pub fn can_steer() -> bool {
    Path::new("/sys/class/net/lo/queues/rx-0/rps_cpus").exists()
}

/// Has the uplinks of all hosts of this run steer by flow, over all processors (receive
/// packet steering, Linux's Documentation/networking/scaling.rst), where the kernel can. A
/// veth alone queues a packet on the processor that sends it: a stream is sent from that
/// of its process and from that which takes in the acknowledgements, its packets overtake
/// each other, and TCP takes that for loss.
pub fn keep_order() {
    if !can_steer() {
        return;
    }
    let cpus = fs::read_to_string(ALL).expect("the kernel has it");
    let queue = format!("/sys/class/net/{UPLINK}/queues/rx-0/rps_cpus");
    // The sysfs that shows the namespace's own interfaces.
    let line = format!(
        "mount -t sysfs sysfs /sys && {{ [ ! -e {queue} ] || {{ echo {} > {queue} && echo steers; }}; }}",
        cpus.trim()
    );
    let mut ends = 0;
    for namespace in Namespace::starting_with(&Plan::every_prefix()) {
        let said = say(namespace.command("unshare").args(["-m", "sh", "-c", &line]));
        assert!(said.ok(), "{}: {said:?}", namespace.name());
        ends += usize::from(said.out.contains("steers"));
    }
    assert!(ends >= 2, "{ends} ends of cables were found");
}
