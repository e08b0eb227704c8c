//! What an idle processor of a virtual machine does: it halts, and is woken by the machine
//! below, which takes that one as long as it likes. Where a machine has Linux's driver
//! against that, it looks for work for a while before it halts.

use std::fs;

use crate::lent::Lent;

/// Who puts idle processors to sleep, and who does it here.
const DRIVER: &str = "/sys/devices/system/cpu/cpuidle/current_driver";
const HALTPOLL: &str = "haltpoll";
/// For how long it looks at most, nanoseconds. The file is there with other drivers, too.
const POLL: &str = "/sys/module/haltpoll/parameters/guest_halt_poll_ns";
/// Linux's own default.
const DEFAULT: &str = "200000";

/// Has idle processors look for work, where somebody has switched that off: otherwise it is
/// the machine below that is compared. Real processors wake from a light sleep in a
/// microsecond or two.
pub fn awake() -> Option<Lent> {
    let is = |file, value| fs::read_to_string(file).is_ok_and(|found| found.trim() == value);
    (is(DRIVER, HALTPOLL) && is(POLL, "0")).then(|| Lent::set(POLL, DEFAULT)).flatten()
}
