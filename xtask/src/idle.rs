//! What an idle processor of a virtual machine does: it halts, and is woken by the machine
//! below, which takes that one as long as it likes. Where a machine has Linux's driver
//! against that, it looks for work for a while before it halts.

use std::fs;

use crate::lent::Lent;

/// For how long it looks, nanoseconds; only there with that driver.
const POLL: &str = "/sys/module/haltpoll/parameters/guest_halt_poll_ns";
/// Linux's own default.
const DEFAULT: &str = "200000";

/// Has idle processors look for work, where somebody has switched that off: otherwise it is
/// the machine below that is compared. Real processors wake in a microsecond or two.
pub fn awake() -> Option<Lent> {
    let off = fs::read_to_string(POLL).is_ok_and(|found| found.trim() == "0");
    off.then(|| Lent::set(POLL, DEFAULT)).flatten()
}
