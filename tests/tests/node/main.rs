//! One agent, real interfaces, real packets.

mod addresses;
mod at_once;
mod attach;
mod bad_input;
mod big_tcp;
mod boot;
mod checksums;
mod cleanup;
mod commands;
mod crash;
mod drops;
mod hostile;
mod junk;
mod mtu;
mod neighbours;
mod netkit;
mod observe;
mod origin;
mod reach;
mod sandbox;
mod single;
mod stuck;
mod tags;
mod text;
mod world;
mod xdp;
