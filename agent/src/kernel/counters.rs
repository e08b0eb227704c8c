//! The counters of the programs.

use anyhow::Result;
use margay_common::verdict::{Count, DropReason, Note, Program, Verdict, counter};
use serde::{Deserialize, Serialize};

use super::table::PerCpu;

/// What a counter counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Packets that went on.
    Forwarded,
    /// Packets that were dropped.
    Dropped,
    /// Something besides.
    Note,
}

/// One counter, summed over all CPUs since the maps were made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counter {
    /// The program.
    pub program: String,
    /// What is counted.
    pub kind: Kind,
    /// The verdict or the reason of the drop.
    pub reason: String,
    /// Packets; a super-packet is one.
    pub packets: u64,
    /// Bytes, with the link header.
    pub bytes: u64,
    /// The reason in a sentence.
    pub text: String,
}

/// Reads all counters, the zero ones as well.
pub fn read(table: &PerCpu<Count>) -> Result<Vec<Counter>> {
    let verdicts = Verdict::ALL.iter().map(|v| (*v as u8, Kind::Forwarded, v.label(), v.text()));
    let drops = DropReason::ALL.iter().map(|r| (*r as u8, Kind::Dropped, r.label(), r.text()));
    let notes = Note::ALL.iter().map(|n| (*n as u8, Kind::Note, n.label(), n.text()));
    let codes: Vec<_> = verdicts.chain(drops).chain(notes).collect();
    let mut counters = Vec::new();
    for program in Program::ALL {
        for (code, kind, reason, text) in &codes {
            let cpus = table.read(counter(*program, *code))?;
            counters.push(Counter {
                program: program.label().into(),
                kind: *kind,
                reason: (*reason).into(),
                packets: cpus.iter().map(|count| count.packets).sum(),
                bytes: cpus.iter().map(|count| count.bytes).sum(),
                text: (*text).into(),
            });
        }
    }
    Ok(counters)
}
