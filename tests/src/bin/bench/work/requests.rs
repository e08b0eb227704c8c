//! One message after the other, or as many as go, by sockperf.

use super::{
    Client, Done, P50, P99, RATE, SECONDS, SENT,
    servers::{TCP_ECHO, UDP_ECHO},
};

/// Request and response, the next request when the response is there.
pub fn run(client: &Client<'_>, tcp: bool) -> Result<Done, String> {
    let (port, tcp) = if tcp { (TCP_ECHO, " --tcp") } else { (UDP_ECHO, "") };
    let target = client.way.target;
    let said =
        client.run(&format!("sockperf ping-pong -i {target} -p {port} -t {SECONDS} --full-rtt{tcp}"))?;
    let names = [
        ("time p25", "25.000"),
        (P50, "50.000"),
        ("time p75", "75.000"),
        ("time p90", "90.000"),
        (P99, "99.000"),
    ];
    let times = names.map(|(name, p)| (name, after(&said, &format!("percentile {p} ="))));
    let sent = after(&said, "ReceivedMessages=").ok_or("sockperf received nothing")?;
    let mut sample = super::Sample::from([(RATE, sent / f64::from(SECONDS))]);
    for (name, time) in times {
        sample.insert(name, time.ok_or("sockperf measured no percentiles")?);
    }
    Ok((sample, sent / 1e6))
}

/// UDP messages of 64 bytes, as many as go; those count that the server's
/// socket was given.
pub fn packets(client: &Client<'_>) -> Result<Done, String> {
    let before = delivered(client)?;
    let said = client
        .run(&format!("sockperf throughput -i {} -p {UDP_ECHO} -m 64 -t {SECONDS}", client.way.target))?;
    let count = delivered(client)? - before;
    let sent = after(&said, "Message Rate is").ok_or("sockperf sent nothing")?;
    if count <= 0.0 {
        return Err("nothing was delivered".into());
    }
    Ok(([(RATE, count / f64::from(SECONDS)), (SENT, sent)].into(), count / 1e6))
}

/// UDP packets that sockets of the server's namespace were given so far.
fn delivered(client: &Client<'_>) -> Result<f64, String> {
    let said = client.way.server.run("cat /proc/net/snmp").out;
    let mut lines = said.lines().filter(|line| line.starts_with("Udp:")).map(str::split_whitespace);
    let (Some(names), Some(values)) = (lines.next(), lines.next()) else {
        return Err("no counters of UDP".into());
    };
    let found = names.zip(values).find(|(name, _)| *name == "InDatagrams");
    found.and_then(|(_, value)| value.parse().ok()).ok_or_else(|| "no counter of datagrams".into())
}

/// The number behind a text.
fn after(said: &str, text: &str) -> Option<f64> {
    let rest = &said[said.find(text)? + text.len()..];
    rest.trim_start().split(|c: char| !c.is_ascii_digit() && c != '.').next()?.parse().ok()
}
