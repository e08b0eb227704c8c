//! How a packet left a program. A test run sends nothing, so tests read it from here.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::net::Addr;

/// It was not sent.
pub const NOWHERE: u32 = 0;
/// Out of an interface.
pub const OUT: u32 = 1;
/// Into an interface, as if it had come in there.
pub const INTO: u32 = 2;
/// Into the namespace at the other end of an interface.
pub const PEER: u32 = 3;
/// Out of an interface, to a next hop.
pub const NEXT_HOP: u32 = 4;
/// Out of an interface, to the next hop of the kernel's own routing.
pub const ROUTED: u32 = 5;

/// The last packet that a program sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Sent {
    /// One of the constants above.
    pub way: u32,
    /// Index of the interface.
    pub ifindex: u32,
    /// The next hop, or unspecified.
    pub next_hop: Addr,
}
