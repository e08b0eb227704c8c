//! A container's interface: one end of a pair of virtual devices, whose other end
//! is the host side.

use std::os::fd::AsRawFd;

use anyhow::{Context, Result, bail};
use margay_common::net::{GATEWAY_MAC, Mac};
use netlink_packet_route::link::{
    InfoData, InfoKind, InfoNetkit, InfoVeth, LinkAttribute, LinkInfo, LinkMessage, NetkitMode, NetkitPolicy,
};
use nix::sys::utsname::uname;
use rtnetlink::{Handle, LinkMessageBuilder, LinkUnspec};
use serde::{Deserialize, Serialize};
use tracing::info;

use super::{
    link::{is, super_packets},
    netns::{Netns, new_netlink},
};
use crate::{model::endpoint::Device, problem::Rejection};

/// The first kernel whose netkits we use. They are there since 6.7, and have a MAC
/// of one's choice since 6.10, but redirecting out of one ends 6.11's first
/// releases (before "netkit: Assign missing bpf_net_context").
const SINCE: (u32, u32) = (6, 12);

/// What new containers get.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Wanted {
    /// A netkit if the kernel supports it, else a veth.
    Auto,
    /// A veth, which every kernel supports.
    #[default]
    Veth,
    /// A netkit, from Linux 6.12 on with CONFIG_NETKIT.
    Netkit,
}

/// A pair of devices for a container.
#[derive(Clone, Copy)]
pub struct Pair<'a> {
    /// What both are.
    pub device: Device,
    /// Name of the host side.
    pub host: &'a str,
    /// Name of the other side.
    pub inside: &'a str,
    /// Where the other side goes; without it, it stays on the host, for a
    /// runtime to move.
    pub netns: Option<&'a Netns>,
    /// MAC inside.
    pub mac: Mac,
    /// MTU of both ends.
    pub mtu: u32,
    /// Super-packets of both ends, bytes, if not the usual ones.
    pub super_packets: Option<u32>,
}

/// Decides what new containers get, which the kernel's own answer tells: it makes
/// a pair as they need it, or does not.
pub async fn choose(wanted: Wanted) -> Result<Device> {
    if wanted == Wanted::Veth {
        return Ok(Device::Veth);
    }
    match (try_netkit().await, wanted) {
        (Ok(()), _) => Ok(Device::Netkit),
        (Err(why), Wanted::Netkit) => Err(why.context(
            "--container-device netkit: this kernel has none (Linux 6.12 or later with CONFIG_NETKIT does); \
             use veth or auto",
        )),
        (Err(why), _) => {
            info!("new containers get a veth: {why:#}");
            Ok(Device::Veth)
        }
    }
}

/// Makes a pair where nobody sees it, and which nobody has to remove.
async fn try_netkit() -> Result<()> {
    let kernel = uname()?.release().to_string_lossy().into_owned();
    if version(&kernel) < SINCE {
        bail!("kernel {kernel} is older than {}.{}", SINCE.0, SINCE.1);
    }
    let pair = Pair {
        device: Device::Netkit,
        host: "probe0",
        inside: "probe1",
        netns: None,
        mac: GATEWAY_MAC,
        mtu: 1500,
        super_packets: None,
    };
    let netlink = new_netlink().await?;
    netlink.link().add(pair.message()).execute().await.context("the kernel makes no netkit")
}

/// The first two numbers of a kernel's release.
fn version(release: &str) -> (u32, u32) {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|part| part.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

/// Makes a pair with its inner end in the namespace at once, both ends down.
pub async fn add(netlink: &Handle, pair: &Pair<'_>) -> Result<()> {
    match (netlink.link().add(pair.message()).execute().await, pair.netns) {
        (Err(error), Some(netns)) if is(&error, libc::EEXIST) => bail!(Rejection::conflict(
            format!("interface {} exists in {} already", pair.inside, netns.path.display()),
            "choose another with --ifname"
        )),
        (result, _) => result.with_context(|| format!("create {}", pair.host)),
    }
}

impl Pair<'_> {
    fn message(&self) -> LinkMessage {
        let peer = LinkMessageBuilder::<LinkUnspec>::new()
            .name(self.inside)
            .mtu(self.mtu)
            .address(self.mac.0.to_vec());
        let mut peer = match self.netns {
            Some(netns) => peer.setns_by_fd(netns.fd().as_raw_fd()).build(),
            None => peer.build(),
        };
        peer.attributes.extend(self.super_packets.into_iter().flat_map(super_packets));
        let (kind, data) = info(self.device, peer);
        let mut message = LinkMessageBuilder::<LinkUnspec>::new()
            .name(self.host)
            .mtu(self.mtu)
            .address(GATEWAY_MAC.0.to_vec())
            .build();
        let info = vec![LinkInfo::Kind(kind), LinkInfo::Data(data)];
        message.attributes.push(LinkAttribute::LinkInfo(info));
        message.attributes.extend(self.super_packets.into_iter().flat_map(super_packets));
        message
    }
}

fn info(device: Device, peer: LinkMessage) -> (InfoKind, InfoData) {
    match device {
        Device::Veth => (InfoKind::Veth, InfoData::Veth(InfoVeth::Peer(peer))),
        Device::Netkit => {
            // What the container sends without a program is dropped.
            let parts = vec![
                InfoNetkit::Mode(NetkitMode::L2),
                InfoNetkit::Policy(NetkitPolicy::Pass),
                InfoNetkit::PeerPolicy(NetkitPolicy::Drop),
                InfoNetkit::Peer(peer),
            ];
            (InfoKind::Netkit, InfoData::Netkit(parts))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{SINCE, version};

    #[test]
    fn a_release_is_compared_by_its_numbers() {
        assert_eq!(version("6.12.111+deb12-cloud-amd64"), (6, 12));
        assert!(version("6.9.0") < SINCE && version("6.11.1-1") < SINCE && version("5.15") < SINCE);
        assert!(version("7.0") > SINCE && version("6.18.44-fc") > SINCE);
    }
}
