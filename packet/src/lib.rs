//! Reading and writing packets: headers, checksums, TTLs, and the replies that the programs
//! write themselves.
//!
//! Everything here is generic over [`Frame`] and [`Packet`]. The eBPF programs implement
//! them for the kernel's packets; [`Buffer`] implements them for bytes in memory, so that
//! unit tests and fuzzing run the same code on any machine.

#![no_std]

#[cfg(test)]
extern crate std;

pub mod arp;
#[cfg(not(target_arch = "bpf"))]
mod buffer;
pub mod checksum;
pub mod echo;
mod frame;
mod headers;
pub mod icmp;
pub mod ndp;
mod onward;
#[cfg(test)]
mod tests;
pub mod walk;

#[cfg(not(target_arch = "bpf"))]
pub use buffer::Buffer;
pub use frame::{
    ARP, Cursor, ETH_LEN, Frame, IPV4, IPV4_LEN, IPV6, IPV6_LEN, Link, Packet, Part, QINQ, VLAN,
};
pub use headers::{Headers, ICMP, ICMPV6, TCP, UDP, addresses, destination, is_link_local, source};
pub use onward::{check_size, decrement_ttl};
