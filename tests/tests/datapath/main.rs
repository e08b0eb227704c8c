//! One packet's life per test: verdict, rewritten bytes, and the whole delta
//! of the counters, for every kind of packet and both families.

mod attacks;
mod deliver;
mod errors;
mod flows;
mod host;
mod instructions;
mod isolation;
mod kinds;
mod load;
mod neighbours;
mod network;
mod sender;
mod size;
mod spoof;
mod xdp;

use margay::kernel::datapath::Extras;
use margay_tests::{
    bpf::{DROP, Node, Outcome, PASS, REDIRECT, stay},
    kinds::{all, prepare},
    sent,
};

/// Nanoseconds for which XDP remembers flows in tests that rest on it.
const MINUTE: u64 = 60_000_000_000;

/// Far below the kernel's limit of a million instructions, so that programs still load with
/// another compiler or kernel, and further stages have room.
const VERIFIED: u32 = 80_000;

#[test]
fn programs_verify_within_the_instruction_budget() {
    for (program, verified) in Node::new().verified() {
        println!("{program}: {verified} instructions verified");
        assert!(verified < VERIFIED, "{program}: {verified}");
    }
}

/// The look-ups of a packet are bounded and known for any content of the maps.
#[test]
fn each_packet_kind_costs_its_documented_look_ups() {
    stay();
    let mut node = Node::with(Extras { tally: true, hold: Some(MINUTE) });
    prepare(&mut node);
    for kind in all() {
        for family in 0..2 {
            let took = kind.pass(&mut node, family);
            assert_eq!(took, kind.lookups, "{} {}, family {family}", kind.program.label(), kind.what);
        }
    }
}

/// The packet was dropped for this reason, counted once, and caused no error.
#[track_caller]
fn dropped(out: &Outcome, program: &str, reason: &str) {
    assert_eq!(out.counted, [format!("{program} {reason}")], "{out:?}");
    assert_eq!((out.action, &*out.sent), (DROP, ""), "{out:?}");
}

/// The packet was dropped for this reason and became the error about it.
#[track_caller]
fn explained(out: &Outcome, program: &str, reason: &str) {
    let mut expected = vec![format!("{program} {reason}"), format!("{program} icmp_sent")];
    expected.sort();
    assert_eq!(out.counted, expected, "{out:?}");
    assert_eq!((out.action, &out.sent), (REDIRECT, &sent::back(&out.from)), "{out:?}");
}

/// The packet went to its destination.
#[track_caller]
fn forwarded(out: &Outcome, program: &str, verdict: &str) {
    let dst = sent::destination(&out.frame);
    let expected =
        dst.map_or_else(|| sent::back(&out.from), |dst| sent::expected(program, verdict, &out.from, dst));
    forwarded_to(out, program, verdict, &expected);
}

/// The packet went to `sent`.
#[track_caller]
fn forwarded_to(out: &Outcome, program: &str, verdict: &str, sent: &str) {
    assert_eq!(out.counted, [format!("{program} {verdict}")], "{out:?}");
    assert_eq!((out.action, &*out.sent), (REDIRECT, sent), "{out:?}");
}

/// The packet passed as foreign: not a byte of it changed.
#[track_caller]
fn passed(out: &Outcome, program: &str, frame: &[u8]) {
    assert_eq!(out.counted, [format!("{program} passed")], "{out:?}");
    assert_eq!((out.action, &*out.sent), (PASS, ""), "{out:?}");
    assert_eq!(out.frame, frame);
}
