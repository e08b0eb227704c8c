//! The user half of Margay: one agent per host, and the commands that talk to
//! it. ARCHITECTURE.md draws the map; `cargo xtask lint` holds its edges.

pub mod desired;
pub mod kernel;
pub mod model;
pub mod reconcile;
pub mod tables;
