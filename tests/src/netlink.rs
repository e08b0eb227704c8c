//! What iproute2 of the oldest system that we run on cannot say.

use margay::kernel::{self, link};

use crate::container::Namespace;

/// Has an interface of a namespace take super-packets of `size` bytes.
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
