//! Addresses: which one is next in a block, and how a node comes by blocks.

pub mod allocate;
pub mod block;

pub use allocate::{Ipam, Refusal, Request};
