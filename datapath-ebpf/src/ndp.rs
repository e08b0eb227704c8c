//! Neighbour discovery (RFC 4861) from an endpoint: the gateway is the only
//! neighbour.

use margay_common::{
    endpoint::Workload,
    net::{Addr, GATEWAY_MAC, Mac},
    verdict::DropReason,
};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::{
    forward::Forward,
    from_workload::may_use,
    icmp,
    ip::{ICMPV6, Ip},
    packet::{ETH_LEN, IPV6, IPV6_LEN, Packet},
};

const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;
/// Router, solicited, override.
const FLAGS: u32 = 0xe000_0000_u32.to_be();
/// Target link-layer address, one unit of 8 bytes.
const TARGET_MAC: [u8; 2] = [2, 1];
/// Neighbour discovery is believed with this hop limit only.
const HOP_LIMIT: u8 = 255;

/// The message behind the IPv6 header, options left out.
#[derive(Clone, Copy, Default, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct Message {
    kind: u8,
    code: u8,
    checksum: u16,
    flags: u32,
    target: Addr,
}

/// An Ethernet header, as it is written.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct Ethernet {
    dst: Mac,
    src: Mac,
    kind: u16,
}

/// A whole advertisement.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable)]
#[repr(C, packed)]
struct Advertisement {
    ethernet: Ethernet,
    version: u32,
    payload_len: u16,
    next: u8,
    hop_limit: u8,
    src: Addr,
    dst: Addr,
    message: Message,
    option: [u8; 2],
    mac: Mac,
}

const LEN: usize = size_of::<Advertisement>();
const PAYLOAD_LEN: usize = LEN - ETH_LEN - IPV6_LEN;

/// Whether a message is neighbour discovery: router solicitation to redirect.
#[inline(always)]
pub const fn is_ndp(kind: u8) -> bool {
    matches!(kind, 133..=137)
}

/// Answers a solicitation for the gateway; everything else goes nowhere. The
/// kernel's probes come from link-local sources.
#[inline(always)]
pub fn decide(packet: &Packet<'_>, workload: &Workload, ip: &Ip) -> Result<Forward, DropReason> {
    let message: Message = packet.load(ip.l4).ok_or(DropReason::Malformed)?;
    let gateway = workload.v6.gateway;
    let ours = message.kind == SOLICITATION && message.target == gateway;
    // Duplicate address detection has no source and wants no answer.
    if !ours || ip.src.is_unspecified() {
        return Err(DropReason::Neighbour);
    }
    if ip.ttl != HOP_LIMIT || message.code != 0 {
        return Err(DropReason::Malformed);
    }
    if !is_link_local(&ip.src) && !may_use(workload, &workload.v6, &ip.src) {
        return Err(DropReason::SpoofedSource);
    }
    let mut reply = Advertisement {
        ethernet: Ethernet { dst: workload.mac.mac(), src: GATEWAY_MAC, kind: IPV6 },
        version: 0x6000_0000_u32.to_be(),
        payload_len: (PAYLOAD_LEN as u16).to_be(),
        next: ICMPV6,
        hop_limit: HOP_LIMIT,
        src: gateway,
        dst: ip.src,
        message: Message { kind: ADVERTISEMENT, code: 0, checksum: 0, flags: FLAGS, target: gateway },
        option: TARGET_MAC,
        mac: GATEWAY_MAC,
    };
    reply.message.checksum = checksum(&reply);
    let bytes: [u8; LEN] = zerocopy::transmute!(reply);
    packet.renew(LEN).map_err(|()| DropReason::Malformed)?;
    packet.store(0, &bytes).map_err(|()| DropReason::Malformed)?;
    Ok(Forward::Answer)
}

/// What the checksum of an advertisement covers (RFC 8200 section 8.1).
#[derive(Clone, Copy, IntoBytes, Immutable)]
#[repr(C)]
struct Summed {
    src: Addr,
    dst: Addr,
    len: u32,
    next: u32,
    message: Message,
    option: [u8; 2],
    mac: Mac,
}

#[inline(always)]
fn checksum(reply: &Advertisement) -> u16 {
    let summed = Summed {
        src: reply.src,
        dst: reply.dst,
        len: (PAYLOAD_LEN as u32).to_be(),
        next: u32::from(ICMPV6).to_be(),
        message: reply.message,
        option: reply.option,
        mac: reply.mac,
    };
    let bytes: [u8; size_of::<Summed>()] = zerocopy::transmute!(summed);
    icmp::checksum(&bytes)
}

/// `fe80::/10`.
#[inline(always)]
pub fn is_link_local(addr: &Addr) -> bool {
    addr.0[0] & 0xffc0_0000_0000_0000_u64.to_be() == 0xfe80_0000_0000_0000_u64.to_be()
}
