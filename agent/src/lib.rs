//! The user half of Margay: one agent per host, and the commands that talk to
//! it. ARCHITECTURE.md draws the map; `cargo xtask lint` holds its edges.

#![deny(clippy::print_stdout, clippy::print_stderr)]

use std::sync::LazyLock;

pub mod again;
pub mod agent;
pub mod api;
pub mod config;
pub mod control;
pub mod desired;
pub mod docker;
pub mod drops;
pub mod endpoints;
pub mod files;
pub mod ipam;
pub mod journal;
pub mod kernel;
pub mod membership;
pub mod metrics;
pub mod model;
pub mod network;
pub mod next_hops;
pub mod node;
pub mod problem;
pub mod reconcile;
pub mod report;
pub mod shared;
pub mod sockets;
pub mod store;
pub mod tables;
pub mod words;

/// The version, with the commit that it was built from and the layout of the
/// maps that its object has.
pub fn version() -> &'static str {
    static VERSION: LazyLock<String> = LazyLock::new(|| {
        let (version, commit) = (env!("CARGO_PKG_VERSION"), env!("MARGAY_COMMIT"));
        format!("{version} (commit {commit}, layout {})", margay_common::maps::LAYOUT)
    });
    &VERSION
}
