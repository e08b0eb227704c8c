//! Metrics in the text format of OpenMetrics, made afresh for every reader
//! from what the kernel and the control loop say.

use std::{fmt::Write, time::Duration};

use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram, info::Info},
    registry::{Registry, Unit},
};

use crate::{
    control::{Events, Rounds, State, now},
    kernel::{
        counters::{self, Kind},
        maps::Usage,
    },
};

/// The type of what [`text`] gives.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Reason {
    program: String,
    kind: &'static str,
    reason: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Part {
    kind: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Map {
    map: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Call {
    call: String,
    result: &'static str,
}

/// How long the calls of a plugin take.
#[derive(Clone, Debug)]
pub struct Calls(Family<Call, Histogram>);

impl Default for Calls {
    fn default() -> Self {
        // From half a millisecond to the ten seconds that a call has at most.
        Self(Family::new_with_constructor(|| {
            Histogram::new([0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 2.0, 10.0])
        }))
    }
}

impl Calls {
    /// A call was answered after that time. Whatever is no call of the protocol
    /// counts as `unknown`, so that nobody can make up labels.
    pub fn observe(&self, call: &str, time: Duration, ok: bool) {
        let name = call.trim_start_matches('/');
        let is_call = ["Plugin.", "NetworkDriver.", "IpamDriver."].iter().any(|kind| name.starts_with(kind));
        let known = is_call && (ok || name.bytes().all(|b| b.is_ascii_alphabetic() || b == b'.'));
        let call = if known && name.len() < 64 { name } else { "unknown" };
        let label = Call { call: call.into(), result: if ok { "done" } else { "refused" } };
        self.0.get_or_create(&label).observe(time.as_secs_f64());
    }
}

/// What the control loop knows, for one reader.
#[derive(Debug)]
pub struct Reading {
    in_sync: bool,
    revision: i64,
    lag: u64,
    events: Events,
    pending: usize,
    endpoints: usize,
    routes: usize,
    nodes: usize,
    unhealthy: usize,
    problems: usize,
    rounds: Rounds,
    calls: Option<Calls>,
}

impl Reading {
    /// Reads the state; `problems` is how many things are wrong.
    pub fn of(state: &State, problems: usize, calls: Option<Calls>) -> Self {
        Self {
            in_sync: state.in_sync() && state.store.away.is_none(),
            revision: state.revision,
            lag: state.store.away.as_ref().map_or(0, |(_, since)| now().saturating_sub(*since)),
            events: state.events.clone(),
            pending: state.retry.pending().len(),
            endpoints: state.facts.endpoints.len(),
            routes: state.actual.as_ref().map_or(0, |actual| actual.routes.len()),
            nodes: state.snapshot.nodes.len(),
            unhealthy: state.lost.len(),
            problems,
            rounds: state.rounds.clone(),
            calls,
        }
    }
}

/// Everything as text.
pub fn text(reading: &Reading, counters: &[counters::Counter], maps: &[Usage]) -> String {
    let mut registry = Registry::with_prefix("margay");
    let version = vec![("version", crate::version().to_owned())];
    registry.register("build", "The agent's version", Info::new(version));
    packets(&mut registry, counters);
    usage(&mut registry, maps);
    for (name, help, value) in [
        (
            "store_in_sync",
            "Whether what the agent knows of the store is complete and current",
            i64::from(reading.in_sync),
        ),
        ("store_revision", "The latest revision of the store that the agent has seen", reading.revision),
        (
            "changes_pending",
            "Changes that the kernel refused and the agent tries again",
            count(reading.pending),
        ),
        ("endpoints", "Endpoints of this node", count(reading.endpoints)),
        ("routes", "Routes to blocks and addresses of other nodes", count(reading.routes)),
        ("nodes", "Nodes of the cluster", count(reading.nodes)),
        ("nodes_unhealthy", "Nodes without a running agent", count(reading.unhealthy)),
        ("problems", "Things that `margay status` calls a problem", count(reading.problems)),
    ] {
        gauge(&mut registry, name, help, value);
    }
    let lag: Gauge = Gauge::default();
    lag.set(i64::try_from(reading.lag).unwrap_or(i64::MAX));
    let help = "For how long the store has not answered; 0 while it does";
    registry.register_with_unit("store_lag", help, Unit::Seconds, lag);
    let events = Family::<Part, Counter>::default();
    for (kind, count) in reading.events.by_part() {
        events.get_or_create(&Part { kind }).inc_by(count);
    }
    registry.register("store_events", "Changes received from the store, by kind", events);
    let Rounds { applied, failed, seconds } = &reading.rounds;
    registry.register("changes_applied", "Changes applied to the kernel", applied.clone());
    registry.register("changes_failed", "Changes that the kernel refused, every attempt", failed.clone());
    let help = "Time from an event until the kernel holds its result";
    registry.register_with_unit("apply", help, Unit::Seconds, seconds.clone());
    if let Some(Calls(calls)) = &reading.calls {
        let help = "Calls of Docker's plugin protocol, and how long they take";
        registry.register_with_unit("docker_call", help, Unit::Seconds, calls.clone());
    }
    let mut text = String::new();
    if encode(&mut text, &registry).is_err() {
        // Writing to memory fails only on a bug in a label, and a reader sees
        // what is there up to it.
        let _ = writeln!(text, "# incomplete");
    }
    text
}

fn packets(registry: &mut Registry, counters: &[counters::Counter]) {
    let (packets, bytes) = (Family::<Reason, Counter>::default(), Family::<Reason, Counter>::default());
    for counter in counters {
        let kind = match counter.kind {
            Kind::Forwarded => "forwarded",
            Kind::Dropped => "dropped",
            Kind::Note => "note",
        };
        let reason = Reason { program: counter.program.clone(), kind, reason: counter.reason.clone() };
        packets.get_or_create(&reason).inc_by(counter.packets);
        bytes.get_or_create(&reason).inc_by(counter.bytes);
    }
    registry.register("packets", "Packets by program and verdict or reason; a super-packet is one", packets);
    let help = "Bytes of these packets, with the link header";
    registry.register_with_unit("traffic", help, Unit::Bytes, bytes);
}

fn usage(registry: &mut Registry, maps: &[Usage]) {
    let (entries, capacity) = (Family::<Map, Gauge>::default(), Family::<Map, Gauge>::default());
    for (name, used, most) in maps {
        let map = Map { map: name.to_lowercase() };
        entries.get_or_create(&map).set(count(*used));
        capacity.get_or_create(&map).set(i64::from(*most));
    }
    registry.register("map_entries", "Entries of an eBPF map", entries);
    registry.register("map_capacity", "The most entries that the map takes", capacity);
}

fn gauge(registry: &mut Registry, name: &str, help: &str, value: i64) {
    let gauge: Gauge = Gauge::default();
    gauge.set(value);
    registry.register(name, help, gauge);
}

fn count(n: usize) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_metric_has_its_name_unit_and_help() {
        let counter = counters::Counter {
            program: "from_workload".into(),
            kind: Kind::Dropped,
            reason: "isolated".into(),
            packets: 7,
            bytes: 700,
            text: String::new(),
        };
        let state = State::default();
        let calls = Calls::default();
        calls.observe("/NetworkDriver.Join", Duration::from_millis(3), true);
        calls.observe("/made/up", Duration::from_millis(3), false);
        let text = text(&Reading::of(&state, 2, Some(calls)), &[counter], &[("ROUTES", 5, 10)]);
        for line in [
            r#"margay_packets_total{program="from_workload",kind="dropped",reason="isolated"} 7"#,
            r#"margay_traffic_bytes_total{program="from_workload",kind="dropped",reason="isolated"} 700"#,
            r#"margay_map_entries{map="routes"} 5"#,
            r#"margay_map_capacity{map="routes"} 10"#,
            "margay_store_in_sync 0",
            "margay_store_lag_seconds 0",
            "margay_changes_failed_total 0",
            "margay_problems 2",
            "margay_apply_seconds_count 0",
            r#"margay_docker_call_seconds_count{call="NetworkDriver.Join",result="done"} 1"#,
            r#"margay_docker_call_seconds_count{call="unknown",result="refused"} 1"#,
            "# EOF",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} in\n{text}");
        }
        let helps = text.lines().filter(|line| line.starts_with("# HELP")).count();
        let types = text.lines().filter(|line| line.starts_with("# TYPE")).count();
        assert!(helps == types && helps > 15, "{text}");
    }
}
