//! Waiting for what another process brings about.

use std::{
    fmt::Debug,
    sync::atomic::{AtomicBool, Ordering},
    thread::sleep,
    time::{Duration, Instant},
};

/// How long anything may take that a test waits for. Far beyond what it does
/// take, on a busy machine, too: a test that gets here has failed.
const PATIENCE: Duration = Duration::from_secs(180);
/// How often it is looked at.
const LOOK: Duration = Duration::from_millis(10);

/// Set by whoever was told to end: nothing is waited for any longer.
pub static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Panics if somebody was told to end.
pub fn check_interrupt() {
    assert!(!INTERRUPTED.load(Ordering::Relaxed), "interrupted");
}

/// Looks until `look` gives a value; panics with what it said last.
#[track_caller]
pub fn eventually<T, E: Debug>(what: &str, mut look: impl FnMut() -> Result<T, E>) -> T {
    let start = Instant::now();
    loop {
        check_interrupt();
        match look() {
            Ok(value) => return value,
            Err(error) if start.elapsed() > PATIENCE => panic!("{what}: {error:?}"),
            Err(_) => sleep(LOOK),
        }
    }
}
