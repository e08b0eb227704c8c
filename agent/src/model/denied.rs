//! Denied prefixes.

use std::net::Ipv4Addr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::{Unknown, network::overlap};

/// The value of a denied prefix.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Denied {
    /// Why, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comment: Option<String>,
    /// Since when, seconds since 1970.
    pub since: u64,
    /// Fields of a newer agent.
    #[serde(flatten)]
    pub unknown: Unknown,
}

/// What neighbours, routers and next hops speak from.
pub const LINK_LOCAL: &str = "fe80::/10";

/// Whether a prefix has a part of [`LINK_LOCAL`].
pub fn is_link_local(cidr: IpNet) -> bool {
    LINK_LOCAL.parse().is_ok_and(|link_local| overlap(link_local, cidr))
}

/// Whether an IPv6 prefix lies across the IPv4-mapped addresses (RFC 4291 section
/// 2.5.5.2), which is where the programs' tables have IPv4.
pub fn holds_mapped(cidr: IpNet) -> bool {
    let IpNet::V6(v6) = cidr else { return false };
    v6.addr().to_ipv4_mapped().is_some() || v6.contains(&Ipv4Addr::UNSPECIFIED.to_ipv6_mapped())
}

#[cfg(test)]
mod tests {
    use super::holds_mapped;

    #[test]
    fn prefixes_with_ipv4_mapped_addresses_are_recognised() {
        for (prefix, holds) in [
            ("::/8", true),
            ("::/80", true),
            ("::ffff:0:0/96", true),
            ("::ffff:203.0.113.0/120", true),
            ("::/96", false),
            ("2001:db8::/32", false),
            ("203.0.113.0/24", false),
        ] {
            assert_eq!(holds_mapped(prefix.parse().expect("a literal")), holds, "{prefix}");
        }
    }
}
