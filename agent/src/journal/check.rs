//! What an entry has to be before anything is done on its word: it may be broken, or
//! somebody else's.

use std::{net::IpAddr, path::Path};

use margay_common::route::NETWORK_MAX;

use super::entry::{Member, RuntimeNetwork, kept_key};
use crate::{
    model::{
        endpoint::{Endpoint, Handle, Kept, check_ifname},
        network::check_name,
    },
    tables::host_interface,
    words,
};

/// The longest name of an endpoint, characters.
const NAME_MAX: usize = 255;
/// The MTU of an interface (`ETH_MIN_MTU` to `ETH_MAX_MTU`), bytes.
const MTU: std::ops::RangeInclusive<u32> = 68..=65_535;

/// An entry of the journal.
pub(super) trait Entry {
    /// What is wrong with it, where it stands under `key`, if anything is.
    fn fault(&self, key: &str) -> Option<String>;
}

impl Entry for Endpoint {
    fn fault(&self, key: &str) -> Option<String> {
        first_fault([
            (is_hex(&self.id, 16) && self.id == key, "its id differs from its key"),
            // Whatever it names is removed with the endpoint.
            (
                self.host_interface == host_interface(&self.id),
                "its interface on the host does not belong to its id",
            ),
            (is_network(self.network), "its network's id is out of range"),
            (check_name(&self.network_name).is_ok(), "its network's name is invalid"),
            (
                are_addresses(&self.addresses),
                "its addresses are not at most one of each family, of one host each",
            ),
            (self.mac.0[0] & 1 == 0 && self.mac.0 != [0; 6], "its MAC is not unicast"),
            (
                self.netns.is_absolute() || (of_runtime(self) && is_empty(&self.netns)),
                "its namespace has no path",
            ),
            (
                self.netns.to_str().is_some_and(|path| !path.contains(words::acts)),
                "its namespace's path is not text",
            ),
            (
                check_ifname(&self.ifname).is_ok() || (of_runtime(self) && self.ifname.is_empty()),
                "its interface's name is invalid",
            ),
            (MTU.contains(&self.mtu), "its MTU is out of range"),
            (
                self.name.as_ref().is_none_or(|name| words::check("", name, NAME_MAX).is_ok()),
                "its name is invalid",
            ),
            (self.handle().is_none_or(is_handle), "its runtime or an id of the runtime is invalid"),
        ])
    }
}

impl Entry for Kept {
    fn fault(&self, key: &str) -> Option<String> {
        first_fault([
            (
                is_id(&self.container) && kept_key(&self.container, self.network) == key,
                "its container and network differ from its key",
            ),
            (is_network(self.network), "its network's id is out of range"),
            (
                are_addresses(&self.addresses),
                "its addresses are not at most one of each family, of one host each",
            ),
            (is_hex(&self.holder, 16), "their holder is not an endpoint"),
            (words::check("", &self.name, NAME_MAX).is_ok(), "its name is invalid"),
        ])
    }
}

impl Entry for Member {
    fn fault(&self, key: &str) -> Option<String> {
        let network = &self.network;
        let within = |addr: &IpAddr| network.subnet_of(*addr).is_some();
        first_fault([
            (is_network(network.id) && network.id.to_string() == key, "its id differs from its key"),
            (check_name(&network.name).is_ok(), "its name is invalid"),
            (
                network.subnets.iter().all(|subnet| subnet.cidr.contains(&subnet.gateway)),
                "a gateway is not in its subnet",
            ),
            (self.stash.iter().all(within), "an address of the stash is outside its subnets"),
        ])
    }
}

impl Entry for RuntimeNetwork {
    fn fault(&self, key: &str) -> Option<String> {
        first_fault([
            (is_id(&self.id) && self.id == key, "its id differs from its key"),
            (is_network(self.network), "its network's id is out of range"),
            (self.wanted.as_ref().is_none_or(|name| check_name(name).is_ok()), "its name is invalid"),
        ])
    }
}

fn first_fault<const N: usize>(checks: [(bool, &str); N]) -> Option<String> {
    checks.into_iter().find(|(holds, _)| !holds).map(|(_, fault)| fault.to_owned())
}

fn is_hex(text: &str, len: usize) -> bool {
    text.len() == len && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

/// A runtime's ids are letters and digits.
fn is_id(id: &str) -> bool {
    (1..=128).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_alphanumeric())
}

fn is_network(id: u32) -> bool {
    (1..=NETWORK_MAX).contains(&id)
}

fn of_runtime(endpoint: &Endpoint) -> bool {
    endpoint.handle().is_some()
}

fn is_handle(handle: &Handle) -> bool {
    is_id(&handle.runtime) && is_id(&handle.id) && is_id(&handle.network)
}

fn is_empty(path: &Path) -> bool {
    path.as_os_str().is_empty()
}

fn are_addresses(addresses: &[IpAddr]) -> bool {
    let of_family = |v4: bool| addresses.iter().filter(|addr| addr.is_ipv4() == v4).count();
    let of_a_host = |addr: &IpAddr| !addr.is_unspecified() && !addr.is_multicast() && !addr.is_loopback();
    of_family(true) <= 1 && of_family(false) <= 1 && addresses.iter().all(of_a_host)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn endpoint(change: (&str, Value)) -> Option<String> {
        let mut value = json!({
            "id": "0123456789abcdef", "network": 1, "network_name": "blue", "addresses": ["10.1.0.2", "fd00::2"],
            "mac": "02:00:00:00:00:01", "netns": "/run/netns/a", "sandbox": 1, "ifname": "eth0",
            "host_interface": "mgy0123456789ab", "mtu": 1500, "name": "web",
        });
        value[change.0] = change.1;
        serde_json::from_value::<Endpoint>(value).expect("of this shape").fault("0123456789abcdef")
    }

    #[test]
    fn every_field_of_an_endpoint_is_checked() {
        assert_eq!(endpoint(("mtu", json!(1400))), None);
        let of = |id: &str| json!({"runtime": {"runtime": "docker", "id": id, "network": "b", "since": 1}});
        assert_eq!(endpoint(("owner", of("a"))), None);
        for change in [
            ("id", json!("../../../../etc/x")),
            ("id", json!("0123456789abcdee")),
            ("host_interface", json!("eth0")),
            ("host_interface", json!("mgy0123456789ac")),
            ("network", json!(0)),
            ("network", json!(1 << 24)),
            ("network_name", json!("a\u{1b}b")),
            ("addresses", json!(["10.1.0.2", "10.1.0.3"])),
            ("addresses", json!(["0.0.0.0"])),
            ("mac", json!("01:00:00:00:00:01")),
            ("netns", json!("relative")),
            ("netns", json!("/run/\u{1b}[2J")),
            ("ifname", json!("../x")),
            ("mtu", json!(0)),
            ("name", json!("a\nb")),
            ("owner", of("../a")),
        ] {
            assert!(endpoint(change.clone()).is_some(), "{change:?}");
        }
    }
}
