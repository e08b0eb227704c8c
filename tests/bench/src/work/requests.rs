//! What is asked for and answered, one after the other, and floods of datagrams.

use clap::ValueEnum;

use super::{
    ASKING, Client, Done, P50, P99, RATE, SENT, Sample,
    load::{Kind, SHARES},
};

/// Names of the times that a client tells.
const TIMES: [&str; SHARES.len()] = ["time p25", P50, "time p75", "time p90", P99];

/// Has the client ask for a while.
pub fn run(client: &Client<'_>, kind: Kind) -> Result<Done, String> {
    let [count, seconds, times @ ..] = ask::<{ 2 + SHARES.len() }>(client, kind)?;
    if count <= 0.0 {
        return Err("nothing was answered".into());
    }
    let mut sample = Sample::from([(RATE, count / seconds)]);
    sample.extend(TIMES.into_iter().zip(times));
    Ok((sample, count / 1e6))
}

/// UDP messages of 64 bytes, as many as go; those count that the server's
/// socket was given.
pub fn packets(client: &Client<'_>) -> Result<Done, String> {
    let before = delivered(client)?;
    let [sent, seconds] = ask(client, Kind::Flood)?;
    let count = delivered(client)? - before;
    if count <= 0.0 {
        return Err("nothing was delivered".into());
    }
    Ok(([(RATE, count / seconds), (SENT, sent / seconds)].into(), count / 1e6))
}

/// The numbers that a client prints.
fn ask<const N: usize>(client: &Client<'_>, kind: Kind) -> Result<[f64; N], String> {
    let own = std::env::current_exe().map_err(|error| error.to_string())?;
    let value = kind.to_possible_value().ok_or("no such kind")?;
    let (own, kind, target) = (own.display(), value.get_name(), client.way.target);
    let said = client.run(&format!("{own} load ask {kind} {target} {}", ASKING.as_millis()))?;
    let numbers: Vec<f64> = said.split_whitespace().filter_map(|n| n.parse().ok()).collect();
    numbers.try_into().map_err(|_| format!("it said {said:?}"))
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
