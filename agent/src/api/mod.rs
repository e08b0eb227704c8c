//! The agent's local protocol: JSON over HTTP on a unix socket.

pub mod client;
pub mod server;
pub mod wire;
