//! What is plotted.

use super::{
    Case, Report,
    document::Block,
    plot::{self, Bar, Failure, Line},
};
use crate::{
    candidate::MARGAY,
    scale::{Row, Scale},
    work::{P50, P99, Place, RATE, Work},
};

/// The percentiles of latency that are measured.
const PERCENTILES: [(&str, f64); 5] =
    [("time p25", 25.0), (P50, 50.0), ("time p75", 75.0), ("time p90", 90.0), (P99, 99.0)];

/// Everyone's ratio to the host in a case; nothing where there are none.
pub fn ratios(report: &Report, case: Case) -> Result<Option<Block>, Failure> {
    let (_, work, measure) = case;
    let bars: Vec<Bar> = report.present().filter_map(|entry| bar(report, entry.name, case)).collect();
    if bars.is_empty() {
        return Ok(None);
    }
    let better = if measure == RATE { "more is better" } else { "less is better" };
    let title = format!("{}: {} to host, {better}", work.name(), measure.trim_start_matches("time "));
    Ok(Some(Block::Plot(plot::bars(&title, &bars)?)))
}

fn bar(report: &Report, name: &str, case: Case) -> Option<Bar> {
    let ratio = report.to_limit(name, case)?;
    let ours = name.starts_with(MARGAY);
    Some(Bar { name: name.into(), value: ratio.median, span: (ratio.min, ratio.max), ours })
}

/// The distribution of the latency of TCP requests: a line for each candidate,
/// from its percentiles over all rounds.
pub fn latencies(report: &Report, place: Place) -> Result<Option<Block>, Failure> {
    let line = |name: &str| {
        let at = |measure| report.summary(name, (place, Work::TcpRequests, measure)).map(|s| s.median);
        let points: Vec<_> =
            PERCENTILES.into_iter().filter_map(|(measure, p)| Some((at(measure)?, p))).collect();
        (!points.is_empty()).then(|| Line { name: name.into(), points })
    };
    let lines: Vec<Line> = report.present().filter_map(|entry| line(entry.name)).collect();
    let title = format!("TCP request/response {}: how many take no longer", place.name());
    Ok(drawn(plot::lines(&title, "microseconds", "percent", &lines)?))
}

/// The lines of `scaling`: time of a packet over the number of routes, beside what the
/// kernel's own routing adds to a send.
pub fn scale_lines(scale: &Scale) -> Vec<Line> {
    let line = |name: &str, value: &dyn Fn(&Row) -> f64| Line {
        name: name.into(),
        points: scale.rows.iter().map(|row| (f64::from(row.routes), value(row))).collect(),
    };
    let least = scale.rows.first().map_or(0.0, |row| row.kernel.random);
    vec![
        line("margay, one destination", &|row| row.margay.hot),
        line("margay, destinations drawn over all routes", &|row| row.margay.random),
        line("kernel's own routing, drawn, above its ten routes", &|row| row.kernel.random - least),
    ]
}

/// Lines over the number of routes.
pub fn scaling(lines: &[Line]) -> Result<Option<Block>, Failure> {
    Ok(drawn(plot::lines("Nanoseconds of a packet by the number of routes", "routes", "ns", lines)?))
}

/// Nothing is drawn of too few points.
fn drawn(svg: String) -> Option<Block> {
    (!svg.is_empty()).then_some(Block::Plot(svg))
}
