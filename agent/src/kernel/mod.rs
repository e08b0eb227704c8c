//! The only part that touches Linux: eBPF, netlink, namespaces, sysctls.

pub mod attach;
pub mod cleanup;
pub mod counters;
pub mod datapath;
pub mod facts;
pub mod host;
pub mod link;
pub mod log;
pub mod netns;
pub mod pins;
pub mod privileges;
pub mod sysctl;
pub mod table;

use std::future::Future;

use crate::{reconcile::Change, tables::Tables};

/// The kernel, as the control loop sees it.
pub trait Kernel {
    /// Reads what the kernel holds for us.
    fn read(&mut self) -> impl Future<Output = anyhow::Result<Tables>> + Send;

    /// Makes one change. Putting what is there and removing what is not
    /// succeed.
    fn apply(&mut self, change: &Change) -> impl Future<Output = anyhow::Result<()>> + Send;
}
