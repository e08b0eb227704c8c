//! What crosses the boundary between the agent and the eBPF programs: the
//! layout of every map, the verdicts, and the few pure rules that both sides
//! must agree on.
//!
//! Everything here is `no_std`, free of `unsafe`, and laid out without padding
//! (the `zerocopy` derives refuse anything else at compile time).

#![no_std]
#![forbid(unsafe_code)]

pub mod endpoint;
pub mod icmp;
pub mod log;
pub mod maps;
pub mod net;
pub mod own;
pub mod route;
pub mod sent;
pub mod verdict;
