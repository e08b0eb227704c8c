//! Stage: is the sender's prefix denied? It asks before anything else, whatever the packet's
//! shape.

use margay_common::{net::Family, verdict::DropReason};
use margay_packet::{Frame, source};

use crate::maps;

/// Refuses what comes from a denied prefix. Costs one test where none is denied.
#[inline(always)]
pub fn check<F: Frame>(frame: &F, family: Family) -> Result<(), DropReason> {
    if maps::denies_any() && source(frame, family).is_some_and(|src| maps::is_denied(&src)) {
        return Err(DropReason::Guarded);
    }
    Ok(())
}
