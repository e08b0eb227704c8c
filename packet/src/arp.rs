//! ARP (RFC 826) from an endpoint: the gateway is the only neighbour.

use margay_common::{
    net::{Addr, GATEWAY_MAC, Mac, MacWord},
    verdict::DropReason,
};

use crate::frame::Frame;

/// Hardware type Ethernet, protocol IPv4, lengths 6 and 4.
const ETHERNET_IPV4: [u8; 6] = [0, 1, 8, 0, 6, 4];
const REQUEST: u16 = 1_u16.to_be();
const REPLY: u16 = 2_u16.to_be();

/// Offsets of the parts of a message: the constants above, the operation, the MAC and address
/// of the sender, and those of the target.
const OPERATION: usize = 6;
const SENDER: usize = 8;
const TARGET: usize = 18;
const LEN: usize = 28;

/// A message, read part by part: the parts are not aligned, and the verifier refuses unaligned
/// access to the stack.
struct Arp {
    kinds: MacWord,
    operation: u16,
    sender_mac: MacWord,
    sender: u32,
    target: u32,
}

impl Arp {
    #[inline(always)]
    fn read<F: Frame>(frame: &F) -> Option<Self> {
        frame.pull(F::L3 + LEN);
        Some(Self {
            target: frame.get(F::L3 + TARGET + 6)?,
            sender: frame.get(F::L3 + SENDER + 6)?,
            sender_mac: MacWord::first_of(frame.get(F::L3 + SENDER)?),
            operation: frame.get(F::L3 + OPERATION)?,
            kinds: MacWord::first_of(frame.get(F::L3)?),
        })
    }
}

/// Answers a request for the gateway in place; all other ARP is dropped. `owns` says whether
/// the container behind `mac` may use an address.
///
/// # Errors
///
/// The message is no request for the gateway, or forges its sender.
#[inline(always)]
pub fn answer<F: Frame>(
    frame: &F,
    mac: MacWord,
    gateway: &Addr,
    owns: impl FnOnce(&Addr) -> bool,
) -> Result<(), DropReason> {
    let arp = Arp::read(frame).ok_or(DropReason::Malformed)?;
    if arp.kinds != Mac(ETHERNET_IPV4).word() {
        return Err(DropReason::Malformed);
    }
    if arp.sender_mac != mac {
        return Err(DropReason::SpoofedMac);
    }
    // An address probe (RFC 5227) has no sender address yet.
    if arp.sender != 0 && !owns(&Addr::from_v4_word(arp.sender)) {
        return Err(DropReason::SpoofedSource);
    }
    if arp.operation != REQUEST || Addr::from_v4_word(arp.target) != *gateway {
        return Err(DropReason::Neighbour);
    }
    write(frame, &arp).ok_or(DropReason::Malformed)
}

/// Turns a request into its reply.
#[inline(always)]
fn write<F: Frame>(frame: &F, arp: &Arp) -> Option<()> {
    frame.set(F::L3 + OPERATION, REPLY)?;
    frame.set_pair(F::L3 + SENDER, GATEWAY_MAC.word(), arp.target)?;
    frame.set_pair(F::L3 + TARGET, arp.sender_mac, arp.sender)?;
    frame.set_macs(arp.sender_mac, GATEWAY_MAC.word())
}
