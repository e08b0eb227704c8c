//! TCP streams, by iperf3.

use serde_json::Value;

use super::{Client, Done, RATE, SECONDS, servers::IPERF};

/// Streams to the server, or back from it.
pub fn run(client: &Client<'_>, count: u32, back: bool) -> Result<Done, String> {
    let back = if back { " -R" } else { "" };
    let said = client
        .run(&format!("iperf3 -J -c {} -p {IPERF} -t {SECONDS} -P {count}{back}", client.way.target))?;
    let said: Value = serde_json::from_str(&said).map_err(|error| format!("iperf3: {error}"))?;
    let received = &said["end"]["sum_received"];
    let field = |name: &str| received[name].as_f64().filter(|n| *n > 0.0).ok_or("iperf3 received nothing");
    Ok(([(RATE, field("bits_per_second")? / 1e9)].into(), field("bytes")? / 1e9))
}
