//! The report's summary: what a reader who considers Margay wants to know first.

use super::{
    Report,
    digits::{ratio, spanned},
    document::{Block, Column, Table, Text},
};
use crate::{
    candidate::{LIMIT, MARGAY, RULES, VXLAN},
    work::{COST, P50, Place, RATE, Work},
};

/// A question, and the words of its answer.
struct Question {
    what: &'static str,
    work: Work,
    measure: &'static str,
    /// Who does what.
    does: &'static str,
    /// With how much of what.
    of: &'static str,
}

const QUESTIONS: [Question; 5] = [
    Question {
        what: "One TCP stream (more is better)",
        work: Work::Stream,
        measure: RATE,
        does: "Margay carries",
        of: "the stream",
    },
    Question {
        what: "Latency of a request by TCP, p50 (less is better)",
        work: Work::TcpRequests,
        measure: P50,
        does: "A request over Margay has",
        of: "the latency",
    },
    Question {
        what: "UDP packets per second (more is better)",
        work: Work::Packets,
        measure: RATE,
        does: "Margay delivers",
        of: "the packet rate",
    },
    Question {
        what: "New connections per second (more is better)",
        work: Work::Connections,
        measure: RATE,
        does: "Margay reaches",
        of: "the connection rate",
    },
    Question {
        what: "Processor time per GB of a stream (less is better)",
        work: Work::Stream,
        measure: COST,
        does: "A gigabyte over Margay takes",
        of: "the processor time",
    },
];

/// To whom Margay is compared, and what readers call them.
const BASES: [(&str, &str); 3] =
    [(LIMIT, "the bare host"), (RULES, "Docker's bridge"), (VXLAN, "a bridge with VXLAN")];

/// The first part of the report.
pub fn blocks(report: &Report) -> [Block; 3] {
    let note = "Margay to others, across hosts: medians of the ratios (least to most). The words are below.";
    let figures = BASES.iter().map(|(_, name)| Column::numbers(format!("to {name}")));
    let columns = std::iter::once(Column::words("what")).chain(figures);
    let columns = columns.chain([Column::words("in words")]).collect();
    let rows = QUESTIONS.iter().map(|question| question.row(report)).collect();
    [Block::heading(2, "Summary"), Block::Paragraph(note.into()), Block::Table(Table { columns, rows })]
}

impl Question {
    fn row(&self, report: &Report) -> Vec<Text> {
        let case = (Place::Across, self.work, self.measure);
        let ratios = BASES.map(|(base, _)| report.ratio(MARGAY, base, case));
        let figures = ratios.iter().map(|ratios| ratios.as_ref().map_or("not measured".into(), spanned));
        let medians = ratios.iter().zip(BASES);
        let medians = medians.filter_map(|(ratios, (_, name))| Some((ratios.as_ref()?.median, name)));
        let words = self.sentence(&medians.collect::<Vec<_>>());
        std::iter::once(self.what.to_owned()).chain(figures).chain([words]).map(Text::from).collect()
    }

    fn sentence(&self, medians: &[(f64, &str)]) -> String {
        let Some(((first, base), others)) = medians.split_first() else {
            return "This run did not measure it.".into();
        };
        let others = others.iter().map(|(median, base)| format!("; {} that of {base}", times(*median)));
        let others: String = others.collect();
        format!("{} {} {} of {base}{others}.", self.does, times(*first), self.of)
    }
}

/// A ratio before what it is of.
fn times(median: f64) -> String {
    let digits = ratio(median);
    if digits.starts_with("0.") { digits + " of" } else { digits + " times" }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::{document::Document, example, markdown};

    fn text(report: &Report) -> String {
        markdown::render(&Document { title: String::new(), blocks: blocks(report).into() })
    }

    #[test]
    fn summary_row_has_figures_and_a_sentence() {
        let stream = |name, values| (name, Place::Across, Work::Stream, RATE, values);
        let report = example::report(&[
            stream(LIMIT, [40.0, 40.0, 40.0]),
            stream(RULES, [20.0, 20.0, 20.0]),
            stream(MARGAY, [30.0, 32.0, 31.6]),
        ]);
        let row = "| One TCP stream (more is better) | 0.79 (0.75 to 0.80) | 1.58 (1.50 to 1.60) | not measured \
                   | Margay carries 0.79 of the stream of the bare host; 1.58 times that of Docker's bridge. |";
        assert!(text(&report).contains(row), "{}", text(&report));
    }

    #[test]
    fn unmeasured_row_says_not_measured() {
        let packets = |name| (name, Place::Across, Work::Packets, RATE, [1e5; 3]);
        let text = text(&example::report(&[packets(LIMIT), packets(MARGAY)]));
        let lines: Vec<&str> = text.lines().filter(|line| line.ends_with('|')).skip(2).collect();
        assert_eq!(lines.len(), 5, "{text}");
        for line in lines {
            let measured = line.starts_with("| UDP packets");
            assert_eq!(line.contains("| not measured | not measured | not measured |"), !measured, "{line}");
            assert_eq!(line.ends_with("| This run did not measure it. |"), !measured, "{line}");
        }
    }

    #[test]
    fn local_figures_are_not_reported_as_across_hosts() {
        let local = |name| (name, Place::Local, Work::Stream, RATE, [30.0; 3]);
        let text = text(&example::report(&[local(LIMIT), local(MARGAY)]));
        assert_eq!(text.matches("This run did not measure it.").count(), 5, "{text}");
    }
}
