//! What the loop counts of its own work.

use prometheus_client::metrics::{counter::Counter, histogram::Histogram};

/// Upper bounds of the time that it takes to apply changes, in seconds.
const APPLY_BOUNDS: [f64; 12] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0];

/// How many changes the kernel took and refused, and how long rounds took.
#[derive(Clone, Debug)]
pub struct Rounds {
    /// Changes made.
    pub applied: Counter,
    /// Changes refused, each attempt for itself.
    pub failed: Counter,
    /// From an event to the kernel holding what follows from it, of rounds that
    /// changed something.
    pub seconds: Histogram,
}

impl Default for Rounds {
    fn default() -> Self {
        Self {
            applied: Counter::default(),
            failed: Counter::default(),
            seconds: Histogram::new(APPLY_BOUNDS),
        }
    }
}
