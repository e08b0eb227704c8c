//! The only part that touches Linux: eBPF, netlink, namespaces, sysctls.

pub mod attach;
mod bpf_call;
pub mod cleanup;
pub mod clear;
pub mod counters;
pub mod datapath;
pub mod denied;
pub mod device;
pub mod facts;
pub mod firewall;
pub mod host;
pub mod link;
pub mod log;
pub mod maps;
pub mod neighbours;
pub mod netkit;
pub mod netns;
pub mod offloads;
pub mod pins;
pub mod privileges;
pub mod ready;
pub mod routes;
pub mod super_packets;
pub mod sysctl;
pub mod table;
pub mod workloads;
pub mod world;
pub mod xdp;

use std::future::Future;

/// The way to the kernel's network configuration, in one network namespace.
pub use rtnetlink::Handle as Netlink;

use crate::{reconcile::Change, tables::Tables};

/// Netlink in this thread's network namespace.
pub fn netlink() -> std::io::Result<Netlink> {
    let (connection, handle, _) = rtnetlink::new_connection()?;
    tokio::spawn(connection);
    Ok(handle)
}

/// Netlink that answers nobody for as long as what comes with it is there.
#[cfg(test)]
pub fn silent_netlink() -> std::io::Result<(Netlink, impl Send)> {
    let (connection, handle, _) = rtnetlink::new_connection()?;
    Ok((handle, connection))
}

/// What is read of the kernel by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// What is our own: interfaces, maps, programs, and the host's routes to our subnets.
    Own,
    /// What others of the host change, too: its routes to our subnets, and what programs of
    /// the host's tell, nftables, iptables, switches.
    Host,
}

/// The kernel, as the control loop sees it. Its copies are one kernel: some read and change
/// beside the loop.
pub trait Kernel: Clone + Send + 'static {
    /// Reads what the kernel holds of a part for us.
    fn read(&mut self, part: Part) -> impl Future<Output = anyhow::Result<Tables>> + Send;

    /// Makes one change. Putting what is there and removing what is not
    /// succeed.
    fn apply(&mut self, change: &Change) -> impl Future<Output = anyhow::Result<()>> + Send;
}
