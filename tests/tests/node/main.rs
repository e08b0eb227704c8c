//! One agent, real interfaces, real packets.

mod addresses;
mod attach;
mod bad_input;
mod big_tcp;
mod boot;
mod cleanup;
mod crash;
mod hostile;
mod mtu;
mod neighbours;
mod netkit;
mod observe;
mod reach;
mod sandbox;
mod single;
mod world;
mod xdp;
