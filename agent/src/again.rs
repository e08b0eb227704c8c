//! Trying again: how long to wait after a failure, and when to log it.

use std::{
    collections::BTreeMap,
    fmt,
    time::{Duration, Instant},
};

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use tracing::warn;

/// How often one failure that goes on is logged.
const LOGGED_EVERY: Duration = Duration::from_secs(60);
/// How many different failures are logged in that time.
const LOGGED_AT_ONCE: usize = 8;

/// The attempts at one thing. Waits double, with jitter, until it succeeds. A failure
/// is logged when it is new, and then once a minute at most, however often it succeeds
/// in between.
#[derive(Debug)]
pub struct Again {
    between: (Duration, Duration),
    waits: ExponentialBackoff,
    logged: BTreeMap<String, Instant>,
}

impl Again {
    /// Waits between `first` and `last`, of which jitter adds up to as much again.
    pub fn new(first: Duration, last: Duration) -> Self {
        Self { between: (first, last), waits: waits(first, last), logged: BTreeMap::new() }
    }

    /// Notes a failure, logs it if it is time to, and gives how long to wait.
    pub fn failed(&mut self, failure: &dyn fmt::Display) -> Duration {
        self.log(failure);
        self.wait()
    }

    /// Logs a failure if it is time to.
    pub fn log(&mut self, failure: &dyn fmt::Display) {
        let text = failure.to_string();
        if self.is_due(&text, Instant::now()) {
            warn!("{text}");
        }
    }

    /// How long to wait after a failure that is nobody's concern.
    pub fn wait(&mut self) -> Duration {
        self.waits.next().unwrap_or(self.between.1)
    }

    /// Notes a success: the next failure waits the shortest time again.
    pub fn succeeded(&mut self) {
        self.waits = waits(self.between.0, self.between.1);
    }

    fn is_due(&mut self, text: &str, now: Instant) -> bool {
        self.logged.retain(|_, at| now.duration_since(*at) < LOGGED_EVERY);
        if self.logged.contains_key(text) || self.logged.len() >= LOGGED_AT_ONCE {
            return false;
        }
        self.logged.insert(text.to_owned(), now);
        true
    }
}

fn waits(first: Duration, last: Duration) -> ExponentialBackoff {
    let builder = ExponentialBuilder::default().with_min_delay(first).with_max_delay(last);
    builder.with_jitter().without_max_times().build()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn again() -> Again {
        Again::new(Duration::from_millis(100), Duration::from_secs(5))
    }

    #[test]
    fn a_failure_is_logged_once_and_then_once_a_minute() {
        let (mut again, start) = (again(), Instant::now());
        let mut logged = Vec::new();
        for tenths in 0..1500 {
            let after = Duration::from_millis(tenths * 100);
            if again.is_due("no", start + after) {
                logged.push(after.as_secs());
            }
            again.succeeded();
        }
        assert_eq!(logged, [0, 60, 120]);
        assert!(again.is_due("something else", start + Duration::from_secs(150)));
    }

    #[test]
    fn failures_that_are_never_the_same_do_not_fill_the_log() {
        let (mut again, now) = (again(), Instant::now());
        let logged = (0..1000).filter(|i| again.is_due(&format!("no {i}"), now)).count();
        assert_eq!(logged, LOGGED_AT_ONCE);
    }

    #[test]
    fn waits_grow_up_to_a_limit_and_begin_anew_with_a_success() {
        let mut again = again();
        let waits: Vec<u128> = (0..12).map(|_| again.failed(&"no").as_millis()).collect();
        assert!((100..=200).contains(&waits[0]), "{waits:?}");
        assert!(waits[6] > 2 * waits[0] && waits.iter().all(|wait| *wait <= 10_000), "{waits:?}");
        again.succeeded();
        assert!(again.wait().as_millis() <= 200);
    }
}
