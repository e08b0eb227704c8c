//! A dropped packet, as the programs report it for the agent's log.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::{
    net::Addr,
    verdict::{DropReason, Program},
};

/// Log lines per second that one sender may cause. A hostile container must not fill the
/// disk or hide the drops of others.
pub const LINES_PER_SECOND: u32 = 10;

/// A drop.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Logged {
    /// The source that the packet bears; unspecified where no IP header was found.
    pub src: Addr,
    /// Its destination, or unspecified.
    pub dst: Addr,
    /// The interface of the program's hook.
    pub ifindex: u32,
    /// Bytes of the frame with its link header.
    pub len: u32,
    /// The code of the program, [`Program`].
    program: u32,
    /// The code of the reason, [`DropReason`].
    reason: u32,
}

impl Logged {
    /// A drop by a program, of a frame of `len` bytes at the hook of an interface. `reason` is
    /// the code of a [`DropReason`].
    #[inline(always)]
    pub const fn new(program: Program, reason: u32, ifindex: u32, len: u32) -> Self {
        let (src, dst) = (Addr::UNSPECIFIED, Addr::UNSPECIFIED);
        Self { src, dst, ifindex, len, program: program as u32, reason }
    }

    /// The program; none of a code that there is not.
    pub fn program(&self) -> Option<Program> {
        Program::ALL.iter().copied().find(|program| *program as u32 == self.program)
    }

    /// Why it was dropped; none of a code that there is not.
    pub fn reason(&self) -> Option<DropReason> {
        DropReason::ALL.iter().copied().find(|reason| *reason as u32 == self.reason)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn program_and_reason_decode_from_their_codes() {
        for program in Program::ALL {
            for reason in DropReason::ALL {
                let drop = Logged::new(*program, *reason as u32, 1, 98);
                assert_eq!((drop.program(), drop.reason()), (Some(*program), Some(*reason)));
            }
        }
        assert_eq!(Logged { program: 99, reason: 99, ..Logged::default() }.program(), None);
    }
}
