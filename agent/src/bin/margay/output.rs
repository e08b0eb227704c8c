//! What the commands print, and the only place that prints: whatever others wrote
//! is escaped here. A closed pipe is no error.

use std::{
    fmt::Display,
    io::{ErrorKind, Write},
    net::IpAddr,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::Result;
use comfy_table::{Table, presets};
use margay::{
    api::wire::{self, Kind},
    words::{self, plain, plain_json},
};
use serde::Serialize;
use serde_json::Value;

use crate::cli::{Format, Output};

/// Fields that a listing has besides, in each of its objects.
pub type Extra<'a> = &'a [(&'static str, Value)];

/// Prints one line.
pub fn line(text: &str) -> Result<()> {
    print(&plain(text))
}

/// Prints several lines.
pub fn lines(text: &str) -> Result<()> {
    text.lines().try_for_each(line)
}

/// Prints a value as JSON.
pub fn json(value: &impl Serialize) -> Result<()> {
    print(&plain_json(&serde_json::to_string_pretty(value)?))
}

fn print(safe: &str) -> Result<()> {
    match writeln!(std::io::stdout(), "{safe}") {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

/// Says something besides what was asked for, on standard error.
pub fn notice(text: &str) {
    // Who reads it has gone, or never was.
    drop(writeln!(std::io::stderr(), "margay: {}", plain(text)));
}

/// Says why a command failed.
pub fn failure(error: &anyhow::Error) {
    notice(&words::of(error));
}

/// Prints networks.
pub fn networks(networks: &[wire::Network], format: Format, extra: Extra<'_>) -> Result<()> {
    let row = |n: &wire::Network| {
        let subnets = n.subnets.iter().map(|s| s.cidr);
        let gateways = n.subnets.iter().map(|s| s.gateway);
        let options = [(n.internal, "internal"), (n.routable, "routable")];
        let options = options.iter().filter(|(on, _)| *on).map(|(_, name)| *name);
        [
            n.name.clone(),
            list(subnets),
            list(gateways),
            n.mtu.map_or_else(|| "uplink's".into(), |mtu| mtu.to_string()),
            dash(list(options)),
            n.blocks.len().to_string(),
            n.local_endpoints.to_string(),
        ]
    };
    table(
        networks,
        format,
        ["NETWORK", "SUBNETS", "GATEWAYS", "MTU", "OPTIONS", "BLOCKS", "ENDPOINTS HERE"],
        row,
        extra,
    )
}

/// Prints pools.
pub fn pools(pools: &[wire::Pool], format: Format, extra: Extra<'_>) -> Result<()> {
    let row =
        |p: &wire::Pool| [p.cidr.to_string(), format!("/{}", p.network_prefix), dash(list(&p.networks))];
    table(pools, format, ["POOL", "NETWORK PREFIX", "NETWORKS"], row, extra)
}

/// Prints the deny list.
pub fn denied(denied: &[wire::Denied], format: Format, extra: Extra<'_>) -> Result<()> {
    let row =
        |b: &wire::Denied| [b.cidr.to_string(), ago(b.since), dash(b.comment.clone().unwrap_or_default())];
    table(denied, format, ["PREFIX", "SINCE", "COMMENT"], row, extra)
}

/// Prints endpoints.
pub fn endpoints(endpoints: &[wire::EndpointView], format: Format, extra: Extra<'_>) -> Result<()> {
    let row = |e: &wire::EndpointView| {
        [
            e.id.clone(),
            dash(e.name.clone().unwrap_or_default()),
            e.network.clone(),
            list(&e.addresses),
            e.mac.clone(),
            e.ifname.clone(),
            e.netns.display().to_string(),
        ]
    };
    table(
        endpoints,
        format,
        ["ENDPOINT", "NAME", "NETWORK", "ADDRESSES", "MAC", "INTERFACE", "NAMESPACE"],
        row,
        extra,
    )
}

/// Prints what the datapath holds.
pub fn routes(routes: &[wire::Route], format: Format, extra: Extra<'_>) -> Result<()> {
    let row = |r: &wire::Route| {
        [
            r.prefix.to_string(),
            r.kind.clone(),
            dash(r.network.clone().unwrap_or_default()),
            dash(r.node.clone().unwrap_or_default()),
            dash(r.next_hop.map(|hop| hop.to_string()).unwrap_or_default()),
            dash(r.interface.clone().unwrap_or_default()),
        ]
    };
    table(routes, format, ["PREFIX", "KIND", "NETWORK", "NODE", "NEXT HOP", "INTERFACE"], row, extra)
}

/// Prints who has addresses in the cluster.
pub fn holders(holders: &[wire::Holder], format: Format) -> Result<()> {
    let row = |h: &wire::Holder| {
        [
            list(&h.addresses),
            dash(h.name.clone().unwrap_or_default()),
            h.node.clone(),
            h.network.clone(),
            h.id.clone(),
        ]
    };
    table(holders, format, ["ADDRESSES", "NAME", "NODE", "NETWORK", "ENDPOINT"], row, &[])
}

/// Prints where a packet goes.
pub fn way(way: &wire::Way, format: Format) -> Result<()> {
    if format.output == Output::Json {
        return json(way);
    }
    let from = way.from.as_ref().map_or("this host", String::as_str);
    let verb = if way.dropped { "dropped: " } else { "" };
    line(&format!("to         {} from {from}", way.to))?;
    line(&format!("verdict    {verb}{}", way.verdict))?;
    line(&format!("why        {}", way.why))?;
    let text = |value: &Option<IpAddr>| value.map(|addr| addr.to_string());
    let found = [
        ("network", way.network.clone()),
        ("node", way.node.clone()),
        ("prefix", way.prefix.map(|prefix| prefix.to_string())),
        ("next hop", text(&way.next_hop)),
        ("interface", way.interface.clone()),
        ("endpoint", way.endpoint.clone()),
    ];
    let there = found.into_iter().filter_map(|(name, value)| Some((name, value?)));
    there.into_iter().try_for_each(|(name, value)| line(&format!("{name:<10} {value}")))
}

/// Prints nodes.
pub fn nodes(nodes: &[wire::Node], format: Format, extra: Extra<'_>) -> Result<()> {
    let row = |n: &wire::Node| {
        let health = if n.healthy { "healthy" } else { "unhealthy" };
        let reachable = match n.reachable {
            None => "this node",
            Some(true) => "on-link",
            Some(false) => "not on-link",
        };
        let since = n.since.map(|since| format!(" for {}", ago(since))).unwrap_or_default();
        [
            n.name.clone(),
            list(&n.addresses),
            format!("{health}{since}"),
            reachable.into(),
            n.blocks.to_string(),
        ]
    };
    table(nodes, format, ["NODE", "ADDRESSES", "HEALTH", "REACHABLE", "BLOCKS"], row, extra)
}

/// Prints counters.
pub fn counters(counters: &[wire::Counter], format: Format, extra: Extra<'_>) -> Result<()> {
    let row = |c: &wire::Counter| {
        let kind = match c.kind {
            Kind::Forwarded => "forwarded",
            Kind::Dropped => "dropped",
            Kind::Note => "note",
        };
        [
            c.program.clone(),
            kind.into(),
            c.reason.clone(),
            c.packets.to_string(),
            c.bytes.to_string(),
            c.text.clone(),
        ]
    };
    table(counters, format, ["PROGRAM", "KIND", "REASON", "PACKETS", "BYTES", "MEANING"], row, extra)
}

/// Prints how the agent stands.
pub fn status(status: &wire::Status, format: Format, extra: Extra<'_>) -> Result<()> {
    if format.output == Output::Json {
        return json(&with(status, extra)?);
    }
    let store = &status.store;
    let in_sync = match (store.in_sync, store.away_since) {
        (true, _) if store.unwritable_since.is_some() => {
            let since = store.unwritable_since.unwrap_or_default();
            format!(
                "{}, read up to revision {}, takes no writes for {}",
                store.at,
                store.revision,
                ago(since)
            )
        }
        (true, _) => format!("{}, in sync at revision {}", store.at, store.revision),
        (false, Some(since)) => format!("{}, away for {}", store.at, ago(since)),
        (false, None) => format!("{}, not in sync", store.at),
    };
    line(&format!("node       {} ({}), margay {}", status.node, list(&status.addresses), status.version))?;
    line(&format!(
        "uplink     {}, programs attached by {}, XDP {}; new containers get a {}",
        status.uplink, status.tc_mode, status.xdp, status.container_device
    ))?;
    line(&format!("store      {in_sync}"))?;
    line(&format!("endpoints  {}", status.endpoints))?;
    let old = status.attachments.iter().filter(|a| !a.current).count();
    let old = if old > 0 { format!(", {old} from an earlier version") } else { String::new() };
    line(&format!("programs   on {} interfaces{old}", status.attachments.len()))?;
    for map in &status.maps {
        line(&format!("map        {:<14} {} of {}", map.name.to_lowercase(), map.used, map.capacity))?;
    }
    let world = &status.world;
    if !world.masqueraded.is_empty() {
        line(&format!("world      {} masqueraded by nftables table inet margay", list(&world.masqueraded)))?;
    }
    let switches = world.switches.iter().map(|(path, value)| format!("{path}={value}"));
    let switches = list(switches);
    if !switches.is_empty() {
        line(&format!("switched   {switches}"))?;
    }
    if !world.exceptions.is_empty() {
        line(&format!("exceptions {}", world.exceptions.join(", ")))?;
    }
    for problem in &status.problems {
        line(&format!("PROBLEM    {} -> {}", problem.problem, problem.mend))?;
    }
    for notice in &status.notices {
        line(&format!("notice     {} -> {}", notice.problem, notice.mend))?;
    }
    Ok(())
}

fn table<T: Serialize, const N: usize>(
    items: &[T],
    format: Format,
    header: [&str; N],
    row: impl Fn(&T) -> [String; N],
    extra: Extra<'_>,
) -> Result<()> {
    if format.output == Output::Json {
        let items = items.iter().map(|item| with(item, extra));
        return json(&items.collect::<Result<Vec<_>>>()?);
    }
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    table.set_header(header);
    for item in items {
        table.add_row(row(item).map(|cell| plain(&cell).into_owned()));
    }
    for printed in table.lines() {
        line(printed.trim_end())?;
    }
    Ok(())
}

/// An object with more fields.
fn with(item: &impl Serialize, extra: Extra<'_>) -> Result<Value> {
    let mut value = serde_json::to_value(item)?;
    if let Value::Object(fields) = &mut value {
        fields.extend(extra.iter().map(|(name, value)| ((*name).to_owned(), value.clone())));
    }
    Ok(value)
}

fn list<T: Display>(items: impl IntoIterator<Item = T>) -> String {
    items.into_iter().map(|item| item.to_string()).collect::<Vec<_>>().join(" ")
}

fn dash(text: String) -> String {
    if text.is_empty() { "-".into() } else { text }
}

/// A time of day, UTC, and how long ago that was.
pub fn time(since: u64) -> String {
    let then = humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_secs(since)).to_string();
    // Of 2026-11-29T00:34:28Z.
    format!("{} UTC ({} ago)", then.get(11..19).unwrap_or(&then), ago(since))
}

/// A time as the span since then.
pub fn ago(since: u64) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs());
    match now.saturating_sub(since) {
        s @ 0..120 => format!("{s} s"),
        s @ 120..7200 => format!("{} min", s / 60),
        s @ 7200..172_800 => format!("{} h", s / 3600),
        s => format!("{} d", s / 86_400),
    }
}
