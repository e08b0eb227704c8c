//! A run in stages: how long each took, what became of the tests, which were the slowest.

use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, bail};

use crate::machine;

/// How many of the slowest tests are told.
const SLOWEST: usize = 10;

/// What became of tests.
#[derive(Debug, Default, PartialEq)]
pub struct Tally {
    /// How many passed.
    pub passed: usize,
    /// How many failed.
    pub failed: usize,
    /// Which could not be done here, and why.
    pub skipped: Vec<String>,
    /// Names of those that ran, within their suites.
    pub names: Vec<String>,
    /// Seconds that each took, and its name, where the runner tells.
    pub took: Vec<(f64, String)>,
}

impl Tally {
    /// Takes over what became of others.
    pub fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped.extend(other.skipped);
        self.names.extend(other.names);
        self.took.extend(other.took);
    }

    /// The tests that took the longest, first.
    fn slowest(&self) -> Vec<&(f64, String)> {
        let mut took: Vec<_> = self.took.iter().collect();
        took.sort_by(|a, b| b.0.total_cmp(&a.0));
        took.truncate(SLOWEST);
        took
    }
}

/// A run.
pub struct Stages {
    begun: Instant,
    done: Vec<(String, Duration, bool)>,
    /// What became of its tests.
    pub tally: Tally,
}

impl Stages {
    /// A run that begins now.
    pub fn begin() -> Self {
        Self { begun: Instant::now(), done: Vec::new(), tally: Tally::default() }
    }

    /// Does one stage. What fails is told at once, and makes the run fail at its end.
    pub fn stage(&mut self, name: &str, work: impl FnOnce(&mut Tally) -> Result<()>) -> bool {
        println!("---- {name}");
        let (begun, failed) = (Instant::now(), self.tally.failed);
        let done = match machine::interrupted() {
            true => Err(anyhow!("interrupted")),
            false => work(&mut self.tally),
        };
        if let Err(error) = &done {
            println!("{name}: {error:#}");
            // What is no test has failed as one, where none has.
            self.tally.failed = self.tally.failed.max(failed + 1);
        }
        self.done.push((name.to_owned(), begun.elapsed(), done.is_ok()));
        done.is_ok()
    }

    /// Prints the result of every stage.
    ///
    /// # Errors
    ///
    /// A stage failed.
    pub fn end(self) -> Result<()> {
        println!("\n{}", self.told(self.begun.elapsed()));
        let failed = self.done.iter().filter(|(.., passed)| !passed).map(|(name, ..)| name.as_str());
        let failed: Vec<&str> = failed.collect();
        if !failed.is_empty() {
            bail!("failed: {}", failed.join(", "));
        }
        Ok(())
    }

    fn told(&self, whole: Duration) -> String {
        let row = |seconds: f64, name: &str| format!("{seconds:>8.1}  {name}\n");
        let mut text = String::from("seconds  stage\n");
        for (name, took, passed) in &self.done {
            text += &row(took.as_secs_f64(), &format!("{name}{}", if *passed { "" } else { ": FAILED" }));
        }
        text += &row(whole.as_secs_f64(), "all");
        let slowest = self.tally.slowest();
        if !slowest.is_empty() {
            text += "\nseconds  slowest tests\n";
        }
        for (seconds, name) in slowest {
            text += &row(*seconds, name);
        }
        for test in &self.tally.skipped {
            text += &format!("skipped: {test}\n");
        }
        let Tally { passed, failed, skipped, .. } = &self.tally;
        text + &format!("\ntests: {passed} passed, {failed} failed, {} skipped", skipped.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn summary_lists_stages_slowest_tests_and_skipped_tests() {
        let mut run = Stages::begin();
        assert!(run.stage("first", |tally| {
            let took = (0..12).map(|n| (f64::from(n), format!("t{n}"))).collect();
            tally.add(Tally { passed: 12, skipped: vec!["s: no card".into()], took, ..Tally::default() });
            Ok(())
        }));
        assert!(!run.stage("second", |_| bail!("no disk")));
        let told = run.told(Duration::from_secs(3));
        assert!(told.contains("second: FAILED") && told.contains("3.0  all"), "{told}");
        let slowest: Vec<&str> = told.lines().skip_while(|line| !line.contains("slowest")).collect();
        assert!(slowest[1].ends_with("11.0  t11") && slowest[10].ends_with("2.0  t2"), "{told}");
        assert!(told.contains("skipped: s: no card") && !told.contains("t1\n"), "{told}");
        assert!(told.ends_with("\ntests: 12 passed, 1 failed, 1 skipped"), "{told}");
        assert_eq!(run.end().expect_err("one failed").to_string(), "failed: second");
    }
}
