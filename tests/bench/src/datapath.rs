//! What a packet costs in each program, by test run.

use std::time::Instant;

use margay::kernel::datapath::Extras;
use margay_tests::{
    bpf::{Node, stay},
    kinds::{self, Kind},
};

use crate::stats::median;

/// Rounds over all kinds that one node can be sent: a processor that is slow for a while is
/// so for all of them. The last kind has a node and rounds of its own.
const ROUNDS: usize = 400;
/// Runs of one round. The repeats share one packet, which loses a hop each time.
const REPEATS: u32 = 200;

/// Times every kind of packet, and tells what the verifier had to do.
pub fn datapath() {
    println!(
        "\nTime of a packet by BPF_PROG_TEST_RUN, median of {ROUNDS} rounds over all kinds (and least), ns."
    );
    println!(
        "Repeated: {REPEATS} runs in one call, of what can pass again. Single: one run in a call, by the"
    );
    println!("kernel's statistics of programs, which are in it, as are caches that the call has cooled.\n");
    println!("| program | packet | look-ups | repeated: IPv4 | IPv6 | single: IPv4 | IPv6 |");
    println!("|---|---|--:|--:|--:|--:|--:|");
    stay();
    let lookups = lookups();
    let mut verified = None;
    for (first, hold) in [(false, None), (true, Some(0))] {
        let mut node = Node::with(Extras { hold, ..Extras::default() });
        kinds::prepare(&mut node);
        let kinds = kinds::all().into_iter().zip(&lookups).filter(|(kind, _)| kind.first == first);
        let mut rows: Vec<Row> = kinds.map(|(kind, lookups)| Row::new(kind, *lookups)).collect();
        (0..ROUNDS).for_each(|_| round(&node, &mut rows));
        rows.iter().for_each(Row::tell);
        verified.get_or_insert_with(|| node.verified());
    }
    println!("\nverified instructions and time to load");
    for (name, verified) in verified.into_iter().flatten() {
        println!("  {name:13} {verified:>7}");
    }
    let start = Instant::now();
    drop(Node::new());
    println!("  all, with maps and interfaces of a test node: {:.0} ms", start.elapsed().as_secs_f64() * 1e3);
}

/// A kind of packet and what it took, nanoseconds, of IPv4 and IPv6.
struct Row {
    kind: Kind,
    lookups: u64,
    repeated: [Vec<f64>; 2],
    single: [Vec<f64>; 2],
}

impl Row {
    fn new(kind: Kind, lookups: u64) -> Self {
        Self { kind, lookups, repeated: Default::default(), single: Default::default() }
    }

    fn tell(&self) {
        let columns = self.repeated.iter().chain(&self.single).map(|times| cell(times));
        println!(
            "| {} | {} | {} | {} |",
            self.kind.program.label(),
            self.kind.what,
            self.lookups,
            columns.collect::<Vec<_>>().join(" | ")
        );
    }
}

fn cell(times: &[f64]) -> String {
    let least = times.iter().copied().reduce(f64::min);
    least.map_or("-".into(), |least| format!("{:.0} ({least:.0})", median(times.to_vec())))
}

/// Times every kind once.
fn round(node: &Node, rows: &mut [Row]) {
    let of_both = |row: &mut Row, time: fn(&Node, &Kind, usize) -> f64, single: bool| {
        let to = if single { &mut row.single } else { &mut row.repeated };
        to.iter_mut().enumerate().for_each(|(family, times)| times.push(time(node, &row.kind, family)));
    };
    rows.iter_mut().filter(|row| row.kind.repeats).for_each(|row| of_both(row, repeated, false));
    let _statistics = aya::sys::enable_stats(aya::sys::Stats::RunTime).expect("Linux 5.8");
    rows.iter_mut().for_each(|row| of_both(row, single, true));
}

/// The look-ups of each kind, by programs that tally them.
fn lookups() -> Vec<u64> {
    let mut node = Node::with(Extras { tally: true, ..Extras::default() });
    kinds::prepare(&mut node);
    kinds::all().iter().map(|kind| kind.pass(&mut node, 0)).collect()
}

fn repeated(node: &Node, kind: &Kind, family: usize) -> f64 {
    node.nanoseconds(kind.program, &kind.frames[family].bytes(), node.ifindex(kind.interface), REPEATS) as f64
}

fn single(node: &Node, kind: &Kind, family: usize) -> f64 {
    let (bytes, ifindex) = (kind.frames[family].bytes(), node.ifindex(kind.interface));
    let before = node.run_time(kind.program);
    for _ in 0..REPEATS {
        node.nanoseconds(kind.program, &bytes, ifindex, 1);
    }
    let after = node.run_time(kind.program);
    (after.0 - before.0) / (after.1 - before.1)
}
