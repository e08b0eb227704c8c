//! The lab: hosts, networks and stores for the suites that need root.
//!
//! Everything here assumes the private machine that `cargo xtask test` makes:
//! its own network, mount and process namespaces, with a bpffs and a /run of
//! its own, so that nothing of a test outlives the run, even if it crashes.

pub mod bpf;
pub mod container;
pub mod engine;
pub mod eventually;
pub mod flow;
pub mod frame;
pub mod host;
pub mod interpret;
pub mod kinds;
pub mod lab;
pub mod members;
pub mod needs;
pub mod netlink;
pub mod plugin;
pub mod process;
pub mod programs;
pub mod raw;
pub mod sent;
pub mod stream;
