//! The user half of Margay: one agent per host, and the commands that talk to
//! it. ARCHITECTURE.md draws the map; `cargo xtask lint` holds its edges.

pub mod agent;
pub mod api;
pub mod config;
pub mod control;
pub mod desired;
pub mod ipam;
pub mod journal;
pub mod kernel;
pub mod model;
pub mod network;
pub mod reconcile;
pub mod store;
pub mod tables;
pub mod workload;
