//! What failed, why, and when it is tried again.

use std::{collections::BTreeMap, time::Duration};

use crate::{problem::Problem, tables::Key};

/// The first wait after a failure.
const FIRST_WAIT: Duration = Duration::from_millis(100);
/// The longest.
const LAST_WAIT: Duration = Duration::from_secs(30);

/// A change that failed and waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pending {
    /// Why, and what mends it.
    pub reason: Problem,
    /// How often it failed.
    pub failures: u32,
    /// When it is tried again, on the clock that the caller keeps.
    pub due: Duration,
}

/// Everything that waits. `now` is the time since any fixed moment.
#[derive(Clone, Debug, Default)]
pub struct Retry {
    pending: BTreeMap<Key, Pending>,
}

impl Retry {
    /// Whether a change may be tried at `now`.
    pub fn may_try(&self, key: &Key, now: Duration) -> bool {
        self.pending.get(key).is_none_or(|pending| pending.due <= now)
    }

    /// Notes a failure: the wait doubles each time.
    pub fn failed(&mut self, key: Key, reason: Problem, now: Duration) {
        let failures = self.pending.get(&key).map_or(0, |pending| pending.failures) + 1;
        let wait = FIRST_WAIT.saturating_mul(1 << (failures - 1).min(16)).min(LAST_WAIT);
        self.pending.insert(key, Pending { reason, failures, due: now + wait });
    }

    /// Notes a success.
    pub fn succeeded(&mut self, key: &Key) {
        self.pending.remove(key);
    }

    /// Forgets what is no longer to be changed.
    pub fn keep_only(&mut self, wanted: impl Fn(&Key) -> bool) {
        self.pending.retain(|key, _| wanted(key));
    }

    /// Forgets every wait: what failed may succeed now.
    pub fn forget(&mut self) {
        self.pending.clear();
    }

    /// When the next change is due.
    pub fn next_due(&self) -> Option<Duration> {
        self.pending.values().map(|pending| pending.due).min()
    }

    /// What waits, and why.
    pub fn pending(&self) -> &BTreeMap<Key, Pending> {
        &self.pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_a_limit() {
        let (mut retry, key) = (Retry::default(), Key::Node(()));
        let mut now = Duration::ZERO;
        let mut waits = Vec::new();
        for _ in 0..12 {
            retry.failed(key.clone(), Problem::new("no", "wait"), now);
            let due = retry.next_due().expect("pending");
            waits.push((due - now).as_millis());
            assert!(!retry.may_try(&key, now) && retry.may_try(&key, due));
            now = due;
        }
        assert_eq!(&waits[..4], [100, 200, 400, 800]);
        assert_eq!(waits[11], 30_000);
    }

    #[test]
    fn success_and_disinterest_forget() {
        let (mut retry, key) = (Retry::default(), Key::Node(()));
        retry.failed(key.clone(), Problem::new("no", "wait"), Duration::ZERO);
        retry.succeeded(&key);
        assert_eq!(retry.next_due(), None);
        retry.failed(key.clone(), Problem::new("no", "wait"), Duration::ZERO);
        retry.keep_only(|_| false);
        assert!(retry.pending().is_empty() && retry.may_try(&key, Duration::ZERO));
    }
}
