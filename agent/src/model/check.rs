//! What a value of the store must be beyond its shape. A writer of the store may err, or be
//! another program, so every value is checked when it is read, against what an agent itself would
//! write.

use std::{collections::BTreeMap, net::IpAddr};

use ipnet::IpNet;

use super::{
    block::{Allocations, Claim, Holder},
    denied::{Denied, holds_mapped, is_link_local},
    key::Key,
    network::{Dressing, Network, max_len},
    node::{AddressHolder, Alive, Cluster, Node, Removed},
    pool::Pool,
    snapshot::single,
};

/// Bytes of a text for people: a comment, the name of an endpoint, a label.
pub const TEXT_MAX: usize = 4096;
/// Entries of one list.
const LIST_MAX: usize = 1024;
/// Bytes of a network's options and labels together.
const DRESSING_MAX: usize = 256 * 1024;
/// Names of a cluster's nodes in one list.
const NODES_MAX: usize = 100_000;
/// The greatest super-packet of Linux, bytes (`GSO_MAX_SIZE`).
const SUPER_PACKET_MAX: u32 = 8 * 65_536;
/// The last second of the year 9999, which dates are printed up to.
const TIME_MAX: u64 = 253_402_300_799;

/// A value of the store.
pub trait Value {
    /// Judges the value that stands at a key.
    ///
    /// # Errors
    ///
    /// Says what no agent would have written there, in words that follow the key's name.
    fn check(&self, key: &Key) -> Result<(), String>;
}

impl Value for Cluster {
    fn check(&self, _: &Key) -> Result<(), String> {
        name("cluster id", &self.id)?;
        at_most("awaited nodes", self.awaiting.len(), NODES_MAX)?;
        at_most("former ids", self.formerly.len(), LIST_MAX)?;
        self.awaiting.iter().try_for_each(|node| name("awaited node", node))?;
        self.formerly.iter().try_for_each(|id| name("former id", id))
    }
}

impl Value for Network {
    fn check(&self, key: &Key) -> Result<(), String> {
        if *key != Key::Network(self.id) {
            return Err(format!("says it is network {}", self.id));
        }
        self.check().map_err(|error| format!("is invalid: {error}"))
    }
}

impl Value for Pool {
    fn check(&self, key: &Key) -> Result<(), String> {
        if *key != Key::Pool(self.cidr) {
            return Err(format!("says it is pool {}", self.cidr));
        }
        let pool = Pool::new(self.cidr, Some(self.network_len));
        pool.map(drop).map_err(|error| format!("is invalid: {error}"))
    }
}

impl Value for Denied {
    fn check(&self, key: &Key) -> Result<(), String> {
        let Key::Denied(cidr) = key else { return Err("is not at a denied prefix's key".into()) };
        if cidr.prefix_len() == 0 || holds_mapped(*cidr) || is_link_local(*cidr) {
            return Err(format!("denies {cidr}, which no agent denies"));
        }
        time(self.since)?;
        self.comment.iter().try_for_each(|comment| text("comment", comment))
    }
}

impl Value for Node {
    fn check(&self, key: &Key) -> Result<(), String> {
        if *key != Key::Node(self.name.clone()) {
            return Err(format!("says it is node {}", self.name.escape_debug()));
        }
        name("node", &self.name)?;
        if !self.instance.is_empty() {
            name("instance", &self.instance)?;
        }
        time(self.since)?;
        self.addresses.iter().try_for_each(|addr| underlay(*addr))?;
        if self.addresses.len() > 2 || matches!(self.addresses[..], [a, b] if a.is_ipv4() == b.is_ipv4()) {
            return Err("has more than one address of a family".into());
        }
        if let Some(addr) = self.link_local.filter(|addr| !addr.is_unicast_link_local()) {
            return Err(format!("has the link-local address {addr}, which is not link-local"));
        }
        if let Some(size) = self.super_packets.filter(|size| *size > SUPER_PACKET_MAX) {
            return Err(format!("sends super-packets of {size} bytes, above {SUPER_PACKET_MAX}"));
        }
        for (what, list) in [("occupied prefixes", &self.occupied), ("routed prefixes", &self.routed)] {
            at_most(what, list.len(), LIST_MAX)?;
            list.iter().try_for_each(|cidr| whole(*cidr))?;
        }
        at_most("addresses that it depends on", self.depends_on.len(), LIST_MAX)
    }
}

impl Value for Removed {
    fn check(&self, _: &Key) -> Result<(), String> {
        time(self.since)
    }
}

impl Value for Alive {
    fn check(&self, _: &Key) -> Result<(), String> {
        time(self.since)
    }
}

impl Value for AddressHolder {
    fn check(&self, _: &Key) -> Result<(), String> {
        name("node", &self.node)
    }
}

impl Value for Claim {
    fn check(&self, _: &Key) -> Result<(), String> {
        name("node", &self.node)
    }
}

impl Value for Allocations {
    fn check(&self, key: &Key) -> Result<(), String> {
        let Key::Ipam(_, block) = key else { return Err("is not at a block's key".into()) };
        name("node", &self.node)?;
        let freed = self.freed.keys().chain(&self.last);
        let mut all = self.addresses.keys().chain(&self.reserved).chain(freed);
        if let Some(addr) = all.find(|addr| !block.contains(*addr)) {
            return Err(format!("has the address {addr}, which is outside the block"));
        }
        self.freed.values().try_for_each(|at| time(*at))?;
        self.addresses.values().try_for_each(Holder::check)
    }
}

impl Holder {
    fn check(&self) -> Result<(), String> {
        text("endpoint", &self.endpoint)?;
        self.name.iter().try_for_each(|found| text("endpoint's name", found))?;
        self.node.iter().try_for_each(|node| name("node", node))
    }
}

impl Dressing {
    /// Whether a runtime's options and labels are as many and as long as may be.
    ///
    /// # Errors
    ///
    /// Says which limit is passed.
    pub fn check(&self) -> Result<(), String> {
        let of = |what: &str, texts: &BTreeMap<String, String>| {
            at_most(what, texts.len(), LIST_MAX)?;
            Ok::<usize, String>(texts.iter().map(|(key, value)| key.len() + value.len()).sum())
        };
        let bytes = of("options", &self.options)? + of("labels", &self.labels)?;
        at_most("bytes of options and labels", bytes, DRESSING_MAX)
    }
}

/// What a node, a cluster or an instance may be called: 1 to 63 letters, digits, `-`, `_`
/// and `.`.
pub fn is_name(name: &str) -> bool {
    let plain = name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
    plain && (1..=63).contains(&name.len())
}

/// Whether an address can be a node's on the underlay.
pub fn is_underlay(addr: IpAddr) -> bool {
    match addr {
        IpAddr::V4(v4) => {
            !(v4.is_unspecified() || v4.is_loopback() || v4.is_multicast() || v4.is_broadcast())
        }
        IpAddr::V6(v6) => {
            let special = v6.is_unspecified() || v6.is_loopback() || v6.is_multicast();
            !special && !v6.is_unicast_link_local() && v6.to_ipv4_mapped().is_none()
        }
    }
}

fn name(what: &str, found: &str) -> Result<(), String> {
    if is_name(found) { Ok(()) } else { Err(format!("has the {what} {:?}", cut(found))) }
}

fn text(what: &str, found: &str) -> Result<(), String> {
    if found.len() <= TEXT_MAX { Ok(()) } else { Err(format!("has a {what} of {} bytes", found.len())) }
}

/// As much of a strange text as is worth showing.
fn cut(text: &str) -> String {
    text.chars().take(80).collect()
}

fn time(since: u64) -> Result<(), String> {
    if since <= TIME_MAX {
        Ok(())
    } else {
        Err(format!("has the time {since} s, which is beyond the year 9999"))
    }
}

fn underlay(addr: IpAddr) -> Result<(), String> {
    if is_underlay(addr) { Ok(()) } else { Err(format!("has the address {addr}, which is no host's")) }
}

fn whole(cidr: IpNet) -> Result<(), String> {
    if cidr.trunc() == cidr { Ok(()) } else { Err(format!("has {cidr}, with bits behind its prefix")) }
}

fn at_most(what: &str, found: usize, most: usize) -> Result<(), String> {
    if found <= most { Ok(()) } else { Err(format!("has {found} {what}, more than {most}")) }
}

/// Whether a prefix is as long as a block or a single address can be.
pub(super) fn is_block_or_single(cidr: IpNet) -> bool {
    let bits = u32::from(max_len(cidr.addr()) - cidr.prefix_len());
    single(cidr).is_some() || super::network::BLOCK_BITS.contains(&bits)
}
