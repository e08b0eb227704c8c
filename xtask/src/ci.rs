//! `cargo xtask ci`: what every change has to pass, and with `--full` what every night does.

use std::collections::BTreeMap;

use anyhow::Result;
use clap::Args;

use crate::{
    engine::Debian,
    lint,
    setup::{self, Need},
    stages::Stages,
    test::{self, Options as Tests, Suite},
};

/// How much.
#[derive(Args)]
pub struct Options {
    /// Also what is slow and rare: whole suites on other kernels and on newer engines, the
    /// bench's own test
    #[arg(long)]
    full: bool,
}

/// On an older kernel: that every program loads, attaches, and does with every kind of
/// packet what it has to.
const OLDER: [&str; 3] = ["programs_verify_within", "and_detaches", "each_packet_kind"];
/// What this kernel may lack and a newer one has: netkits, which carry packets, and none under
/// another's name.
const NEWER: [&str; 1] = ["spoofed_frames_behind_a_netkit"];
/// All of that, and a card that loses by XDP.
const NEWER_ALL: [&str; 2] = ["netkit", "card_that_loses_offloads"];
/// What differs for containers behind netkits: sizes, the way out, several networks, Docker.
const BEHIND: [&str; 4] = ["mtu::", "containers_reach_the_world", "sandbox::", "networks_come_and_go"];
/// On a newer engine: networks on every host, containers, addresses, restarts.
const SHORT: [&str; 4] = ["networks_come_and_go", "containers::", "when_dockerd_restarts", "live_restore"];

/// Runs every stage, and prints how long each took.
pub fn run(options: &Options) -> Result<()> {
    let mut stages = Stages::begin();
    let mut built = BTreeMap::new();
    let ready = stages.stage("set-up", |_| setup::run(Need::Commit))
        && stages.stage("build", |_| test::build_for_upgrades(&mut built));
    if !ready {
        return stages.end();
    }
    stages.stage("lint", |_| lint::run());
    Tests::default().stages(&built, &mut stages);
    for tests in if options.full { full() } else { short() } {
        tests.stages(&built, &mut stages);
    }
    stages.end()
}

/// Beside the suites on this kernel and engine, what says that others have not been lost.
fn short() -> Vec<Tests> {
    vec![
        Tests::in_machine("6.1", &[Suite::Datapath], &OLDER),
        Tests::in_machine("6.12", &[Suite::Node], &NEWER),
        Tests::on_engine(Debian::Trixie, &SHORT),
    ]
}

/// The same, whole.
fn full() -> Vec<Tests> {
    vec![
        Tests::in_machine("6.1", &[Suite::Datapath], &[]),
        Tests::in_machine("6.12", &[Suite::Datapath], &[]),
        Tests::in_machine("6.12", &[Suite::Node], &NEWER_ALL),
        Tests::in_machine("6.12", &[Suite::Node, Suite::Docker], &BEHIND).behind("netkit"),
        Tests::on_engine(Debian::Trixie, &[]),
        Tests::on_engine(Debian::Sid, &[]),
        Tests::of(Suite::Bench),
    ]
}
