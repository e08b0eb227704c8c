//! What came out: kept as measured, and summed up for people.

mod aims;
mod contents;
mod digits;
pub use digits::short;
mod document;
#[cfg(test)]
mod example;
mod figures;
mod html;
mod legend;
mod markdown;
mod plot;
mod summary;

use std::{collections::BTreeMap, fs, path::Path, time::Duration};

use serde::Serialize;

use crate::{
    candidate::{Candidate, LIMIT},
    cpu::{Cpu, Machine},
    scale::Scale,
    stats::{Summary, percentile},
    work::{COST, Place, RATE, Sample, Work},
};

/// The file that `bench scale` leaves beside the report.
pub const SCALE: &str = "scale.json";

/// One measurement.
pub struct Record {
    /// Round, from 1.
    pub round: usize,
    /// Name of the candidate.
    pub candidate: &'static str,
    /// Where it was done.
    pub place: Place,
    /// What was done.
    pub work: Work,
    /// What was measured, or what failed.
    pub result: Result<Sample, String>,
}

/// A candidate and what became of it.
#[derive(Serialize)]
struct Entry {
    name: &'static str,
    what: &'static str,
    /// Why it could not be set up.
    lacking: Option<String>,
}

/// Everything of one run.
pub struct Report {
    machine: Machine,
    command: String,
    took: Duration,
    /// The congestion control that was wanted, if it is another.
    refused: Option<String>,
    /// Rounds that there was no time for, of how many.
    left_out: Option<(usize, usize)>,
    candidates: Vec<Entry>,
    records: Vec<Record>,
}

/// What is told apart in a report.
type Case = (Place, Work, &'static str);

impl Report {
    /// An empty one.
    pub fn new(machine: Machine, command: String) -> Self {
        let (candidates, records) = (Vec::new(), Vec::new());
        Self { machine, command, took: Duration::ZERO, refused: None, left_out: None, candidates, records }
    }

    /// Names a candidate.
    pub fn describe(&mut self, candidate: Candidate) {
        self.candidates.push(Entry { name: candidate.name, what: candidate.what, lacking: None });
    }

    /// Says that this machine lacks a candidate.
    pub fn lacks(&mut self, candidate: Candidate, why: &str) {
        let why: String = why.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(400).collect();
        println!("bench: {} is left out: {why}", candidate.name);
        let entry = self.candidates.iter_mut().find(|entry| entry.name == candidate.name);
        entry.expect("it was described").lacking = Some(why);
    }

    /// Listens to the machine before a round.
    pub fn listen(&mut self) {
        self.machine.listen();
    }

    /// Takes a measurement.
    pub fn add(&mut self, record: Record) {
        if let Err(why) = &record.result {
            println!("bench: {}, {}, {}: {why}", record.candidate, record.work.name(), record.place.name());
        }
        self.records.push(record);
    }

    /// Notes which congestion control was wanted, and which was found.
    pub fn congestion(&mut self, wanted: &str, mut found: impl Iterator<Item = String>) {
        let other = found.find(|found| found != wanted);
        if let Some(other) = &other {
            println!("bench: TCP has {other} to control congestion: the machine refuses {wanted}");
            self.refused = Some(wanted.to_owned());
        }
        self.machine.congestion = other.unwrap_or_else(|| wanted.to_owned());
    }

    /// Notes that there was no time for some of the rounds.
    pub fn left_out(&mut self, rounds: usize, of: usize) {
        println!("bench: no time for {rounds} of {of} rounds (--rounds takes the time that it needs)");
        self.left_out = Some((rounds, of));
    }

    /// Notes the end of the run.
    pub fn finish(&mut self, begun: Cpu, took: Duration) {
        self.machine.finish(begun);
        self.took = took;
    }

    /// Writes the three forms, and prints what matters.
    pub fn write(&self, dir: &Path) -> std::io::Result<()> {
        fs::create_dir_all(dir)?;
        fs::write(dir.join("report.json"), serde_json::to_string_pretty(&self.json())?)?;
        // Of an earlier `bench scale`, if there was one.
        let scale = fs::read(dir.join(SCALE)).ok().and_then(|scale| {
            let scale: Result<Scale, _> = serde_json::from_slice(&scale);
            scale.inspect_err(|error| println!("bench: {SCALE}: {error}; bench scale writes it again")).ok()
        });
        let document = contents::document(self, scale.as_ref()).map_err(std::io::Error::other)?;
        let text = markdown::render(&document);
        fs::write(dir.join("report.md"), &text)?;
        fs::write(dir.join("report.html"), html::render(&document))?;
        println!("\n{text}\nbench: {}/report.json, report.md, report.html", dir.display());
        Ok(())
    }

    fn json(&self) -> serde_json::Value {
        let records = self.records.iter().map(|record| {
            serde_json::json!({
                "round": record.round, "candidate": record.candidate,
                "place": record.place.name(), "work": record.work.name(),
                "measured": record.result.as_ref().ok(), "error": record.result.as_ref().err(),
            })
        });
        serde_json::json!({
            "command": self.command, "seconds": self.took.as_secs(), "machine": self.machine,
            "rounds_left_out": self.left_out.map_or(0, |(rounds, _)| rounds),
            "candidates": self.candidates, "records": records.collect::<Vec<_>>(),
        })
    }

    /// The cases that were measured, in the order of the report, with their
    /// measures.
    fn cases(&self) -> Vec<Case> {
        let done = |record: &Record| {
            let sample = record.result.as_ref().ok()?;
            Some(sample.keys().map(|measure| (record.place, record.work, *measure)).collect::<Vec<_>>())
        };
        let mut cases: Vec<Case> = self.records.iter().filter_map(done).flatten().collect();
        cases.sort_by_key(|(place, work, measure)| (*place, *work, order(measure), *measure));
        cases.dedup();
        cases
    }

    /// The values of a candidate in a case, by round.
    fn values(&self, candidate: &str, (place, work, measure): Case) -> BTreeMap<usize, f64> {
        let of =
            self.records.iter().filter(|r| r.candidate == candidate && r.place == place && r.work == work);
        of.filter_map(|r| Some((r.round, *r.result.as_ref().ok()?.get(measure)?))).collect()
    }

    /// Whether a candidate did that kind of work there, with whatever result.
    fn has_done(&self, candidate: &str, (place, work, _): Case) -> bool {
        self.records.iter().any(|r| r.candidate == candidate && r.place == place && r.work == work)
    }

    /// A candidate's values.
    fn summary(&self, candidate: &str, case: Case) -> Option<Summary> {
        Summary::of(self.values(candidate, case).into_values().collect())
    }

    /// A candidate's values, each as a ratio to another's of the same round.
    fn ratio(&self, candidate: &str, base: &str, case: Case) -> Option<Summary> {
        let base = self.values(base, case);
        let own = self.values(candidate, case).into_iter();
        Summary::of(own.filter_map(|(round, value)| Some(value / base.get(&round)?)).collect())
    }

    /// The same to the limit.
    fn to_limit(&self, candidate: &str, case: Case) -> Option<Summary> {
        self.ratio(candidate, LIMIT, case)
    }

    /// The candidates that were measured.
    fn present(&self) -> impl Iterator<Item = &Entry> {
        self.candidates.iter().filter(|entry| entry.lacking.is_none())
    }

    /// What makes these figures less than they seem.
    fn disturbances(&self) -> Vec<String> {
        let machine = &self.machine;
        let mut found = Vec::new();
        let busy = machine.busy_idle.iter().copied().fold(0.0, f64::max);
        if busy > 0.2 {
            found.push(format!("while nothing was measured, up to {busy:.2} processors were busy"));
        }
        if machine.stolen > 0.01 * self.took.as_secs_f64() {
            found.push(format!("the machine below took {:.0} s of processor time away", machine.stolen));
        }
        let (least, most) =
            machine.mhz.iter().fold((f64::MAX, 0.0_f64), |(l, m), mhz| (l.min(*mhz), m.max(*mhz)));
        if most > 1.05 * least {
            found.push(format!("the processors' clock moved between {least:.0} and {most:.0} MHz"));
        }
        let computed = |p: f64| percentile(machine.computed.clone(), p);
        let slower = computed(0.9) / computed(0.0);
        if slower > 1.2 {
            found.push(format!(
                "a tenth of the time, before the rounds, the same computation took at least {slower:.1} \
                 times as long as at best"
            ));
        }
        if machine.halt_poll == Some(0) {
            found.push("idle processors halt at once, and it is the machine below that wakes them".into());
        }
        if let Some(wanted) = &self.refused {
            found.push(format!(
                "TCP has {} to control congestion: the machine refused {wanted}",
                machine.congestion
            ));
        }
        if let Some((rounds, of)) = self.left_out {
            found.push(format!("on this machine there was no time for {rounds} of {of} rounds"));
        }
        let failed = self.records.iter().filter(|record| record.result.is_err()).count();
        if failed > 0 {
            found.push(format!(
                "{failed} of {} measurements failed; report.json says why",
                self.records.len()
            ));
        }
        found
    }
}

/// Rates first, then latency, then cost.
fn order(measure: &str) -> usize {
    if measure == RATE {
        0
    } else if measure == COST {
        2
    } else {
        1
    }
}
