//! Which ICMP error tells a sender why its packet was dropped.

use crate::{net::Family, verdict::DropReason};

/// Errors in a second that one sender may cause (RFC 1812 section 4.3.2.8
/// asks for a limit and leaves its size open). Errors that carry an MTU are not limited,
/// as in Linux (`icmpv4_mask_allow`, `icmpv6_mask_allow`): without them connections hang,
/// and each is smaller than the packet that caused it, so they amplify nothing.
pub const ERRORS_PER_SECOND: u32 = 100;

/// How much of the packet an error quotes. RFC 792 asks for the header and
/// 8 bytes, RFC 1812 and RFC 4443 for more; the kernel lets no frame be cut
/// inside a transport header whose checksum is still to be filled in, and this
/// holds the longest IPv4 header with a TCP header.
pub const QUOTE_MAX: usize = 128;

/// An ICMP (RFC 792) or ICMPv6 (RFC 4443) error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IcmpError {
    /// The type field.
    pub kind: u8,
    /// The code field.
    pub code: u8,
    /// Whether the field behind the checksum carries the MTU.
    pub carries_mtu: bool,
}

impl IcmpError {
    const fn new(kind: u8, code: u8) -> Self {
        Self { kind, code, carries_mtu: false }
    }

    const fn too_big(kind: u8, code: u8) -> Self {
        Self { kind, code, carries_mtu: true }
    }
}

/// The error that answers a drop, if one does.
#[inline(always)]
pub const fn error_for(reason: DropReason, family: Family) -> Option<IcmpError> {
    let v4 = matches!(family, Family::V4);
    Some(match reason {
        DropReason::TtlExceeded if v4 => IcmpError::new(11, 0),
        DropReason::TtlExceeded => IcmpError::new(3, 0),
        DropReason::TooBig if v4 => IcmpError::too_big(3, 4),
        DropReason::TooBig => IcmpError::too_big(2, 0),
        DropReason::NoEndpoint | DropReason::NodeUnreachable if v4 => IcmpError::new(3, 1),
        DropReason::NoEndpoint => IcmpError::new(1, 3),
        DropReason::NodeUnreachable => IcmpError::new(1, 0),
        DropReason::Isolated | DropReason::Internal if v4 => IcmpError::new(3, 13),
        DropReason::Isolated | DropReason::Internal => IcmpError::new(1, 1),
        DropReason::GatewayPort if v4 => IcmpError::new(3, 3),
        DropReason::GatewayPort => IcmpError::new(1, 4),
        _ => return None,
    })
}

/// Whether a message of this type is an error itself, which none may answer
/// (RFC 1122 section 3.2.2, RFC 4443 section 2.4 e). Redirects count.
#[inline(always)]
pub const fn is_error(kind: u8, family: Family) -> bool {
    match family {
        Family::V4 => matches!(kind, 3 | 4 | 5 | 11 | 12),
        Family::V6 => kind < 128 || kind == 137,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outsiders_get_no_icmp_error() {
        for family in [Family::V4, Family::V6] {
            for silent in [DropReason::Outside, DropReason::SpoofedSource, DropReason::Malformed] {
                assert_eq!(error_for(silent, family), None);
            }
        }
    }

    #[test]
    fn only_too_big_carries_an_mtu() {
        for reason in DropReason::ALL {
            for family in [Family::V4, Family::V6] {
                if let Some(error) = error_for(*reason, family) {
                    assert_eq!(error.carries_mtu, *reason == DropReason::TooBig, "{reason:?}");
                    assert!(is_error(error.kind, family), "{reason:?}");
                }
            }
        }
    }

    #[test]
    fn echoes_are_no_errors() {
        assert!(!is_error(8, Family::V4) && !is_error(0, Family::V4));
        assert!(!is_error(128, Family::V6) && !is_error(129, Family::V6));
    }
}
