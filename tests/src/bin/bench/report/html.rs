//! The report as one page with plots, which needs nothing but itself.

use std::fmt::Write;

use super::{
    Report, markdown,
    plot::{self, Bar, Failure, Line},
};
use crate::{
    candidate::MARGAY,
    scale::{Row, Scale},
    work::{COST, P50, P99, Place, RATE, Work},
};

const STYLE: &str = "body{font:15px/1.5 sans-serif;margin:2em auto;max-width:900px;color:#222}\
svg{max-width:100%;height:auto;display:block;margin:1em 0}pre{overflow-x:auto;background:#f6f6f4;padding:1em;\
font-size:12px}h2{margin-top:2em;border-bottom:1px solid #ccc}";

/// The whole page.
pub fn render(report: &Report, scale: Option<&Scale>) -> Result<String, Failure> {
    let mut page = format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>Margay compared</title>\
         <style>{STYLE}</style><body><h1>Margay compared</h1>\
         <p>Bars are medians of the ratio to <code>host</code> of the same round; the black line on each spans \
         the least and the most.</p>"
    );
    for place in [Place::Across, Place::Pinned, Place::Local] {
        let cases: Vec<_> = report.cases().into_iter().filter(|(at, ..)| *at == place).collect();
        if !cases.is_empty() {
            write!(page, "<h2>{}</h2>", place.name())?;
        }
        for case in cases {
            let (_, work, measure) = case;
            let bars: Vec<Bar> = report.present().filter_map(|entry| bar(report, entry.name, case)).collect();
            if [RATE, P50, COST].contains(&measure) && !bars.is_empty() {
                let better = if measure == RATE { "more is better" } else { "less is better" };
                let title =
                    format!("{}: {} to host, {better}", work.name(), measure.trim_start_matches("time "));
                page.push_str(&plot::bars(&title, &bars)?);
            }
        }
        page.push_str(&latencies(report, place)?);
    }
    page.push_str(&scale.map(scaling).transpose()?.unwrap_or_default());
    write!(page, "<h2>Figures</h2><pre>{}</pre></body></html>", escape(&markdown::render(report)))?;
    Ok(page)
}

/// Time of a packet over the number of routes, beside what the kernel's own
/// routing adds to a send.
fn scaling(scale: &Scale) -> Result<String, Failure> {
    let rows = &scale.rows;
    let Some(first) = rows.first() else { return Ok(String::new()) };
    let line = |name: &str, value: &dyn Fn(&Row) -> f64| Line {
        name: name.into(),
        points: rows.iter().map(|row| (f64::from(row.routes), value(row))).collect(),
    };
    let lines = [
        line("margay, one destination", &|row| row.margay.hot),
        line("margay, destinations drawn over all routes", &|row| row.margay.random),
        line("kernel's own routing, drawn, above its ten routes", &|row| {
            row.kernel.random - first.kernel.random
        }),
    ];
    let plot = plot::lines("Nanoseconds of a packet by the number of routes", "routes", "ns", &lines)?;
    let (kernel, processor) = (escape(&scale.kernel), escape(&scale.processor));
    Ok(format!(
        "<h2>scale</h2><p>Of <code>cargo xtask bench scale</code>, a run of its own: {kernel}, {processor}.</p>{plot}"
    ))
}

fn bar(report: &Report, name: &str, case: super::Case) -> Option<Bar> {
    let ratio = report.to_limit(name, case)?;
    let ours = name.starts_with(MARGAY);
    Some(Bar { name: name.into(), value: ratio.median, span: (ratio.min, ratio.max), ours })
}

/// The distribution of the latency of TCP requests: a line for each candidate,
/// from its percentiles over all rounds.
fn latencies(report: &Report, place: Place) -> Result<String, Failure> {
    let line = |name: &str| {
        let at = |measure| report.summary(name, (place, Work::TcpRequests, measure)).map(|s| s.median);
        let points = [("time p25", 25.0), (P50, 50.0), ("time p75", 75.0), ("time p90", 90.0), (P99, 99.0)];
        let points =
            points.into_iter().filter_map(|(measure, p)| Some((at(measure)?, p))).collect::<Vec<_>>();
        (!points.is_empty()).then(|| Line { name: name.into(), points })
    };
    let lines: Vec<Line> = report.present().filter_map(|entry| line(entry.name)).collect();
    let title = format!("TCP request/response {}: how many take no longer", place.name());
    plot::lines(&title, "microseconds", "percent", &lines)
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
