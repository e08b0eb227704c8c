//! Property tests with generated packets: well-formed ones, malformed ones, and ones with
//! random bytes changed. The expected result comes from how a packet was built, so no test
//! repeats the code under test.

mod answers;
mod errors;
mod frames;
mod onward;
mod parse;

use std::{cell::RefCell, collections::BTreeMap, vec::Vec};

use proptest::{
    prelude::*,
    test_runner::{Config, TestCaseResult, TestRunner},
};

use crate::checksum::finish;

/// Packets per test.
const CASES: u32 = 3_072;
/// How often each wanted case has to occur at least.
const OFTEN: u32 = 20;

/// Counts the cases that occurred.
#[derive(Default)]
struct Hits(RefCell<BTreeMap<&'static str, u32>>);

impl Hits {
    fn count(&self, what: &'static str) {
        *self.0.borrow_mut().entry(what).or_default() += 1;
    }
}

/// Runs a test over many values, and fails unless each of `wanted` occurred often enough.
fn run<S: Strategy>(strategy: S, wanted: &[&str], test: impl Fn(S::Value, &Hits) -> TestCaseResult) {
    let hits = Hits::default();
    let config = Config { cases: CASES, failure_persistence: None, ..Config::default() };
    if let Err(error) = TestRunner::new(config).run(&strategy, |value| test(value, &hits)) {
        panic!("{error}");
    }
    let hits = hits.0.into_inner();
    let seldom: Vec<_> = wanted.iter().filter(|what| hits.get(**what).is_none_or(|n| *n < OFTEN)).collect();
    assert!(seldom.is_empty(), "{seldom:?} of {hits:?}");
}

/// The checksum of bytes that have one: 0 if it is right.
fn checksum_of(parts: &[&[u8]]) -> u16 {
    let bytes = parts.concat();
    let words = bytes.chunks(2).map(|two| u16::from_be_bytes([two[0], *two.get(1).unwrap_or(&0)]));
    finish(words.map(u32::from).sum())
}
