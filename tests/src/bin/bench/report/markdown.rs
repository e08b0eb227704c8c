//! The report as text.

use std::fmt::Write;

use super::{Case, Report, aims};
use crate::work::{ASKING, COST, P50, P99, Place, RATE, SECONDS};

/// The measures of the tables; the others are for plots and readers of the JSON.
const SHOWN: [&str; 4] = [RATE, P50, P99, COST];

/// The whole of it.
pub fn render(report: &Report) -> String {
    let mut text = String::new();
    // Writing to a string does not fail.
    write(report, &mut text).unwrap_or_default();
    text
}

fn write(report: &Report, text: &mut String) -> std::fmt::Result {
    let machine = &report.machine;
    writeln!(text, "# Margay compared\n")?;
    writeln!(
        text,
        "`{}`, {} s. Kernel {}, {} processors ({}), {} MiB; TCP by {}; idle processors by \
         {}{}; load {:.2} before.\n",
        report.command,
        report.took.as_secs(),
        machine.kernel,
        machine.cpus,
        machine.processor,
        machine.memory,
        machine.congestion,
        if machine.idle.is_empty() { "none" } else { &machine.idle },
        machine.halt_poll.map(|ns| format!(", which polls for {} us", ns / 1000)).unwrap_or_default(),
        machine.load_before
    )?;
    writeln!(
        text,
        "Hosts are network namespaces of one machine, two for each candidate, with a veth pair as cable, \
         MTU 1500, whose ends receive like network cards, by NAPI with GRO. Measurements of {SECONDS} s (streams, HTTP) and {} ms (the others), one candidate after the other, round after round; a ratio is \
         that to `host` of the same round, and the median of these is given. Processor time is that of the \
         whole machine, both hosts and softirqs included. `wide` marks what spreads too far to compare: \
         the middle half, or all of fewer than eight, is wider than a quarter of the median. Ratios of this lab are no ratios of \
         real network cards.\n",
        ASKING.as_millis()
    )?;
    for disturbance in report.disturbances() {
        writeln!(text, "- Disturbed: {disturbance}.")?;
    }
    writeln!(text, "\n## Candidates\n\n| candidate | what it is |\n|---|---|")?;
    for entry in &report.candidates {
        let lacking = entry.lacking.as_ref().map(|why| format!(" **Not here: {why}**")).unwrap_or_default();
        writeln!(text, "| {} | {}.{lacking} |", entry.name, entry.what)?;
    }
    aims::write(report, text)?;
    for place in [Place::Across, Place::Pinned, Place::Local] {
        let shown = |case: &Case| case.0 == place && SHOWN.contains(&case.2);
        let cases = report.cases().into_iter().filter(shown).collect::<Vec<_>>();
        if !cases.is_empty() {
            writeln!(text, "\n## {}", place.name())?;
        }
        cases.into_iter().try_for_each(|case| table(report, case, text))?;
    }
    Ok(())
}

fn table(report: &Report, case: Case, text: &mut String) -> std::fmt::Result {
    let (_, work, measure) = case;
    let measure = if measure == RATE { "" } else { measure };
    writeln!(
        text,
        "\n### {}{}{measure}, {}\n",
        work.name(),
        if measure.is_empty() { "" } else { ": " },
        work.unit(case.2)
    )?;
    writeln!(
        text,
        "| candidate | median | least | most | to host | least | most | |\n|---|--:|--:|--:|--:|--:|--:|---|"
    )?;
    for entry in report.present().filter(|entry| report.has_done(entry.name, case)) {
        let Some(value) = report.summary(entry.name, case) else {
            writeln!(text, "| {} | - | - | - | - | - | - | failed |", entry.name)?;
            continue;
        };
        let [median, min, max] = [value.median, value.min, value.max].map(short);
        write!(text, "| {} | {median} | {min} | {max} |", entry.name)?;
        match report.to_limit(entry.name, case) {
            Some(ratio) => writeln!(
                text,
                " {:.2} | {:.2} | {:.2} | {} |",
                ratio.median,
                ratio.min,
                ratio.max,
                if ratio.is_wide() { "wide" } else { "" }
            )?,
            None => writeln!(text, " - | - | - | |")?,
        }
    }
    Ok(())
}

/// Three digits that matter.
pub fn short(value: f64) -> String {
    match value.abs() {
        v if v >= 1000.0 => format!("{value:.0}"),
        v if v >= 100.0 => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        v if v >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.4}"),
    }
}
