//! What the commands print. A closed pipe is no error.

use std::{
    fmt::Display,
    io::{ErrorKind, Write},
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::Result;
use comfy_table::{Table, presets};
use margay::api::wire::{self, Kind};
use serde::Serialize;

use crate::cli::{Format, Output};

/// Prints one line.
pub fn line(text: &str) -> Result<()> {
    match writeln!(std::io::stdout(), "{text}") {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

/// Prints a value as JSON.
pub fn json(value: &impl Serialize) -> Result<()> {
    line(&serde_json::to_string_pretty(value)?)
}

/// Prints networks.
pub fn networks(networks: &[wire::Network], format: Format) -> Result<()> {
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
    )
}

/// Prints pools.
pub fn pools(pools: &[wire::Pool], format: Format) -> Result<()> {
    let row = |p: &wire::Pool| [p.cidr.to_string(), format!("/{}", p.network_size), dash(list(&p.networks))];
    table(pools, format, ["POOL", "NETWORK SIZE", "NETWORKS"], row)
}

/// Prints what the guard blocks.
pub fn blocked(blocked: &[wire::Blocked], format: Format) -> Result<()> {
    let row =
        |b: &wire::Blocked| [b.cidr.to_string(), ago(b.since), dash(b.comment.clone().unwrap_or_default())];
    table(blocked, format, ["PREFIX", "SINCE", "COMMENT"], row)
}

/// Prints endpoints.
pub fn endpoints(endpoints: &[wire::Endpoint], format: Format) -> Result<()> {
    let row = |e: &wire::Endpoint| {
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
    )
}

/// Prints what the datapath holds.
pub fn routes(routes: &[wire::Route], format: Format) -> Result<()> {
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
    table(routes, format, ["PREFIX", "KIND", "NETWORK", "NODE", "NEXT HOP", "INTERFACE"], row)
}

/// Prints nodes.
pub fn nodes(nodes: &[wire::Node], format: Format) -> Result<()> {
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
    table(nodes, format, ["NODE", "ADDRESSES", "HEALTH", "REACHABLE", "BLOCKS"], row)
}

/// Prints counters.
pub fn counters(counters: &[wire::Counter], format: Format) -> Result<()> {
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
    table(counters, format, ["PROGRAM", "KIND", "REASON", "PACKETS", "BYTES", "MEANING"], row)
}

/// Prints how the agent stands.
pub fn status(status: &wire::Status, format: Format) -> Result<()> {
    if format.output == Output::Json {
        return json(status);
    }
    let store = &status.store;
    let in_sync = match (store.in_sync, store.away_since) {
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
    let old = if old > 0 { format!(", {old} of an earlier object") } else { String::new() };
    line(&format!("programs   on {} interfaces{old}", status.attachments.len()))?;
    for map in &status.maps {
        line(&format!("map        {:<10} {} of {}", map.name.to_lowercase(), map.used, map.capacity))?;
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
    Ok(())
}

fn table<T: Serialize, const N: usize>(
    items: &[T],
    format: Format,
    header: [&str; N],
    row: impl Fn(&T) -> [String; N],
) -> Result<()> {
    if format.output == Output::Json {
        return json(&items);
    }
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    table.set_header(header);
    for item in items {
        table.add_row(row(item));
    }
    for printed in table.lines() {
        line(printed.trim_end())?;
    }
    Ok(())
}

fn list<T: Display>(items: impl IntoIterator<Item = T>) -> String {
    items.into_iter().map(|item| item.to_string()).collect::<Vec<_>>().join(" ")
}

fn dash(text: String) -> String {
    if text.is_empty() { "-".into() } else { text }
}

/// A time as the span since then.
fn ago(since: u64) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs());
    match now.saturating_sub(since) {
        s @ 0..120 => format!("{s} s"),
        s @ 120..7200 => format!("{} min", s / 60),
        s @ 7200..172_800 => format!("{} h", s / 3600),
        s => format!("{} d", s / 86_400),
    }
}
