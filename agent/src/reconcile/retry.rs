//! What failed, why, and when it is tried again.

use std::time::Duration;

use crate::{problem::Problem, shared::Shared, tables::Key};

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
    pending: Shared<Key, Pending>,
    /// The same by when it is due; without what is due and has been asked for.
    due: Shared<(Duration, Key), ()>,
}

impl Retry {
    /// Whether a change may be tried at `now`.
    pub fn may_try(&self, key: &Key, now: Duration) -> bool {
        self.pending.get(key).is_none_or(|pending| pending.due <= now)
    }

    /// Notes a failure: the wait doubles each time.
    pub fn failed(&mut self, key: Key, reason: Problem, now: Duration) {
        let failures = self.forget(&key).map_or(0, |pending| pending.failures) + 1;
        self.wait(key, reason, failures, now);
    }

    /// Has a change that failed and may not be made now wait as long again.
    pub fn put_off(&mut self, key: &Key, now: Duration) {
        if let Some(Pending { reason, failures, .. }) = self.forget(key) {
            self.wait(key.clone(), reason, failures, now);
        }
    }

    fn wait(&mut self, key: Key, reason: Problem, failures: u32, now: Duration) {
        let wait = FIRST_WAIT.saturating_mul(1 << (failures - 1).min(16)).min(LAST_WAIT);
        let due = now + wait;
        self.due.insert((due, key.clone()), ());
        self.pending.insert(key, Pending { reason, failures, due });
    }

    /// Notes a success.
    pub fn succeeded(&mut self, key: &Key) {
        self.forget(key);
    }

    fn forget(&mut self, key: &Key) -> Option<Pending> {
        let pending = self.pending.remove(key)?;
        self.due.remove(&(pending.due, key.clone()));
        Some(pending)
    }

    /// Forgets what is no longer to be changed.
    pub fn keep_only(&mut self, wanted: impl Fn(&Key) -> bool) {
        self.pending.retain(|key, _| wanted(key));
        self.due.retain(|(_, key), ()| wanted(key));
    }

    /// Forgets every wait: what failed may succeed now.
    pub fn forget_all(&mut self) {
        *self = Self::default();
    }

    /// When the next change is due.
    pub fn next_due(&self) -> Option<Duration> {
        self.due.first_key_value().map(|((due, _), ())| *due)
    }

    /// What is due at `now`, once each time that it waits.
    pub fn take_due(&mut self, now: Duration) -> Vec<Key> {
        let due: Vec<(Duration, Key)> = self.due.keys().take_while(|(due, _)| *due <= now).cloned().collect();
        for due in &due {
            self.due.remove(due);
        }
        due.into_iter().map(|(_, key)| key).collect()
    }

    /// What waits, and why.
    pub fn pending(&self) -> &Shared<Key, Pending> {
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
            assert!(retry.take_due(now).is_empty());
            assert_eq!((retry.take_due(due), retry.next_due()), (vec![key.clone()], None));
            now = due;
        }
        assert_eq!(&waits[..4], [100, 200, 400, 800]);
        assert_eq!(waits[11], 30_000);
    }

    #[test]
    fn retries_end_with_success_or_when_the_change_is_no_longer_wanted() {
        let (mut retry, key) = (Retry::default(), Key::Node(()));
        retry.failed(key.clone(), Problem::new("no", "wait"), Duration::ZERO);
        retry.succeeded(&key);
        assert_eq!(retry.next_due(), None);
        retry.failed(key.clone(), Problem::new("no", "wait"), Duration::ZERO);
        retry.keep_only(|_| false);
        assert!(retry.pending().is_empty() && retry.may_try(&key, Duration::ZERO));
    }
}
