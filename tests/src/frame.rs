//! Frames as a container or the wire would carry them.

use std::net::IpAddr;

use etherparse::{EtherType, IpFragOffset, IpNumber, Ipv4Header, Ipv6Header, PacketBuilder};

/// The MAC of the gateway.
pub const GATEWAY: [u8; 6] = [0xee; 6];

/// A frame under construction: UDP by default.
#[derive(Clone)]
pub struct Frame {
    /// Source MAC.
    pub eth_src: [u8; 6],
    /// Destination MAC.
    pub eth_dst: [u8; 6],
    /// Source address.
    pub src: IpAddr,
    /// Destination address.
    pub dst: IpAddr,
    /// TTL or hop limit.
    pub ttl: u8,
    /// The protocol behind the IP header.
    pub proto: u8,
    /// What is behind the IP header.
    pub payload: Vec<u8>,
    /// IPv4 options.
    pub options: Vec<u8>,
    /// IPv4's fragment offset in units of 8 bytes, and "more fragments".
    pub fragment: Option<(u16, bool)>,
}

impl Frame {
    /// A UDP datagram of 32 bytes to port 33434, addressed to the gateway's MAC.
    pub fn udp(eth_src: [u8; 6], src: IpAddr, dst: IpAddr) -> Self {
        Self::udp_of(eth_src, src, dst, 32)
    }

    /// A UDP datagram of that many bytes.
    pub fn udp_of(eth_src: [u8; 6], src: IpAddr, dst: IpAddr, len: usize) -> Self {
        let mut payload = vec![0x9c, 0x40, 0x82, 0x9a];
        payload.extend(((len + 8) as u16).to_be_bytes());
        payload.extend([0, 0]);
        payload.extend((0..len).map(|i| i as u8));
        Self {
            eth_src,
            eth_dst: GATEWAY,
            src,
            dst,
            ttl: 64,
            proto: 17,
            payload,
            options: Vec::new(),
            fragment: None,
        }
    }

    /// An echo request with a right checksum.
    pub fn echo(eth_src: [u8; 6], src: IpAddr, dst: IpAddr) -> Self {
        let packet = match (src, dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                let builder = PacketBuilder::ipv4(src.octets(), dst.octets(), 64);
                write(builder.icmpv4_echo_request(7, 1), b"hello, gateway")[20..].to_vec()
            }
            (IpAddr::V6(src), IpAddr::V6(dst)) => {
                let builder = PacketBuilder::ipv6(src.octets(), dst.octets(), 64);
                write6(builder.icmpv6_echo_request(7, 1), b"hello, gateway")[40..].to_vec()
            }
            _ => panic!("{src} and {dst} are of two families"),
        };
        let proto = if src.is_ipv4() { 1 } else { 58 };
        Self { proto, payload: packet, ..Self::udp(eth_src, src, dst) }
    }

    /// The same with another payload and protocol.
    pub fn carrying(self, proto: u8, payload: &[u8]) -> Self {
        Self { proto, payload: payload.to_vec(), ..self }
    }

    /// The same with another TTL or hop limit.
    pub fn ttl(self, ttl: u8) -> Self {
        Self { ttl, ..self }
    }

    /// The same from another source address.
    pub fn from(self, src: IpAddr) -> Self {
        Self { src, ..self }
    }

    /// The same to another MAC.
    pub fn to_mac(self, eth_dst: [u8; 6]) -> Self {
        Self { eth_dst, ..self }
    }

    /// The bytes.
    pub fn bytes(&self) -> Vec<u8> {
        let ether_type = if self.src.is_ipv4() { EtherType::IPV4 } else { EtherType::IPV6 };
        let mut frame = [self.eth_dst, self.eth_src].concat();
        frame.extend(ether_type.0.to_be_bytes());
        frame.extend(self.ip_header());
        frame.extend(&self.payload);
        frame
    }

    fn ip_header(&self) -> Vec<u8> {
        match (self.src, self.dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                let len = self.payload.len() as u16;
                let mut header =
                    Ipv4Header::new(len, self.ttl, IpNumber(self.proto), src.octets(), dst.octets())
                        .expect("fits");
                header.options = self.options.as_slice().try_into().expect("a multiple of four");
                header.set_payload_len(self.payload.len()).expect("fits");
                if let Some((offset, more)) = self.fragment {
                    header.dont_fragment = false;
                    header.more_fragments = more;
                    header.fragment_offset = IpFragOffset::try_new(offset).expect("13 bits");
                }
                header.header_checksum = header.calc_header_checksum();
                header.to_bytes().to_vec()
            }
            (IpAddr::V6(src), IpAddr::V6(dst)) => {
                let header = Ipv6Header {
                    payload_length: self.payload.len() as u16,
                    next_header: IpNumber(self.proto),
                    hop_limit: self.ttl,
                    source: src.octets(),
                    destination: dst.octets(),
                    ..Ipv6Header::default()
                };
                header.to_bytes().to_vec()
            }
            _ => panic!("{} and {} are of two families", self.src, self.dst),
        }
    }
}

fn write(builder: etherparse::PacketBuilderStep<etherparse::Icmpv4Header>, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    builder.write(&mut bytes, payload).expect("memory takes it");
    bytes
}

fn write6(builder: etherparse::PacketBuilderStep<etherparse::Icmpv6Header>, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    builder.write(&mut bytes, payload).expect("memory takes it");
    bytes
}

/// An ARP packet: operation, sender, target.
pub fn arp(eth_src: [u8; 6], operation: u16, sender: ([u8; 6], [u8; 4]), target: [u8; 4]) -> Vec<u8> {
    let mut frame = [[0xff; 6], eth_src].concat();
    frame.extend([0x08, 0x06, 0, 1, 8, 0, 6, 4]);
    frame.extend(operation.to_be_bytes());
    frame.extend(sender.0);
    frame.extend(sender.1);
    frame.extend([0; 6]);
    frame.extend(target);
    frame
}

/// The ones' complement sum of 16-bit words, folded: 0xffff for bytes that
/// carry their own right checksum.
pub fn sum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|c| u32::from(c[0]) << 8 | u32::from(*c.get(1).unwrap_or(&0)));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// Whether the ICMPv6 message of a frame without extensions has a right
/// checksum.
pub fn icmpv6_checksum_is_right(frame: &[u8]) -> bool {
    let payload = &frame[54..];
    let mut covered = frame[22..54].to_vec();
    covered.extend((payload.len() as u32).to_be_bytes());
    covered.extend([0, 0, 0, 58]);
    covered.extend(payload);
    sum(&covered) == 0xffff
}
