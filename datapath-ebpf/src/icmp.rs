//! ICMP (RFC 792) and ICMPv6 (RFC 4443) errors about dropped packets: what
//! makes traceroute and path-MTU discovery work.

use aya_ebpf::helpers::bpf_csum_diff;
use margay_common::{
    icmp::{IcmpError, QUOTE_MAX, is_error},
    net::{Addr, Family},
    verdict::{Note, Program},
};
use zerocopy::{Immutable, IntoBytes};

use crate::{
    count,
    ip::{ICMP, ICMPV6, Ip},
    maps::{self, SUM_LEN, Scratch},
    packet::{Bytes, ETH_LEN, IPV4_LEN, Packet, QuoteLen},
};

const ICMP_LEN: usize = 8;
/// Low-delay class of network control, as routers mark their errors
/// (RFC 1812 section 4.3.2.5).
const TOS: u8 = 0xc0;
const TTL: u8 = 64;

/// What an ICMP error about the packet would say, filled in as soon as it is
/// known. Without a source no error can be sent.
pub struct Blame {
    /// The gateway of the network concerned, source of the error.
    pub gateway: Addr,
    /// The MTU that a packet was too big for.
    pub mtu: u32,
}

impl Blame {
    /// Nothing to say yet.
    pub const NONE: Self = Self { gateway: Addr::UNSPECIFIED, mtu: 0 };
}

/// Replaces the packet by the error about it, addressed to its sender. Fails
/// where none may be sent. The header means something once there is a gateway: nobody
/// names one before a packet is parsed.
#[inline(always)]
pub fn answer(
    program: Program,
    packet: &Packet<'_>,
    error: IcmpError,
    ip: &Ip,
    blame: &Blame,
) -> Result<(), ()> {
    let gateway = &blame.gateway;
    if gateway.is_unspecified() || !deserves_error(packet, ip) {
        return Err(());
    }
    if !error.carries_mtu && !maps::may_send_error(&payer(program, ip)) {
        count::note(program, packet, Note::IcmpLimited);
        return Err(());
    }
    let ethernet = packet.ethernet().ok_or(())?;
    let scratch = maps::scratch().ok_or(())?;
    let quote = QuoteLen::of(packet);
    let header = seal(packet, ip, gateway, Header::new(error, blame.mtu), scratch, quote)?;
    write(packet, ip, gateway, header, scratch, quote)?;
    packet.set_macs(ethernet.src, ethernet.dst).ok_or(())?;
    count::note(program, packet, Note::IcmpSent);
    Ok(())
}

/// Whose budget an error is taken from. Containers and nodes have a budget each: their
/// source was verified by `from_workload`, here or on their own node, as far as the link
/// between the nodes is trusted. Everybody else can forge sources and shares one, so that
/// forged sources neither fill the table of budgets nor take errors from containers.
#[inline(always)]
fn payer(program: Program, ip: &Ip) -> Addr {
    match program {
        Program::FromWorkload => ip.src,
        _ => maps::sender(&ip.src),
    }
}

/// RFC 1122 section 3.2.2 and RFC 4443 section 2.4: no error about an error,
/// about a fragment other than the first, or to a sender that is no single
/// host. Multicast destinations are dropped without one.
#[inline(always)]
fn deserves_error(packet: &Packet<'_>, ip: &Ip) -> bool {
    let single = match ip.family {
        Family::V4 => {
            let first = ip.src.v4_word().to_ne_bytes()[0];
            first != 0 && first != 127 && first < 224
        }
        Family::V6 => !ip.src.is_unspecified() && !ip.src.is_multicast_v6(),
    };
    if !single || ip.is_later_fragment() {
        return false;
    }
    match ip.icmp_type(packet) {
        Some(kind) => !is_error(kind, ip.family),
        None => true,
    }
}

/// The first 8 bytes of an error.
#[derive(Clone, Copy, IntoBytes, Immutable)]
#[repr(C)]
struct Header {
    kind: u8,
    code: u8,
    checksum: u16,
    /// The MTU, at the end of these four bytes in both families.
    rest: u32,
}

impl Header {
    const ZERO: Self = Self { kind: 0, code: 0, checksum: 0, rest: 0 };

    #[inline(always)]
    fn new(error: IcmpError, mtu: u32) -> Self {
        let rest = if error.carries_mtu { mtu.to_be() } else { 0 };
        Self { kind: error.kind, code: error.code, checksum: 0, rest }
    }
}

/// What the checksum covers ahead of the quote: the pseudo header of RFC 8200
/// section 8.1, all zero for IPv4, and the error's own header.
#[derive(Clone, Copy, IntoBytes, Immutable)]
#[repr(C)]
struct Summed {
    src: Addr,
    dst: Addr,
    len: u32,
    next: u32,
    icmp: Header,
}

const SUMMED: usize = size_of::<Summed>();

/// Copies the quote into the scratch space and gives the error's header with
/// its checksum.
#[inline(always)]
fn seal(
    packet: &Packet<'_>,
    ip: &Ip,
    gateway: &Addr,
    mut icmp: Header,
    scratch: &mut Scratch,
    quote: QuoteLen,
) -> Result<Header, ()> {
    let mut summed = Summed { src: Addr::default(), dst: Addr::default(), len: 0, next: 0, icmp };
    if ip.family == Family::V6 {
        summed.src = *gateway;
        summed.dst = ip.src;
        summed.len = ((ICMP_LEN + quote.get()) as u32).to_be();
        summed.next = u32::from(ICMPV6).to_be();
    }
    let summed: [u8; SUMMED] = zerocopy::transmute!(summed);
    scratch.head = summed;
    scratch.quote = [0; QUOTE_MAX];
    packet.load_quote(&mut scratch.quote, quote).ok_or(())?;
    icmp.checksum = checksum::<SUM_LEN>(zerocopy::transmute_ref!(&*scratch));
    Ok(icmp)
}

#[derive(Clone, Copy, IntoBytes, Immutable)]
#[repr(C)]
struct HeadersV4 {
    version_ihl: u8,
    tos: u8,
    total_len: u16,
    id: u16,
    fragment: u16,
    ttl: u8,
    proto: u8,
    checksum: u16,
    src: u32,
    dst: u32,
    icmp: Header,
}

#[derive(Clone, Copy, IntoBytes, Immutable)]
#[repr(C)]
struct HeadersV6 {
    version: u32,
    payload_len: u16,
    next: u8,
    hop_limit: u8,
    src: Addr,
    dst: Addr,
    icmp: Header,
}

/// Makes the frame the error: new headers behind the Ethernet header, then the
/// quote.
#[inline(always)]
fn write(
    packet: &Packet<'_>,
    ip: &Ip,
    gateway: &Addr,
    icmp: Header,
    scratch: &Scratch,
    quote: QuoteLen,
) -> Result<(), ()> {
    match ip.family {
        Family::V4 => {
            let mut headers = HeadersV4 {
                version_ihl: 0x45,
                tos: TOS,
                total_len: ((IPV4_LEN + ICMP_LEN + quote.get()) as u16).to_be(),
                id: 0,
                fragment: 0,
                ttl: TTL,
                proto: ICMP,
                checksum: 0,
                src: gateway.v4_word(),
                dst: ip.src.v4_word(),
                icmp: Header::ZERO,
            };
            // The ICMP header is zero meanwhile, so it adds nothing.
            headers.checksum = checksum::<{ size_of::<HeadersV4>() }>(&zerocopy::transmute!(headers));
            headers.icmp = icmp;
            let headers: [u8; size_of::<HeadersV4>()] = zerocopy::transmute!(headers);
            packet.renew(ETH_LEN + headers.len() + quote.get())?;
            packet.store(ETH_LEN, &headers)?;
            packet.store_quote(ETH_LEN + headers.len(), &scratch.quote, quote)
        }
        Family::V6 => {
            let headers = HeadersV6 {
                version: 0x6000_0000_u32.to_be(),
                payload_len: ((ICMP_LEN + quote.get()) as u16).to_be(),
                next: ICMPV6,
                hop_limit: TTL,
                src: *gateway,
                dst: ip.src,
                icmp,
            };
            let headers: [u8; size_of::<HeadersV6>()] = zerocopy::transmute!(headers);
            packet.renew(ETH_LEN + headers.len() + quote.get())?;
            packet.store(ETH_LEN, &headers)?;
            packet.store_quote(ETH_LEN + headers.len(), &scratch.quote, quote)
        }
    }
}

/// The Internet checksum (RFC 1071) over a multiple of four bytes, at most
/// 512, as it goes into a header.
#[inline(always)]
pub fn checksum<const N: usize>(bytes: &[u8; N]) -> u16 {
    let to = bytes.as_ptr().cast_mut().cast();
    // SAFETY: the helper reads `N` bytes from `bytes` and writes nothing.
    let sum = unsafe { bpf_csum_diff(core::ptr::null_mut(), 0, to, N as u32, 0) } as u32;
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    !(sum as u16)
}
