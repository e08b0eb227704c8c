//! TCP streams, by iperf3.

use serde_json::Value;

use super::{Client, Done, RATE, SECONDS, servers::IPERF};

/// What a sender writes at once. With iperf3's own 128 KiB a host with super-packets of
/// 192 KiB is busy for two thirds of the time only, since the sender waits between its
/// blocks: then the waits are compared, not what carries the stream.
const BLOCK: &str = "1M";

/// Streams to the server, or back from it.
pub fn run(client: &Client<'_>, count: u32, back: bool) -> Result<Done, String> {
    let back = if back { " -R" } else { "" };
    let said = client.run(&format!(
        "iperf3 -J -c {} -p {IPERF} -t {SECONDS} -l {BLOCK} -P {count}{back}",
        client.way.target
    ))?;
    let said: Value = serde_json::from_str(&said).map_err(|error| format!("iperf3: {error}"))?;
    let received = &said["end"]["sum_received"];
    let field = |name: &str| received[name].as_f64().filter(|n| *n > 0.0).ok_or("iperf3 received nothing");
    Ok(([(RATE, field("bits_per_second")? / 1e9)].into(), field("bytes")? / 1e9))
}
