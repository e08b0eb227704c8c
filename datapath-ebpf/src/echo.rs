//! Echo (RFC 792, RFC 4443 section 4.1) for the gateway's own address.

use margay_common::{
    net::{Addr, Family, GATEWAY_MAC},
    verdict::DropReason,
};

use crate::{
    forward::Forward,
    ip::Ip,
    packet::{Bytes, ETH_LEN, IPV4_LEN, IPV6_LEN, Packet, V4_ADDRESSES, V6_ADDRESSES},
};

/// Turns an echo request into its reply, in place. A request in fragments or
/// behind options gets none: the gateway does not reassemble.
#[inline(always)]
pub fn decide(packet: &Packet<'_>, ip: &Ip) -> Result<Forward, DropReason> {
    let (request, reply, l4) = match ip.family {
        Family::V4 => (8, 0, ETH_LEN + IPV4_LEN),
        Family::V6 => (128, 129, ETH_LEN + IPV6_LEN),
    };
    if ip.icmp_type(packet) != Some(request) || ip.is_fragment() || ip.l4 != l4 {
        return Err(DropReason::GatewayPort);
    }
    turn(packet, ip, l4, reply).ok_or(DropReason::Malformed)?;
    // To the interface that asked, which need not be the one that the source
    // address belongs to.
    let asker = packet.ethernet().ok_or(DropReason::Malformed)?.src;
    packet.set_macs(asker, GATEWAY_MAC.word()).ok_or(DropReason::Malformed)?;
    Ok(Forward::Answer)
}

#[inline(always)]
fn turn(packet: &Packet<'_>, ip: &Ip, l4: usize, reply: u8) -> Option<()> {
    packet.pull(l4 + 4);
    match ip.family {
        Family::V4 => turn_at(packet, ETH_LEN + IPV4_LEN, reply)?,
        Family::V6 => turn_at(packet, ETH_LEN + IPV6_LEN, reply)?,
    }
    match ip.family {
        Family::V4 => packet.write(V4_ADDRESSES, [ip.dst.v4_word(), ip.src.v4_word()]),
        Family::V6 => packet.write::<[Addr; 2]>(V6_ADDRESSES, [ip.dst, ip.src]),
    }
}

/// Changes the type and, by RFC 1624, the checksum. Swapping the addresses
/// leaves both checksums as they are.
#[inline(always)]
fn turn_at(packet: &Packet<'_>, l4: usize, reply: u8) -> Option<()> {
    let [kind, sum]: [u16; 2] = packet.read(l4)?;
    let answer = u16::from_be(kind) & 0xff | u16::from(reply) << 8;
    let sum = u32::from(!u16::from_be(sum)) + u32::from(!u16::from_be(kind)) + u32::from(answer);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    packet.write(l4, [answer.to_be(), (!(sum as u16)).to_be()])
}
