//! What a packet costs in each program, by test run.

use std::time::Instant;

use margay::kernel::datapath::Extras;
use margay_tests::{
    bpf::{Node, stay},
    kinds::{self, Kind},
};

use crate::stats::median;

/// Rounds, whose median is told.
const ROUNDS: usize = 200;
/// Runs of one round. The repeats share one packet, which loses a hop each time.
const REPEATS: u32 = 200;

/// Times every kind of packet, and tells what the verifier had to do.
pub fn datapath() {
    println!("\nTime of a packet by BPF_PROG_TEST_RUN, median of {ROUNDS} rounds, ns.");
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
        kinds.for_each(|(kind, lookups)| row(&node, &kind, *lookups));
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

/// Times one kind of packet.
fn row(node: &Node, kind: &Kind, lookups: u64) {
    let repeated = [0, 1].map(|family| match kind.repeats {
        true => format!("{:.0}", repeated(node, kind, family)),
        false => "-".into(),
    });
    let single = [0, 1].map(|family| format!("{:.0}", single(node, kind, family)));
    println!(
        "| {} | {} | {lookups} | {} | {} |",
        kind.program.label(),
        kind.what,
        repeated.join(" | "),
        single.join(" | ")
    );
}

/// The look-ups of each kind, by programs that tally them.
fn lookups() -> Vec<u64> {
    let mut node = Node::with(Extras { tally: true, ..Extras::default() });
    kinds::prepare(&mut node);
    kinds::all().iter().map(|kind| kind.pass(&mut node, 0)).collect()
}

fn repeated(node: &Node, kind: &Kind, family: usize) -> f64 {
    let (bytes, ifindex) = (kind.frames[family].bytes(), node.ifindex(kind.interface));
    let rounds = (0..ROUNDS).map(|_| node.nanoseconds(kind.program, &bytes, ifindex, REPEATS) as f64);
    median(rounds.collect())
}

fn single(node: &Node, kind: &Kind, family: usize) -> f64 {
    let (bytes, ifindex) = (kind.frames[family].bytes(), node.ifindex(kind.interface));
    let _statistics = aya::sys::enable_stats(aya::sys::Stats::RunTime).expect("Linux 5.8");
    let rounds = (0..ROUNDS).map(|_| {
        let before = node.run_time(kind.program);
        for _ in 0..REPEATS {
            node.nanoseconds(kind.program, &bytes, ifindex, 1);
        }
        let after = node.run_time(kind.program);
        (after.0 - before.0) / (after.1 - before.1)
    });
    median(rounds.collect())
}
