//! What front ends have to tell operators, besides what the control loop's
//! state says.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// For how long something that happened once is told.
const TOLD: Duration = Duration::from_secs(3600);

/// Something that is wrong, as front ends name it.
pub use crate::problem::Problem as Trouble;

/// What there is to tell.
#[derive(Debug, Default)]
pub struct Report(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    /// What is wrong now, by who found it.
    standing: BTreeMap<&'static str, Vec<Trouble>>,
    /// What happened once, and when.
    past: Vec<(Instant, Trouble)>,
}

impl Report {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says what is wrong now, in the place of what `by` said before.
    pub fn stands(&self, by: &'static str, troubles: Vec<Trouble>) {
        self.lock().standing.insert(by, troubles);
    }

    /// Says that something has happened. It is told for an hour, once however
    /// often it happens.
    pub fn happened(&self, trouble: Trouble) {
        let mut inner = self.lock();
        inner.past.retain(|(_, old)| *old != trouble);
        inner.past.push((Instant::now(), trouble));
    }

    /// Everything, what is wrong now first.
    pub fn troubles(&self) -> Vec<Trouble> {
        let mut inner = self.lock();
        inner.past.retain(|(since, _)| since.elapsed() < TOLD);
        let past = inner.past.iter().map(|(_, trouble)| trouble);
        inner.standing.values().flatten().chain(past).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stands_is_replaced_and_what_happened_stays() {
        let report = Report::default();
        let (a, b) = (Trouble::new("a", "mend a"), Trouble::new("b", "mend b"));
        report.stands("one", vec![a.clone()]);
        report.happened(b.clone());
        report.happened(b.clone());
        assert_eq!(report.troubles(), [a, b.clone()]);
        report.stands("one", vec![]);
        assert_eq!(report.troubles(), [b]);
    }
}
