//! Whatever a container or the wire sends: packets of which the test knows what they are, and
//! those with wrong bytes. No test says what the code says; each knows from how it made the
//! packet.

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

/// Packets that each test looks at.
const CASES: u32 = 3_072;
/// How often each of what a test is about happens at least.
const OFTEN: u32 = 20;

/// How often something happened.
#[derive(Default)]
struct Hits(RefCell<BTreeMap<&'static str, u32>>);

impl Hits {
    fn count(&self, what: &'static str) {
        *self.0.borrow_mut().entry(what).or_default() += 1;
    }
}

/// Runs a test over many values and sees to it that each of `wanted` happened often.
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
