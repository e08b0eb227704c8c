//! What programs write for themselves.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::{net::Addr, route::Neighbour};

/// What one sender was granted in the second that began at `since`, nanoseconds of the
/// monotonic clock.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Budget {
    /// When the second began.
    pub since: u64,
    /// How much was granted or refused in it.
    pub spent: u64,
}

/// What passed through from one address to another, and how it was sent on.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Flow {
    /// Who sent it.
    pub src: Addr,
    /// To whom.
    pub dst: Addr,
    /// Until when this holds: never longer than the next hop is fresh.
    pub way: Neighbour,
}
