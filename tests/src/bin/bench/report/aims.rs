//! What Margay sets out to reach, beside what it reached in this run.

use std::fmt::Write;

use super::Report;
use crate::{
    candidate::{BIG, BRIDGE, FLOOR, HOST_BIG, LIMIT, MARGAY},
    work::{COST, P50, Place, RATE, Work},
};

/// A bound on a ratio.
struct Aim {
    place: Place,
    work: Work,
    measure: &'static str,
    /// Who is measured.
    of: &'static str,
    /// To whom.
    to: &'static str,
    /// Who does the same without what it costs to be a network: about what can be
    /// reached here.
    floor: &'static str,
    /// What the ratio has to reach, or stay below where less is better.
    bound: f64,
}

/// Margay's, across hosts unless said otherwise.
const fn aim(work: Work, measure: &'static str, to: &'static str, bound: f64) -> Aim {
    Aim { place: Place::Across, work, measure, of: MARGAY, to, floor: FLOOR, bound }
}

const RULES: &str = "docker bridge + routes";
const VXLAN: &str = "bridge + VXLAN";
const OVERLAY: &str = "docker overlay";

const AIMS: [Aim; 21] = [
    aim(Work::Stream, RATE, LIMIT, 0.95),
    aim(Work::Streams, RATE, LIMIT, 1.0),
    aim(Work::TcpRequests, P50, LIMIT, 1.05),
    Aim { place: Place::Pinned, ..aim(Work::TcpRequests, P50, LIMIT, 1.05) },
    aim(Work::Packets, RATE, LIMIT, 0.85),
    Aim { place: Place::Pinned, ..aim(Work::Packets, RATE, LIMIT, 0.85) },
    aim(Work::Packets, RATE, RULES, 1.5),
    aim(Work::Packets, RATE, BRIDGE, 1.5),
    aim(Work::Stream, RATE, RULES, 1.45),
    aim(Work::Stream, RATE, VXLAN, 1.7),
    aim(Work::Stream, RATE, OVERLAY, 1.7),
    aim(Work::Connections, RATE, LIMIT, 0.85),
    Aim { place: Place::Pinned, ..aim(Work::Connections, RATE, LIMIT, 0.85) },
    aim(Work::Connections, RATE, RULES, 1.3),
    aim(Work::Connections, RATE, BRIDGE, 1.3),
    aim(Work::Stream, COST, LIMIT, 1.10),
    Aim { of: BIG, floor: HOST_BIG, ..aim(Work::Stream, RATE, LIMIT, 1.3) },
    Aim { of: BIG, floor: HOST_BIG, ..aim(Work::Stream, COST, LIMIT, 0.75) },
    Aim { place: Place::Local, ..aim(Work::Stream, RATE, BRIDGE, 1.2) },
    Aim { place: Place::Local, ..aim(Work::TcpRequests, P50, BRIDGE, 0.85) },
    Aim { place: Place::Local, ..aim(Work::Packets, RATE, BRIDGE, 1.3) },
];

/// A table of those that this run can tell of.
pub fn write(report: &Report, text: &mut String) -> std::fmt::Result {
    let mut any = false;
    for aim in AIMS {
        let case = (aim.place, aim.work, aim.measure);
        let Some(ratio) = report.ratio(aim.of, aim.to, case) else { continue };
        if !std::mem::replace(&mut any, true) {
            writeln!(
                text,
                "\n## Against the aims\n\nThe last column is what `{FLOOR}` reached in the same rounds, or, for BIG TCP, `{HOST_BIG}`.\n\n\
                 | what | to | aim | median | least | most | | floor |\n|---|---|--:|--:|--:|--:|---|--:|"
            )?;
        }
        let floor = report.ratio(aim.floor, aim.to, case);
        let floor = floor.map_or("-".into(), |floor| format!("{:.2}", floor.median));
        let less = aim.measure != RATE;
        let reached = if less { ratio.median <= aim.bound } else { ratio.median >= aim.bound };
        writeln!(
            text,
            "| {}, {}, {}{} | {} | {} {} | {:.2} | {:.2} | {:.2} | {}{} | {floor} |",
            aim.of,
            aim.place.name(),
            aim.work.name(),
            if aim.measure == RATE { String::new() } else { format!(", {}", aim.measure) },
            aim.to,
            if less { "<=" } else { ">=" },
            aim.bound,
            ratio.median,
            ratio.min,
            ratio.max,
            if reached { "reached" } else { "missed" },
            if ratio.is_wide() { ", wide" } else { "" }
        )?;
    }
    Ok(())
}
