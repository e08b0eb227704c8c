//! A small page of nginx, asked for by wrk over connections that stay.

use super::{Client, Done, P50, P99, RATE, SECONDS, servers::HTTP};

/// Connections that wrk keeps.
const CONNECTIONS: u32 = 32;

/// Asks for the page as often as goes.
pub fn run(client: &Client<'_>) -> Result<Done, String> {
    let said = client.run(&format!(
        "wrk -t 1 -c {CONNECTIONS} -d {SECONDS}s --latency http://{}:{HTTP}/page",
        client.way.target
    ))?;
    let word = |line: &str, n: usize| {
        let found = said.lines().find(|said| said.trim_start().starts_with(line));
        found.and_then(|said| said.split_whitespace().nth(n)).map(str::to_owned)
    };
    let rate = word("Requests/sec:", 1).and_then(|n| n.parse::<f64>().ok()).ok_or("wrk measured nothing")?;
    if said.contains("Non-2xx") {
        return Err("the page is not there".into());
    }
    let mut sample = super::Sample::from([(RATE, rate)]);
    for (name, line) in [(P50, "50%"), (P99, "99%")] {
        sample.insert(
            name,
            word(line, 1).and_then(|time| microseconds(&time)).ok_or("wrk measured no latency")?,
        );
    }
    Ok((sample, rate * f64::from(SECONDS) / 1e6))
}

/// `1.25ms` and its like.
fn microseconds(text: &str) -> Option<f64> {
    let units = [("us", 1.0), ("ms", 1e3), ("s", 1e6)];
    let (number, factor) =
        units.iter().find_map(|(unit, factor)| Some((text.strip_suffix(unit)?, factor)))?;
    Some(number.parse::<f64>().ok()? * factor)
}
