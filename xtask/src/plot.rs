//! `cargo xtask plot`: the plot of docs/performance.md, from the tables of that file.

use std::{fmt::Write, fs};

use anyhow::{Context, Result, bail};

use crate::run::root;

const TABLES: &str = "docs/performance.md";
const PLOT: &str = "docs/performance.svg";

/// The bars of every panel: as the tables name them, and as the plot does.
const BARS: [(&str, &str); 5] = [
    ("host", "host"),
    ("macvlan", "macvlan"),
    ("margay", "Margay"),
    ("docker bridge + ports", "Docker bridge, ports"),
    ("docker overlay", "Docker overlay"),
];

/// Title, heading of the table, heading of the column.
const PANELS: [(&str, &str, &str); 5] = [
    ("One TCP stream (more is better)", STREAMS, "one stream"),
    ("Latency, TCP p50 (less is better)", SMALL, "TCP p50"),
    ("Packets, UDP 64 B (more is better)", SMALL, "UDP 64 B"),
    ("Connections (more is better)", SMALL, "connections/s"),
    ("CPU per gigabyte (less is better)", STREAMS, "CPU/GB"),
];
const STREAMS: &str = "### Streams across hosts";
const SMALL: &str = "### Requests, packets and connections across hosts, unpinned";

/// Pixels: width of the plot, left end of the bars, height of a bar with its gap and of a panel.
const WIDTH: f64 = 760.0;
const LEFT: f64 = 160.0;
const BAR: f64 = 18.0;
const PANEL: f64 = 34.0 + BAR * BARS.len() as f64;
/// How many pixels a ratio of 1 is long, in panels whose figures all stay below 2, and in others.
const SCALES: [f64; 2] = [260.0, 125.0];

/// Colours that stand out on white and on black; text and lines follow the reader's theme.
const STYLE: &str = "text{font:13px sans-serif;fill:#24292f}.t{font-weight:bold}.v{font-size:12px}\
.l{stroke:#24292f;fill:none}.o{fill:#8c959f}.m{fill:#2da44e}\
@media(prefers-color-scheme:dark){text{fill:#e6edf3}.l{stroke:#e6edf3}}";

/// Writes the plot.
pub fn run() -> Result<()> {
    let text = fs::read_to_string(root().join(TABLES)).context(TABLES)?;
    fs::write(root().join(PLOT), draw(&text)?).context(PLOT)?;
    println!("plot: {PLOT}");
    Ok(())
}

/// Whether the committed plot shows the figures of the tables.
pub fn check() -> Result<()> {
    let text = fs::read_to_string(root().join(TABLES)).context(TABLES)?;
    if fs::read_to_string(root().join(PLOT)).context(PLOT)? != draw(&text)? {
        bail!("{PLOT} does not show the figures of {TABLES}: cargo xtask plot");
    }
    Ok(())
}

/// The median, the least and the most.
type Span = [f64; 3];

fn draw(text: &str) -> Result<String> {
    let height = PANEL * PANELS.len() as f64;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" \
         viewBox=\"0 0 {WIDTH} {height}\">\n<title>Ratios to the bare host: median, least and most \
         of eight rounds</title>\n<style>{STYLE}</style>\n"
    );
    for (number, (title, table, column)) in PANELS.into_iter().enumerate() {
        let spans = BARS.map(|(name, _)| span(text, table, column, name));
        let spans = spans.into_iter().collect::<Result<Vec<Span>>>()?;
        panel(&mut svg, PANEL * number as f64, title, &spans)?;
    }
    svg.push_str("</svg>\n");
    Ok(svg)
}

fn panel(svg: &mut String, top: f64, title: &str, spans: &[Span]) -> Result<()> {
    let scale = SCALES[usize::from(spans.iter().any(|[.., most]| *most > 2.0))];
    writeln!(svg, "<text class=\"t\" x=\"4\" y=\"{}\">{title}, host = 1</text>", top + 16.0)?;
    for (number, (span, (name, label))) in spans.iter().zip(BARS).enumerate() {
        let class = if name == "margay" { "m" } else { "o" };
        bar(svg, top + 24.0 + BAR * number as f64, scale, span, (label, class))?;
    }
    let (x, end) = (LEFT + scale, top + 24.0 + BAR * BARS.len() as f64);
    writeln!(svg, "<path class=\"l\" stroke-dasharray=\"2 3\" d=\"M{x} {}V{end}\"/>", top + 22.0)?;
    Ok(())
}

/// A bar as long as the median, with a line from the least to the most.
fn bar(svg: &mut String, y: f64, scale: f64, [mid, least, most]: &Span, named: (&str, &str)) -> Result<()> {
    let (label, class) = named;
    let (text, line, length) = (y + 12.0, y + 8.0, (mid * scale).round());
    let [least, most] = [least, most].map(|ratio| (LEFT + ratio * scale).round());
    writeln!(svg, "<text x=\"4\" y=\"{text}\">{label}</text>")?;
    writeln!(
        svg,
        "<rect class=\"{class}\" x=\"{LEFT}\" y=\"{}\" width=\"{length}\" height=\"12\"/>",
        y + 2.0
    )?;
    if least < most {
        writeln!(svg, "<path class=\"l\" d=\"M{least} {line}H{most}\"/>")?;
    }
    let right = most.max(LEFT + length) + 6.0;
    writeln!(svg, "<text class=\"v\" x=\"{right}\" y=\"{text}\">{mid:.2}</text>")?;
    Ok(())
}

/// The figures of a row and a column, written like `0.79 (0.69 to 1.10)`.
fn span(text: &str, table: &str, column: &str, row: &str) -> Result<Span> {
    let mut rows = text.lines().skip_while(|line| *line != table).filter(|line| line.starts_with('|'));
    let cells = |line: &str| line.split('|').map(|cell| cell.trim().to_owned()).collect::<Vec<_>>();
    let heads = rows.next().map(cells).with_context(|| format!("no table {table}"))?;
    let at = heads.iter().position(|head| head == column);
    let line = rows.map(cells).find(|cells| cells.get(1).is_some_and(|name| name == row));
    let cell = at.zip(line).and_then(|(at, line)| line.get(at).cloned()).unwrap_or_default();
    let numbers = cell.split(['(', ')', ' ']).filter_map(|word| word.parse().ok()).collect::<Vec<f64>>();
    numbers.try_into().ok().with_context(|| format!("{table}: no figures of {row}, {column}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_found_by_table_row_and_column() {
        let text = "| | TCP p50 |\n| host | 7 (7 to 7) |\n### Streams across hosts\n\n\
                    | | pinned | one stream |\n|---|--:|--:|\n| host, absolute | 1 | 37.9 |\n\
                    | host | - | 1.00 (0.50 to 2.00) |\n";
        assert_eq!(span(text, STREAMS, "one stream", "host").expect("is there"), [1.0, 0.5, 2.0]);
        for (column, row) in [("two streams", "host"), ("one stream", "tinc"), ("pinned", "host")] {
            assert!(span(text, STREAMS, column, row).is_err(), "{column} {row}");
        }
    }
}
