//! Reports for tests, with values that are made up.

use super::{Record, Report};
use crate::{
    candidate,
    cpu::Machine,
    work::{Place, Work},
};

/// A candidate's values of three rounds.
pub type Measured = (&'static str, Place, Work, &'static str, [f64; 3]);

/// Of those who measured something.
pub fn report(measured: &[Measured]) -> Report {
    let mut report = Report::new(machine(), "cargo xtask bench".into());
    for candidate in candidate::ALL {
        if measured.iter().any(|(name, ..)| *name == candidate.name) {
            report.describe(candidate);
        }
    }
    for (candidate, place, work, measure, values) in measured.iter().copied() {
        for (round, value) in (1..).zip(values) {
            report.add(Record { round, candidate, place, work, result: Ok([(measure, value)].into()) });
        }
    }
    report
}

fn machine() -> Machine {
    Machine {
        kernel: "6.18".into(),
        processor: "A & B".into(),
        cpus: 2,
        memory: 4096,
        busy_idle: vec![0.0],
        load_before: 0.0,
        mhz: vec![2000.0],
        computed: vec![10_000.0],
        idle: "haltpoll".into(),
        halt_poll: Some(200_000),
        congestion: "cubic".into(),
        stolen: 0.0,
    }
}
