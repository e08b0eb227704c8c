//! Stage: is the sender's prefix denied? This check comes first, and applies to malformed
//! packets, too.

use margay_common::{net::Family, verdict::DropReason};
use margay_packet::{Frame, source};

use crate::maps;

/// Drops packets from a denied prefix. Costs one test while the deny list is empty.
#[inline(always)]
pub fn check<F: Frame>(frame: &F, family: Family) -> Result<(), DropReason> {
    if maps::denies_any() && source(frame, family).is_some_and(|src| maps::is_denied(&src)) {
        return Err(DropReason::Guarded);
    }
    Ok(())
}
