//! What the agent must be allowed to do.

use anyhow::{Result, bail};
use caps::{CapSet, Capability};

/// The capabilities that the agent needs, and for what.
const NEEDED: [(Capability, &str); 4] = [
    (Capability::CAP_BPF, "load programs and maps"),
    (Capability::CAP_NET_ADMIN, "attach programs, make interfaces and routes"),
    (Capability::CAP_PERFMON, "have programs work with packet pointers"),
    (Capability::CAP_SYS_ADMIN, "enter containers' network namespaces"),
];

/// Names the capability that is missing, if one is.
pub fn check() -> Result<()> {
    for (capability, purpose) in NEEDED {
        if !caps::has_cap(None, CapSet::Effective, capability)? {
            bail!(
                "the agent lacks {capability}, needed to {purpose}: run it as root, or give it that capability"
            );
        }
    }
    Ok(())
}
