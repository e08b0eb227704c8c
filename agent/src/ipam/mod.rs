//! Addresses: which is next in a block (pure), which blocks this node has, and
//! how it comes by more.

pub mod allocate;
pub mod block;
mod choose;
pub mod keep;
mod view;

pub use allocate::{Ipam, Refusal, Request};
pub use keep::Held;
