//! What Margay sets out to reach, beside what it reached in this run.

use super::{
    Report,
    digits::{as_shown, ratio},
    document::{Block, Column, Table, Text},
};
use crate::{
    candidate::{BIG, BRIDGE, FLOOR, HOST_BIG, LIMIT, MARGAY, OVERLAY, RULES, VXLAN},
    stats::Summary,
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
    /// The candidate that does the same work without a network's costs: roughly the best that is
    /// possible on this machine.
    floor: &'static str,
    /// What the ratio has to reach, or stay below where less is better.
    bound: f64,
}

/// Margay's, across hosts unless said otherwise.
const fn aim(work: Work, measure: &'static str, to: &'static str, bound: f64) -> Aim {
    Aim { place: Place::Across, work, measure, of: MARGAY, to, floor: FLOOR, bound }
}

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

/// A table of those that this run can tell of, below a heading; nothing where there are none.
pub fn blocks(report: &Report) -> Vec<Block> {
    let rows: Vec<_> = AIMS.iter().filter_map(|aim| aim.row(report)).collect();
    if rows.is_empty() {
        return Vec::new();
    }
    let note = Text::from("The last column is what ").code(FLOOR);
    let note = note.plain(" reached in the same rounds, or, for BIG TCP, ").code(HOST_BIG).plain(".");
    let words = ["what", "to"].map(Column::words);
    let numbers = ["aim", "median", "least", "most"].map(Column::numbers);
    let last = [Column::words("result"), Column::numbers("floor")];
    let columns = words.into_iter().chain(numbers).chain(last).collect();
    vec![Block::heading(2, "Against the aims"), Block::Paragraph(note), Block::Table(Table { columns, rows })]
}

impl Aim {
    fn row(&self, report: &Report) -> Option<Vec<Text>> {
        let case = (self.place, self.work, self.measure);
        let ratios = report.ratio(self.of, self.to, case)?;
        let floor = report.ratio(self.floor, self.to, case);
        let [median, least, most] = [ratios.median, ratios.min, ratios.max].map(ratio);
        let side = if self.wants_more() { "at least" } else { "at most" };
        let cells = [
            self.what(),
            self.to.into(),
            format!("{side} {}", ratio(self.bound)),
            median,
            least,
            most,
            self.result(&ratios),
            floor.map_or("-".into(), |floor| ratio(floor.median)),
        ];
        Some(cells.map(Text::from).into())
    }

    fn what(&self) -> String {
        let measure = if self.measure == RATE { String::new() } else { format!(", {}", self.measure) };
        format!("{}, {}, {}{measure}", self.of, self.place.name(), self.work.name())
    }

    fn result(&self, ratios: &Summary) -> String {
        let reached = if self.is_reached(ratios.median) { "reached" } else { "missed" };
        format!("{reached}{}", if ratios.is_wide() { ", wide" } else { "" })
    }

    /// By the digits that are shown: a reader who sees the bound itself sees no miss.
    fn is_reached(&self, median: f64) -> bool {
        let (median, bound) = (as_shown(median), as_shown(self.bound));
        if self.wants_more() { median >= bound } else { median <= bound }
    }

    fn wants_more(&self) -> bool {
        self.measure == RATE
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::{document::Document, example, markdown};

    #[test]
    fn aim_met_at_the_shown_precision_is_reached() {
        let more = aim(Work::Stream, RATE, LIMIT, 0.95);
        let less = aim(Work::TcpRequests, P50, LIMIT, 1.05);
        assert!(more.is_reached(0.9451) && more.is_reached(0.96) && !more.is_reached(0.9449));
        assert!(less.is_reached(1.0549) && less.is_reached(1.04) && !less.is_reached(1.0551));
    }

    #[test]
    fn table_of_aims_lists_measured_aims_only() {
        let stream = |name, values| (name, Place::Across, Work::Stream, RATE, values);
        let measured = [
            stream(LIMIT, [100.0; 3]),
            stream(FLOOR, [98.0; 3]),
            stream(MARGAY, [94.6, 94.8, 94.8]),
            stream(VXLAN, [60.0; 3]),
        ];
        let blocks = blocks(&example::report(&measured));
        let text = markdown::render(&Document { title: String::new(), blocks });
        let rows: Vec<&str> = text.lines().filter(|line| line.starts_with("| margay")).collect();
        let expected = [
            "| margay, across hosts, one TCP stream | host | at least 0.95 | 0.95 | 0.95 | 0.95 | reached | 0.98 |",
            "| margay, across hosts, one TCP stream | bridge + VXLAN | at least 1.70 | 1.58 | 1.58 | 1.58 | missed | 1.63 |",
        ];
        assert_eq!(rows, expected, "{text}");
    }
}
