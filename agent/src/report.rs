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
    /// What happened once.
    past: Vec<Happened>,
}

#[derive(Debug)]
struct Happened {
    when: Instant,
    about: String,
    /// Whether what it is about was there since. The look that comes next may be older.
    seen: bool,
    trouble: Trouble,
}

impl Report {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says what is wrong now, in the place of what `by` said before.
    pub fn stands(&self, by: &'static str, troubles: Vec<Trouble>) {
        self.lock().standing.insert(by, troubles);
    }

    /// Says that something has happened to `about`. It is told for an hour at most, once
    /// however often it happens.
    pub fn happened(&self, about: impl Into<String>, trouble: Trouble) {
        let mut inner = self.lock();
        inner.past.retain(|old| old.trouble != trouble);
        inner.past.push(Happened { when: Instant::now(), about: about.into(), seen: false, trouble });
    }

    /// Forgets what happened to things that were there and are there no more: it is of no
    /// account any more.
    pub fn forget_gone(&self, is_there: impl Fn(&str) -> bool) {
        self.lock().past.retain_mut(|past| {
            let there = is_there(&past.about);
            let gone = past.seen && !there;
            past.seen |= there;
            !gone
        });
    }

    /// Everything that is wrong now.
    pub fn troubles(&self) -> Vec<Trouble> {
        self.lock().standing.values().flatten().cloned().collect()
    }

    /// Everything that has happened and that operators may want to know of. Nothing of it
    /// is wrong now.
    pub fn notices(&self) -> Vec<Trouble> {
        let mut inner = self.lock();
        inner.past.retain(|past| past.when.elapsed() < TOLD);
        inner.past.iter().map(|past| past.trouble.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn problems_are_replaced_and_notices_stay() {
        let report = Report::default();
        let (a, b) = (Trouble::new("a", "do a"), Trouble::new("b", "do b"));
        report.stands("one", vec![a.clone()]);
        report.happened("x", b.clone());
        report.happened("x", b.clone());
        assert_eq!((report.troubles(), report.notices()), (vec![a], vec![b.clone()]));
        report.stands("one", vec![]);
        // Who looks may not know of it yet.
        report.forget_gone(|about| about == "y");
        report.forget_gone(|about| about == "x");
        assert_eq!((report.troubles(), report.notices()), (vec![], vec![b]));
        report.forget_gone(|about| about == "y");
        assert!(report.notices().is_empty());
    }
}
