//! ARP (RFC 826) from an endpoint: the gateway is the only neighbour.

use margay_common::{
    endpoint::Workload,
    net::{Addr, GATEWAY_MAC, Mac},
    verdict::DropReason,
};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::{
    forward::Forward,
    from_workload::may_use,
    packet::{Bytes, ETH_LEN, Packet},
};

/// Hardware type Ethernet, protocol IPv4, lengths 6 and 4.
const ETHERNET_IPV4: [u8; 6] = [0, 1, 8, 0, 6, 4];
const REQUEST: u16 = 1_u16.to_be();
const REPLY: u16 = 2_u16.to_be();

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable)]
#[repr(C, packed)]
struct Arp {
    kinds: [u8; 6],
    operation: u16,
    sender_mac: Mac,
    sender: u32,
    target_mac: Mac,
    target: u32,
}

/// Answers a request for the gateway; everything else goes nowhere.
#[inline(always)]
pub fn decide(packet: &Packet<'_>, workload: &Workload) -> Result<Forward, DropReason> {
    packet.pull(ETH_LEN + size_of::<Arp>());
    let arp: Arp = packet.read(ETH_LEN).ok_or(DropReason::Malformed)?;
    if arp.kinds != ETHERNET_IPV4 {
        return Err(DropReason::Malformed);
    }
    if arp.sender_mac.word() != workload.mac {
        return Err(DropReason::SpoofedMac);
    }
    // An address probe (RFC 5227) has no sender address yet.
    let sender = Addr::from_v4_word(arp.sender);
    if arp.sender != 0 && !may_use(workload, &workload.v4, &sender) {
        return Err(DropReason::SpoofedSource);
    }
    let for_gateway = Addr::from_v4_word(arp.target) == workload.v4.gateway;
    if arp.operation != REQUEST || !for_gateway {
        return Err(DropReason::Neighbour);
    }
    let reply = Arp {
        operation: REPLY,
        sender_mac: GATEWAY_MAC,
        sender: arp.target,
        target_mac: arp.sender_mac,
        target: arp.sender,
        ..arp
    };
    packet.write(ETH_LEN, reply).ok_or(DropReason::Malformed)?;
    packet.set_macs(workload.mac, GATEWAY_MAC.word()).ok_or(DropReason::Malformed)?;
    Ok(Forward::Answer)
}
