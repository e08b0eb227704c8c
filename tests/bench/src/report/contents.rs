//! What the report says, from its top to its end.

use super::{
    Case, Report, aims,
    digits::{ratio, short},
    document::{Block, Column, Document, Table, Text},
    figures, legend,
    plot::Failure,
    summary,
};
use crate::{
    candidate::LIMIT,
    scale::Scale,
    work::{ASKING, COST, P50, P99, Place, RATE, SECONDS, Work},
};

/// The measures that have tables; the others are for plots and readers of the JSON.
const SHOWN: [&str; 4] = [RATE, P50, P99, COST];

/// The whole report, with a `bench scale` if there was one.
pub fn document(report: &Report, scale: Option<&Scale>) -> Result<Document, Failure> {
    let mut blocks: Vec<Block> = summary::blocks(report).into();
    blocks.extend(legend::blocks());
    blocks.extend(run(report));
    blocks.extend(candidates(report));
    blocks.extend(aims::blocks(report));
    for place in [Place::Across, Place::Pinned, Place::Local] {
        blocks.extend(at(place, report)?);
    }
    if let Some(scale) = scale {
        blocks.extend(scaling(scale)?);
    }
    Ok(Document { title: "Margay compared".into(), blocks })
}

/// How it was measured, and what disturbed it.
fn run(report: &Report) -> Vec<Block> {
    let method = format!(
        "Hosts are network namespaces of one machine, two for each candidate, with a veth pair as cable, \
         MTU 1500, whose ends receive like network cards, by NAPI with GRO. Measurements of {SECONDS} s \
         (streams, HTTP) and {} ms (the others), one candidate after the other, round after round. Processor \
         time is that of the whole machine, both hosts and softirqs included. Ratios of this lab are no \
         ratios of real network cards.",
        ASKING.as_millis()
    );
    let mut blocks = vec![
        Block::heading(2, "The run"),
        Block::Paragraph(Text::default().code(&report.command).plain(machine(report))),
        Block::Paragraph(method.into()),
    ];
    let disturbances = report.disturbances();
    if !disturbances.is_empty() {
        let items = disturbances.iter().map(|disturbance| format!("Disturbed: {disturbance}.").into());
        blocks.push(Block::List(items.collect()));
    }
    blocks
}

fn machine(report: &Report) -> String {
    let machine = &report.machine;
    format!(
        ", {} s. Kernel {}, {} processors ({}), {} MiB; TCP by {}; idle processors by {}{}; load {:.2} before.",
        report.took.as_secs(),
        machine.kernel,
        machine.cpus,
        machine.processor,
        machine.memory,
        machine.congestion,
        if machine.idle.is_empty() { "none" } else { &machine.idle },
        machine.halt_poll.map(|ns| format!(", which polls for {} us", ns / 1000)).unwrap_or_default(),
        machine.load_before
    )
}

fn candidates(report: &Report) -> [Block; 2] {
    let columns = vec![Column::words("candidate"), Column::words("what it is")];
    let rows = report.candidates.iter().map(|entry| {
        let what = Text::from(format!("{}.", entry.what));
        let what = match &entry.lacking {
            Some(why) => what.plain(" ").strong(format!("Not here: {why}")),
            None => what,
        };
        vec![entry.name.into(), what]
    });
    [Block::heading(2, "Candidates"), Block::Table(Table { columns, rows: rows.collect() })]
}

/// The part about a place, if anything was measured there.
fn at(place: Place, report: &Report) -> Result<Vec<Block>, Failure> {
    let shown = |case: &Case| case.0 == place && SHOWN.contains(&case.2);
    let mut blocks = Vec::new();
    for case in report.cases().into_iter().filter(shown) {
        if blocks.is_empty() {
            blocks.push(Block::heading(2, place.name()));
        }
        blocks.extend(measured(report, case)?);
    }
    Ok(blocks)
}

/// The plots and the table of a case.
fn measured(report: &Report, case: Case) -> Result<Vec<Block>, Failure> {
    let (place, work, measure) = case;
    let colon = if measure == RATE { String::new() } else { format!(": {measure}") };
    let heading = format!("{}{colon}, {}", work.name(), work.unit(measure));
    let mut blocks = vec![Block::heading(3, heading)];
    if measure != P99 {
        blocks.extend(figures::ratios(report, case)?);
    }
    blocks.push(table(report, case));
    if (work, measure) == (Work::TcpRequests, P50) {
        blocks.extend(figures::latencies(report, place)?);
    }
    Ok(blocks)
}

fn table(report: &Report, case: Case) -> Block {
    let numbers = ["median", "least", "most", &format!("to {LIMIT}"), "least", "most"].map(Column::numbers);
    let columns = [Column::words("candidate")].into_iter().chain(numbers).chain([Column::words("note")]);
    let present = report.present().filter(|entry| report.has_done(entry.name, case));
    let rows = present.map(|entry| row(report, entry.name, case).map(Text::from).into());
    Block::Table(Table { columns: columns.collect(), rows: rows.collect() })
}

fn row(report: &Report, name: &str, case: Case) -> [String; 8] {
    let dashes = || ["-"; 3].map(String::from);
    let value = report.summary(name, case);
    let ratios = report.to_limit(name, case);
    let note = match &ratios {
        _ if value.is_none() => "failed",
        Some(ratios) if ratios.is_wide() => "wide",
        _ => "",
    };
    let [median, min, max] =
        value.map_or_else(dashes, |value| [value.median, value.min, value.max].map(short));
    let [to, least, most] = ratios.map_or_else(dashes, |to| [to.median, to.min, to.max].map(ratio));
    [name.into(), median, min, max, to, least, most, note.into()]
}

/// What a `bench scale` found, which is a run of its own.
fn scaling(scale: &Scale) -> Result<Vec<Block>, Failure> {
    let about = Text::from("Of ").code("cargo xtask bench scale").plain(format!(
        ", a run of its own: {}, {}. Nanoseconds of a packet by the number of routes.",
        scale.kernel, scale.processor
    ));
    let lines = figures::scale_lines(scale);
    let mut blocks = vec![Block::heading(2, "scale"), Block::Paragraph(about)];
    blocks.extend(figures::scaling(&lines)?);
    let names = lines.iter().map(|line| Column::numbers(&line.name));
    let rows = scale.rows.iter().enumerate().map(|(i, row)| {
        let values = lines.iter().filter_map(|line| line.points.get(i)).map(|(_, value)| short(*value));
        std::iter::once(row.routes.to_string()).chain(values).map(Text::from).collect()
    });
    let columns = std::iter::once(Column::numbers("routes")).chain(names).collect();
    blocks.push(Block::Table(Table { columns, rows: rows.collect() }));
    Ok(blocks)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        candidate::MARGAY,
        report::{example, html, markdown},
        scale::{Row, Times},
    };

    fn example() -> Document {
        let mut measured = Vec::new();
        for (name, rates) in [(LIMIT, [40.0, 38.0, 42.0]), (MARGAY, [30.0, 32.0, 31.0])] {
            measured.push((name, Place::Across, Work::Stream, RATE, rates));
            measured.push((name, Place::Across, Work::TcpRequests, P50, rates));
            measured.push((name, Place::Across, Work::TcpRequests, P99, [99.0; 3]));
        }
        let times =
            Times { hot: 7.0, random: 8.0, fill: 1.0, change: 1.0, memory: 1.0, empty: 1.0, stall: 1.0 };
        let row = |routes| Row { routes, margay: times.clone(), kernel: times.clone() };
        let rows = vec![row(10), row(1000)];
        let scale = Scale { kernel: "6.18".into(), processor: "A & B".into(), rows };
        document(&example::report(&measured), Some(&scale)).unwrap()
    }

    #[test]
    fn the_page_begins_with_the_summary_and_has_tables_and_plots() {
        let page = html::render(&example());
        let place = |part: &str| page.find(part).unwrap_or_else(|| panic!("{part} in {page}"));
        let parts = [
            "<body>\n<h1>Margay compared</h1>\n<h2>Summary",
            "<table",
            "<h2>Words",
            "<h2>The run",
            "<h2>across hosts",
            "<h2>scale",
        ];
        assert!(parts.map(place).is_sorted(), "{page}");
        assert!(!page.contains("<pre"), "{page}");
        // The stream, p50, the latencies, and the scale.
        assert_eq!(page.matches("<figure><svg").count(), 4, "{page}");
        assert!(page.contains("A &amp; B") && !page.contains("A & B"), "{page}");
    }

    #[test]
    fn page_and_markdown_agree() {
        let (page, text) = (html::render(&example()), markdown::render(&example()));
        assert!(text.starts_with("# Margay compared\n\n## Summary\n\n"), "{text}");
        let cells =
            page.matches("<td").count() + page.matches("<th").count() - page.matches("<thead").count();
        let rows = text.lines().filter(|line| line.starts_with("| "));
        assert_eq!(rows.map(|row| row.matches(" | ").count() + 1).sum::<usize>(), cells, "{text}");
        for word in ["floor", "pinned", "wide", "ratio", "host", "span"] {
            assert!(page.contains(&format!("<li><strong>{word}</strong>: ")), "{word} in {page}");
            assert!(text.contains(&format!("\n- **{word}**: ")), "{word} in {text}");
        }
    }
}
