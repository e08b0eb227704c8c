//! Waiting until another process has done something.

use std::{
    fmt::Debug,
    sync::atomic::{AtomicBool, Ordering},
    thread::sleep,
    time::{Duration, Instant},
};

/// How long a test waits for anything. Far longer than it takes even on a busy machine: a test
/// that reaches this limit has failed.
const PATIENCE: Duration = Duration::from_secs(180);
/// How often it is looked at.
const LOOK: Duration = Duration::from_millis(10);

/// Set by the signal handler of an interrupted program: all waiting then ends.
pub static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Panics if the program was interrupted.
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
