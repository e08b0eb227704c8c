//! One agent, real interfaces, real packets.

mod attach;
mod bad_input;
mod cleanup;
mod hostile;
mod mtu;
mod observe;
mod reach;
mod single;
mod world;
