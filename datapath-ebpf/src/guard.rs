//! Stage: is the sender's prefix blocked? It asks before anything else, whatever the packet's
//! shape.

use margay_common::{net::Family, verdict::DropReason};
use margay_packet::{Frame, source};

use crate::maps;

/// Refuses what comes from a blocked prefix. Costs one test where none is blocked.
#[inline(always)]
pub fn check<F: Frame>(frame: &F, family: Family) -> Result<(), DropReason> {
    if maps::has_guards() && source(frame, family).is_some_and(|src| maps::is_guarded(&src)) {
        return Err(DropReason::Guarded);
    }
    Ok(())
}
