//! Netlink requests that the oldest supported iproute2 cannot make.

use margay::kernel::{self, link};

use crate::container::Namespace;

/// Sets the size of super-packets, bytes, on an interface of a namespace.
pub fn big_tcp(namespace: &Namespace, interface: &str, size: u32) {
    let netns = std::fs::File::open(namespace.path()).expect("the namespace");
    let set = || {
        nix::sched::setns(netns, nix::sched::CloneFlags::CLONE_NEWNET).expect("root may enter");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let netlink = kernel::netlink().expect("netlink");
            let index = link::index(&netlink, interface).await.expect("a listing").expect("the interface");
            link::set_super_packets(&netlink, index, size).await.expect("it takes the size");
        });
    };
    std::thread::scope(|scope| scope.spawn(set).join().expect("set"));
}
