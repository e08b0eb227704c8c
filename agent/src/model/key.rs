//! The store's keys.

use std::{fmt, net::IpAddr};

use ipnet::IpNet;
use margay_common::route::NETWORK_MAX;

use super::check::{is_block_or_single, is_name, is_underlay};

/// What every key begins with.
pub const ROOT: &str = "/margay/v1/";

/// A part of the store that can be listed and watched by itself: all keys that begin with one
/// text. Each reader names the parts that it needs and gets no others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Prefix {
    /// Who has which underlay address.
    Addresses,
    /// Which agents live.
    Alive,
    /// The cluster's own key.
    Cluster,
    /// The next network id.
    Sequence,
    /// The allocations in blocks.
    Ipam,
    /// Networks.
    Networks,
    /// Nodes.
    Nodes,
    /// Pools.
    Pools,
    /// The deny list.
    Denied,
    /// Nodes that were removed.
    Removed,
    /// Subnets that are kept for networks to come.
    Reservations,
    /// Owners of blocks, and of single addresses.
    Routes,
}

impl Prefix {
    /// All of them, in the order of their keys.
    pub const ALL: [Self; 12] = [
        Self::Addresses,
        Self::Alive,
        Self::Cluster,
        Self::Sequence,
        Self::Ipam,
        Self::Networks,
        Self::Nodes,
        Self::Pools,
        Self::Denied,
        Self::Removed,
        Self::Reservations,
        Self::Routes,
    ];

    /// What its keys begin with behind the root.
    fn text(self) -> &'static str {
        match self {
            Self::Addresses => "addresses/",
            Self::Alive => "alive/",
            Self::Cluster => "cluster",
            Self::Sequence => "guard",
            Self::Ipam => "ipam/",
            Self::Networks => "networks/",
            Self::Nodes => "nodes/",
            Self::Pools => "pools/",
            Self::Denied => "refused/",
            Self::Removed => "removed/",
            Self::Reservations => "reservations/",
            Self::Routes => "routes/",
        }
    }

    /// What the part is called.
    pub fn name(self) -> &'static str {
        self.text().trim_end_matches('/')
    }

    /// The first text behind all of its keys.
    pub fn end(self) -> String {
        let mut end = self.to_string();
        // All of them end in plain text.
        let next = end.pop().map_or('\0', |last| char::from(last as u8 + 1));
        end.push(next);
        end
    }

    /// The part that a key belongs to, whether it can be read or not.
    pub fn of(key: &str) -> Option<Self> {
        let rest = key.strip_prefix(ROOT)?;
        Self::ALL.into_iter().find(|prefix| rest.starts_with(prefix.text()))
    }
}

/// What its keys begin with.
impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{ROOT}{}", self.text())
    }
}

/// One key of the store.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Key {
    /// Id of the cluster and epoch; created once.
    Cluster,
    /// The next network id; rewritten in the transaction of every create.
    Sequence,
    /// Where networks without a subnet take theirs.
    Pool(IpNet),
    /// A subnet that is kept for a network to come; watched by nobody.
    Reservation(IpNet),
    /// A denied prefix.
    Denied(IpNet),
    /// A network, by id.
    Network(u32),
    /// A node, by name.
    Node(String),
    /// A node that was removed, by name.
    Removed(String),
    /// The node that has an underlay address.
    Address(IpAddr),
    /// Bound to the node's lease.
    Alive(String),
    /// The owner of a block of a network.
    Route(u32, IpNet),
    /// The allocations in a block of a network.
    Ipam(u32, IpNet),
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(ROOT)?;
        match self {
            Self::Cluster => f.write_str("cluster"),
            Self::Sequence => f.write_str("guard"),
            Self::Pool(cidr) => write!(f, "pools/{}-{}", cidr.addr(), cidr.prefix_len()),
            Self::Reservation(cidr) => write!(f, "reservations/{}-{}", cidr.addr(), cidr.prefix_len()),
            Self::Denied(cidr) => write!(f, "refused/{}-{}", cidr.addr(), cidr.prefix_len()),
            Self::Removed(name) => write!(f, "removed/{name}"),
            Self::Network(id) => write!(f, "networks/{id}"),
            Self::Node(name) => write!(f, "nodes/{name}"),
            Self::Address(addr) => write!(f, "addresses/{addr}"),
            Self::Alive(name) => write!(f, "alive/{name}"),
            Self::Route(id, cidr) => write!(f, "routes/{id}/{}-{}", cidr.addr(), cidr.prefix_len()),
            Self::Ipam(id, cidr) => write!(f, "ipam/{id}/{}-{}", cidr.addr(), cidr.prefix_len()),
        }
    }
}

impl Key {
    /// The part of the store that it belongs to.
    pub fn prefix(&self) -> Prefix {
        match self {
            Self::Cluster => Prefix::Cluster,
            Self::Sequence => Prefix::Sequence,
            Self::Pool(_) => Prefix::Pools,
            Self::Reservation(_) => Prefix::Reservations,
            Self::Denied(_) => Prefix::Denied,
            Self::Network(_) => Prefix::Networks,
            Self::Node(_) => Prefix::Nodes,
            Self::Removed(_) => Prefix::Removed,
            Self::Address(_) => Prefix::Addresses,
            Self::Alive(_) => Prefix::Alive,
            Self::Route(..) => Prefix::Routes,
            Self::Ipam(..) => Prefix::Ipam,
        }
    }

    /// Reads a key; `None` for what this agent does not know.
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.strip_prefix(ROOT)?.split('/');
        let key = match (parts.next()?, parts.next(), parts.next()) {
            ("cluster", None, None) => Self::Cluster,
            ("guard", None, None) => Self::Sequence,
            ("pools", Some(cidr), None) => Self::Pool(cidr_of(cidr)?),
            ("reservations", Some(cidr), None) => Self::Reservation(cidr_of(cidr)?),
            ("refused", Some(cidr), None) => Self::Denied(cidr_of(cidr)?),
            ("removed", Some(name), None) => Self::Removed(name_of(name)?),
            ("networks", Some(id), None) => Self::Network(id_of(id)?),
            ("nodes", Some(name), None) => Self::Node(name_of(name)?),
            ("addresses", Some(addr), None) => {
                Self::Address(addr.parse().ok().filter(|addr| is_underlay(*addr))?)
            }
            ("alive", Some(name), None) => Self::Alive(name_of(name)?),
            ("routes", Some(id), Some(cidr)) => Self::Route(id_of(id)?, block_of(cidr)?),
            ("ipam", Some(id), Some(cidr)) => Self::Ipam(id_of(id)?, block_of(cidr)?),
            _ => return None,
        };
        // One thing has one key: other spellings of an address or a number name nothing.
        (parts.next().is_none() && key.to_string() == text).then_some(key)
    }
}

/// The id of a network, which has to fit into a route's key.
fn id_of(text: &str) -> Option<u32> {
    text.parse().ok().filter(|id| (1..=NETWORK_MAX).contains(id))
}

/// The name of a node.
fn name_of(text: &str) -> Option<String> {
    is_name(text).then(|| text.to_owned())
}

fn cidr_of(text: &str) -> Option<IpNet> {
    let cidr: IpNet = text.replacen('-', "/", 1).parse().ok()?;
    (cidr.trunc() == cidr).then_some(cidr)
}

/// A prefix as long as a block or a single address can be.
fn block_of(text: &str) -> Option<IpNet> {
    cidr_of(text).filter(|cidr| is_block_or_single(*cidr))
}

/// Everything about the allocations of one network.
pub fn ipam_of(network: u32) -> String {
    format!("{ROOT}ipam/{network}/")
}

/// Everything about the routes of one network.
pub fn routes_of(network: u32) -> String {
    format!("{ROOT}routes/{network}/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_read_as_they_are_written() {
        for text in [
            "cluster",
            "guard",
            "networks/7",
            "pools/10.192.0.0-10",
            "reservations/10.192.16.0-20",
            "refused/2001:db8:bad::-48",
            "removed/h1",
            "nodes/h-1",
            "addresses/192.0.2.1",
            "addresses/2001:db8::1",
            "alive/h1",
            "routes/7/10.1.0.64-26",
            "ipam/7/fd00::40-122",
        ] {
            let text = format!("{ROOT}{text}");
            let key = Key::parse(&text).unwrap_or_else(|| panic!("{text}"));
            assert_eq!(key.to_string(), text);
            let prefix = key.prefix();
            assert_eq!(Prefix::of(&text), Some(prefix));
            assert!(text.starts_with(&prefix.to_string()) && text < prefix.end(), "{text}");
        }
    }

    #[test]
    fn prefixes_lie_in_the_order_of_their_keys_and_apart() {
        let texts = |pair: &[Prefix]| (pair[0].end(), pair[1].to_string());
        for (end, next) in Prefix::ALL.windows(2).map(texts) {
            assert!(end <= next, "{end} {next}");
        }
    }

    #[test]
    fn invalid_keys_are_ignored() {
        for text in [
            "/other/v1/cluster",
            "/margay/v1/networks/x",
            "/margay/v1/networks/0",
            "/margay/v1/networks/16777216",
            "/margay/v1/routes/16777217/10.1.0.64-26",
            "/margay/v1/routes/7",
            "/margay/v1/nodes/a/b",
            "/margay/v1/nodes/",
            "/margay/v1/nodes/a\u{1b}[2J",
            "/margay/v1/networks/07",
            "/margay/v1/networks/+7",
            "/margay/v1/routes/7/10.1.0.65-26",
            "/margay/v1/routes/7/10.1.0.0-16",
            "/margay/v1/routes/7/10.1.0.0-31",
            "/margay/v1/ipam/7/fd00::-64",
            "/margay/v1/ipam/7/0.0.0.0-0",
            "/margay/v1/addresses/::ffff:192.0.2.1",
            "/margay/v1/addresses/127.0.0.1",
        ] {
            assert_eq!(Key::parse(text), None, "{text}");
        }
    }
}
