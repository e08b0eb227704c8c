//! A local endpoint, as the node's journal keeps it.

use std::{net::IpAddr, path::PathBuf};

use margay_common::net::Mac;
use serde::{Deserialize, Serialize};

/// What a container's interface is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Device {
    /// Its packets are queued once before our program sees them.
    #[default]
    Veth,
    /// Our program runs as the container sends.
    Netkit,
}

/// One container's attachment to one network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// Sixteen hexadecimal digits.
    pub id: String,
    /// A name for people, unique among the network's endpoints on this node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The network's id.
    pub network: u32,
    /// The network's name when the endpoint was attached.
    pub network_name: String,
    /// At most one of each family.
    pub addresses: Vec<IpAddr>,
    /// The container's MAC.
    #[serde(with = "mac_text")]
    pub mac: Mac,
    /// Where the network namespace was found.
    pub netns: PathBuf,
    /// The inode number of the network namespace. A runtime that names a namespace before it
    /// makes one has numbers of the agent's for its containers instead, below all of those;
    /// zero until the runtime has named it.
    pub sandbox: u32,
    /// The interface inside.
    pub ifname: String,
    /// The host side of that.
    pub host_interface: String,
    /// What both are.
    #[serde(default)]
    pub device: Device,
    /// The interface's MTU.
    pub mtu: u32,
    /// How far it has come.
    #[serde(default)]
    pub stage: Stage,
    /// Who asked for it.
    #[serde(default)]
    pub owner: Owner,
    /// Why it is served no longer: somebody else has an address of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lost: Option<String>,
}

/// How far an endpoint has come: its addresses are reserved, it is created, it has joined,
/// and it is deleted. One whose addresses are reserved has no entry yet, and one that is
/// deleted has none any more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// It has its addresses; its interface is made, or is to be.
    #[default]
    Created,
    /// The container has it.
    Joined,
}

/// Who asked for an endpoint, and who is to end it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Owner {
    /// A command, which carries out all steps at once.
    #[default]
    Command,
    /// A container runtime, which asks for each step by itself.
    Runtime(Handle),
}

/// An endpoint as a runtime knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Handle {
    /// Which runtime.
    pub runtime: String,
    /// The runtime's id of the endpoint, letters and digits.
    pub id: String,
    /// The runtime's id of the network, on this host alone.
    pub network: String,
    /// When it was made, in seconds since 1970.
    pub since: u64,
    /// The runtime's id of the container, once that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
    /// Whether a user named one of the addresses.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub asked: bool,
}

impl Endpoint {
    /// The endpoint as its runtime knows it, if it is one's.
    pub fn handle(&self) -> Option<&Handle> {
        match &self.owner {
            Owner::Runtime(handle) => Some(handle),
            Owner::Command => None,
        }
    }

    /// Whether a runtime knows it by this id.
    pub fn is_of_runtime(&self, id: &str) -> bool {
        self.handle().is_some_and(|handle| handle.id == id)
    }

    /// Whether its container has it.
    pub fn has_joined(&self) -> bool {
        self.stage == Stage::Joined
    }
}

/// The addresses of a runtime's container on a network. They stay the container's while
/// it is stopped, until it is removed or disconnected.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// The runtime's id of the container.
    pub container: String,
    /// The container's name, for people.
    pub name: String,
    /// The network's id.
    pub network: u32,
    /// At most one of each family.
    pub addresses: Vec<IpAddr>,
    /// The endpoint that had them last; the store names it as their holder while the
    /// container is stopped.
    pub holder: String,
    /// When that endpoint ended, in milliseconds since 1970; zero if it has not yet.
    #[serde(default)]
    pub released: u64,
}

/// What the kernel takes for the name of an interface.
pub fn check_ifname(name: &str) -> Result<(), BadIfname> {
    let fits = (1..=15).contains(&name.len()) && name != "." && name != "..";
    let plain = name.bytes().all(|b| b.is_ascii_graphic() && b != b'/' && b != b':' && b != b'%');
    if fits && plain {
        return Ok(());
    }
    Err(BadIfname(name.into()))
}

/// A name that no interface can have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("interface name {0:?}: use 1 to 15 visible characters without '/', ':' and '%'")]
pub struct BadIfname(String);

/// A MAC as `02:00:...`.
pub mod mac_text {
    use margay_common::net::Mac;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    /// Writes a MAC.
    pub fn format(mac: &Mac) -> String {
        mac.0.map(|byte| format!("{byte:02x}")).join(":")
    }

    /// Reads a MAC: six pairs of hexadecimal digits, colons between.
    pub fn parse(text: &str) -> Option<Mac> {
        let mut bytes = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            let part = parts.next().filter(|part| part.len() == 2)?;
            *byte = u8::from_str_radix(part, 16).ok()?;
        }
        parts.next().is_none().then_some(Mac(bytes))
    }

    pub(super) fn serialize<S: Serializer>(mac: &Mac, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&format(mac))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Mac, D::Error> {
        let text = String::deserialize(d)?;
        parse(&text).ok_or_else(|| D::Error::custom(format!("{text:?} is no MAC")))
    }
}

#[cfg(test)]
mod tests {
    use super::{
        check_ifname,
        mac_text::{format, parse},
    };

    #[test]
    fn macs_are_read_as_they_are_written() {
        let mac = parse("02:00:5e:10:00:ff").expect("a MAC");
        assert_eq!(format(&mac), "02:00:5e:10:00:ff");
        for bad in ["", "02:00:5e:10:00", "02:00:5e:10:00:ff:00", "2:0:5e:10:0:ff", "gg:00:00:00:00:00"] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn interface_names_are_the_kernels() {
        for good in ["eth0", "a", "net-1.100"] {
            assert!(check_ifname(good).is_ok(), "{good}");
        }
        for bad in ["", "a/b", "a:b", "a b", "sixteen-letters-", "..", "eth%d"] {
            assert!(check_ifname(bad).is_err(), "{bad}");
        }
    }
}
