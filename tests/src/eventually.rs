//! Waiting for what another process brings about.

use std::{
    fmt::Debug,
    thread::sleep,
    time::{Duration, Instant},
};

/// How long anything may take that a test waits for. Far beyond what it does
/// take: a test that gets here has failed.
const PATIENCE: Duration = Duration::from_secs(40);
/// How often it is looked at.
const LOOK: Duration = Duration::from_millis(10);

/// Looks until `look` gives a value; panics with what it said last.
#[track_caller]
pub fn eventually<T, E: Debug>(what: &str, mut look: impl FnMut() -> Result<T, E>) -> T {
    let start = Instant::now();
    loop {
        match look() {
            Ok(value) => return value,
            Err(error) if start.elapsed() > PATIENCE => panic!("{what}: {error:?}"),
            Err(_) => sleep(LOOK),
        }
    }
}
