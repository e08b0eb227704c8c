//! The packet: the only unsafe access to its bytes and to the kernel's helpers
//! that act on it.

use core::{
    ffi::c_void,
    mem::{offset_of, size_of},
};

use aya_ebpf::{
    bindings::{__sk_buff, BPF_F_RECOMPUTE_CSUM, bpf_adj_room_mode::BPF_ADJ_ROOM_MAC, bpf_redir_neigh},
    helpers::{
        bpf_redirect, bpf_redirect_neigh, bpf_redirect_peer, bpf_skb_adjust_room, bpf_skb_change_tail,
        bpf_skb_change_type, bpf_skb_load_bytes, bpf_skb_pull_data, bpf_skb_store_bytes, bpf_skb_vlan_pop,
    },
    programs::TcContext,
};
use margay_common::{
    icmp::QUOTE_MAX,
    net::{Addr, Family, Mac, MacWord, REPLY_MARK, REPLY_MASK},
};
use zerocopy::{FromBytes, IntoBytes};

/// Length of an Ethernet header; every frame here has one without tags.
pub const ETH_LEN: usize = 14;
/// Length of an IPv4 header without options.
pub const IPV4_LEN: usize = 20;
/// Length of an IPv6 header without extensions.
pub const IPV6_LEN: usize = 40;

/// Where the source lies in a frame of IPv4, and behind it the destination.
pub const V4_ADDRESSES: usize = ETH_LEN + 12;
/// The same of IPv6.
pub const V6_ADDRESSES: usize = ETH_LEN + 8;

/// EtherTypes as they lie in a frame.
pub const IPV4: u16 = 0x0800_u16.to_be();
/// IPv6.
pub const IPV6: u16 = 0x86dd_u16.to_be();
/// ARP.
pub const ARP: u16 = 0x0806_u16.to_be();
/// A VLAN tag that the device left in the frame.
pub const VLAN: u16 = 0x8100_u16.to_be();
/// A service VLAN tag.
pub const QINQ: u16 = 0x88a8_u16.to_be();

/// The bits of a VLAN tag that name the VLAN.
const VLAN_ID: u32 = 0x0fff;
/// Consecutive priority tags that a frame may have. Nobody sends more than two.
const PRIORITY_TAGS_MAX: usize = 4;

/// `pkt_type` of a frame that is addressed to the device it came in on.
const PACKET_HOST: u32 = 0;
/// The same of a frame that is addressed to another machine.
const PACKET_OTHERHOST: u32 = 3;
/// Address families in `bpf_redir_neigh`.
const AF_INET: u32 = 2;
const AF_INET6: u32 = 10;

/// What is read of an Ethernet header.
#[derive(Clone, Copy)]
pub struct Link {
    /// Destination.
    pub dst: MacWord,
    /// Source.
    pub src: MacWord,
    /// EtherType, network byte order.
    pub kind: u16,
}

/// The bytes of a frame that are directly accessible, in whatever kind of
/// program.
pub trait Bytes {
    /// The address of the first byte.
    fn start(&self) -> usize;

    /// The address behind the last one.
    fn end(&self) -> usize;

    /// Makes the first `len` bytes directly accessible, as far as there are any.
    /// Drivers may leave headers in page fragments, so this is not a given.
    fn pull(&self, len: usize);

    /// A view of the `T` at `offset`, where the frame has that many bytes.
    /// `offset` has to be a constant for the verifier.
    #[inline(always)]
    fn at<T>(&self, offset: usize) -> Option<*mut T> {
        let start = self.start();
        if start + offset + size_of::<T>() > self.end() {
            return None;
        }
        Some((start + offset) as *mut T)
    }

    /// Copies the `T` at `offset`.
    #[inline(always)]
    fn read<T: FromBytes + Copy>(&self, offset: usize) -> Option<T> {
        // SAFETY: `at` compared the end with the frame's, and every bit
        // pattern is a `T`. Alignment: BPF loads take any address where the
        // kernel's machine does, and the verifier refuses the program elsewhere.
        self.at::<T>(offset).map(|p| unsafe { *p })
    }

    /// Writes the `T` at `offset`.
    #[inline(always)]
    fn write<T: IntoBytes>(&self, offset: usize, value: T) -> Option<()> {
        // SAFETY: as in `read`; no reference to the bytes lives across this,
        // since `read` copies.
        self.at::<T>(offset).map(|p| unsafe { *p = value })
    }

    /// Replaces the `T` at `offset` by what is made of it.
    #[inline(always)]
    fn update<T: FromBytes + IntoBytes + Copy>(
        &self,
        offset: usize,
        make: impl FnOnce(T) -> T,
    ) -> Option<()> {
        // SAFETY: as in `read` and `write`; what makes the new one has a copy of the old.
        self.at::<T>(offset).map(|p| unsafe { *p = make(*p) })
    }

    /// The Ethernet header, in two loads: the destination with two bytes of the source,
    /// and the source with the EtherType.
    #[inline(always)]
    fn ethernet(&self) -> Option<Link> {
        let header = self.at::<[u8; ETH_LEN]>(0)?;
        // SAFETY: the eight bytes from 0 and those from 6 are the fourteen that `at` compared
        // with the frame's. Alignment: as in `read`; both are never aligned at once.
        let (first, last) = unsafe { (*header.cast::<u64>(), *header.byte_add(6).cast::<u64>()) };
        let [.., high, low] = last.to_ne_bytes();
        Some(Link {
            dst: MacWord::first_of(first),
            src: MacWord::first_of(last),
            kind: u16::from_ne_bytes([high, low]),
        })
    }

    /// Writes both MACs.
    #[inline(always)]
    fn set_macs(&self, dst: MacWord, src: MacWord) -> Option<()> {
        let [a, b, c, d, e, f, ..] = src.get().to_ne_bytes();
        let first = dst.get() | u64::from_ne_bytes([0, 0, 0, 0, 0, 0, a, b]);
        let header = self.at::<[Mac; 2]>(0)?;
        // SAFETY: eight bytes and the four behind them are the twelve that `at` compared
        // with the frame's. Alignment and references: as in `read` and `write`.
        unsafe {
            *header.cast::<u64>() = first;
            *header.byte_add(8).cast::<u32>() = u32::from_ne_bytes([c, d, e, f]);
        }
        Some(())
    }
}

/// One packet in one run of a program.
pub struct Packet<'a> {
    ctx: &'a TcContext,
}

impl Bytes for Packet<'_> {
    #[inline(always)]
    fn start(&self) -> usize {
        self.ctx.data()
    }

    #[inline(always)]
    fn end(&self) -> usize {
        self.ctx.data_end()
    }

    #[inline(always)]
    fn pull(&self, len: usize) {
        if self.ctx.data() + len > self.ctx.data_end() {
            // SAFETY: the helper takes any length and fails if the packet has
            // less; the views are made anew after it, as `at` does each time.
            unsafe { bpf_skb_pull_data(self.skb(), len as u32) };
        }
    }
}

impl<'a> Packet<'a> {
    /// Wraps the context of a program.
    #[inline(always)]
    pub fn new(ctx: &'a TcContext) -> Self {
        Self { ctx }
    }

    #[inline(always)]
    fn skb(&self) -> *mut __sk_buff {
        self.ctx.skb.skb
    }

    /// Length of the frame: payload of a super-packet and link header included.
    #[inline(always)]
    pub fn len(&self) -> u32 {
        self.ctx.len()
    }

    /// Length without the link header.
    #[inline(always)]
    pub fn l3_len(&self) -> u32 {
        self.len().wrapping_sub(ETH_LEN as u32)
    }

    /// The interface whose hook this run belongs to.
    #[inline(always)]
    pub fn ifindex(&self) -> u32 {
        // SAFETY: the kernel passes a context that is valid for the whole run
        // and rewrites this access into one of its own structure.
        unsafe { (*self.skb()).ifindex }
    }

    /// The interface that the packet came in on, or 0. 0 does not prove that this host made
    /// it: the kernel also loses the interface when it fragments a forwarded IPv6 packet.
    #[inline(always)]
    pub fn ingress_ifindex(&self) -> u32 {
        // SAFETY: as in `ifindex`.
        unsafe { (*self.skb()).ingress_ifindex }
    }

    /// Whether a socket of this host sends the packet, including the kernel's own (echo
    /// replies, ICMP errors). Forwarded packets have none: the stack detaches the sender's
    /// socket when it receives them (`skb_orphan` in `ip_rcv_core`).
    #[inline(always)]
    pub fn has_socket(&self) -> bool {
        // SAFETY: as in `ifindex`; whichever field of the union is read, it is a pointer,
        // and it is compared and not followed.
        unsafe { !(*self.skb()).__bindgen_anon_2.sk.is_null() }
    }

    /// Whether the host's own rules say that the packet answers what a container
    /// sent to the world. Containers cannot say so: their namespace's border
    /// takes marks off.
    #[inline(always)]
    pub fn is_masqueraded_reply(&self) -> bool {
        // SAFETY: as in `ifindex`.
        unsafe { (*self.skb()).mark & REPLY_MASK == REPLY_MARK }
    }

    /// Payload of one segment of a super-packet, 0 for a plain packet.
    #[inline(always)]
    pub fn gso_size(&self) -> u32 {
        // SAFETY: as in `ifindex`.
        unsafe { (*self.skb()).gso_size }
    }

    /// The EtherType by which the kernel handles the packet. At a veth's ingress it
    /// is the frame's own; a netkit keeps what a raw socket was told.
    #[inline(always)]
    pub fn protocol(&self) -> u16 {
        // SAFETY: as in `ifindex`.
        unsafe { (*self.skb()).protocol as u16 }
    }

    /// Whether the frame has a VLAN tag, which the kernel keeps in the metadata.
    #[inline(always)]
    pub fn had_vlan(&self) -> bool {
        // SAFETY: as in `ifindex`.
        unsafe { (*self.skb()).vlan_present != 0 }
    }

    /// Whether that tag is a priority tag: VLAN 0 (IEEE 802.1Q section 6.9.1).
    #[inline(always)]
    fn has_priority_tag(&self) -> bool {
        // SAFETY: as in `ifindex`.
        self.had_vlan() && unsafe { (*self.skb()).vlan_tci } & VLAN_ID == 0
    }

    /// Removes the outermost priority tags, 802.1Q and 802.1ad, as the kernel does after the
    /// programs have run. Each removal moves the next tag of the frame into the metadata.
    /// Fails if more than [`PRIORITY_TAGS_MAX`] follow each other. A function of its own:
    /// inlined, it makes LLVM compute pointers into the context, which verifiers refuse.
    #[inline(never)]
    pub fn strip_priority_tags(&self) -> Result<(), ()> {
        for _ in 0..PRIORITY_TAGS_MAX {
            if !self.has_priority_tag() {
                return Ok(());
            }
            // SAFETY: the helper takes a tag off the frame or fails; no view outlives it.
            if unsafe { bpf_skb_vlan_pop(self.skb()) } != 0 {
                return Err(());
            }
        }
        if self.has_priority_tag() { Err(()) } else { Ok(()) }
    }

    /// Whether the frame is addressed to the device that it came in on.
    #[inline(always)]
    pub fn is_for_this_host(&self) -> bool {
        // SAFETY: as in `ifindex`.
        unsafe { (*self.skb()).pkt_type == PACKET_HOST }
    }

    /// Whether the frame is addressed to another machine, and only overheard.
    #[inline(always)]
    pub fn is_for_another_host(&self) -> bool {
        // SAFETY: as in `ifindex`.
        unsafe { (*self.skb()).pkt_type == PACKET_OTHERHOST }
    }

    /// The family by the kernel's own notion of the protocol.
    #[inline(always)]
    pub fn family(&self) -> Option<Family> {
        // SAFETY: as in `ifindex`.
        match unsafe { (*self.skb()).protocol } as u16 {
            IPV4 => Some(Family::V4),
            IPV6 => Some(Family::V6),
            _ => None,
        }
    }

    /// Copies bytes from anywhere in the packet, also from page fragments and
    /// at a variable offset: for the rare paths. Fails past the end.
    #[inline(always)]
    pub fn load<T: FromBytes + IntoBytes + Default>(&self, offset: usize) -> Option<T> {
        let mut value = T::default();
        let (to, len) = ((&raw mut value).cast::<c_void>(), size_of::<T>() as u32);
        // SAFETY: the helper writes `len` bytes into `value`, which has that
        // size and takes every bit pattern, or none at all.
        match unsafe { bpf_skb_load_bytes(self.skb().cast(), offset as u32, to, len) } {
            0 => Some(value),
            _ => None,
        }
    }

    /// Copies the first `len` bytes behind the link header.
    #[inline(always)]
    pub fn load_quote(&self, to: &mut [u8; QUOTE_MAX], len: QuoteLen) -> Option<()> {
        let to = to.as_mut_ptr().cast();
        // SAFETY: a `QuoteLen` is at most the size of the buffer.
        match unsafe { bpf_skb_load_bytes(self.skb().cast(), ETH_LEN as u32, to, len.0) } {
            0 => Some(()),
            _ => None,
        }
    }

    /// Resizes the frame to `len` bytes, at most [`RENEWED`], of which the caller then writes
    /// everything behind the Ethernet header. A super-packet becomes a plain one.
    ///
    /// The old packet may be `CHECKSUM_PARTIAL`: the device, or the kernel for it, would
    /// compute the transport checksum later and write it into the new bytes. So all bytes
    /// that the checksum can start in are cut out at the front. Its start then lies before
    /// the frame, and the kernel clears the state (`skb_postpull_rcsum`, here or in the next
    /// [`Self::store`]). Fails if the checksum's field lies beyond `len`.
    #[inline(always)]
    pub fn renew(&self, len: usize) -> Result<(), ()> {
        self.resize(len)?;
        self.resize(len + RENEWED)?;
        // SAFETY: the helper takes bytes out or fails; no view outlives it.
        match unsafe { bpf_skb_adjust_room(self.skb(), -(RENEWED as i32), BPF_ADJ_ROOM_MAC, 0) } {
            0 => Ok(()),
            _ => Err(()),
        }
    }

    #[inline(always)]
    fn resize(&self, len: usize) -> Result<(), ()> {
        // SAFETY: the helper resizes the frame or fails; no view outlives it.
        match unsafe { bpf_skb_change_tail(self.skb(), len as u32, 0) } {
            0 => Ok(()),
            _ => Err(()),
        }
    }

    /// Writes bytes at `offset`, also into page fragments.
    #[inline(always)]
    pub fn store<const N: usize>(&self, offset: usize, from: &[u8; N]) -> Result<(), ()> {
        self.store_from(offset, from.as_ptr().cast(), N as u32)
    }

    /// Writes the first `len` bytes of a quote at `offset`.
    #[inline(always)]
    pub fn store_quote(&self, offset: usize, from: &[u8; QUOTE_MAX], len: QuoteLen) -> Result<(), ()> {
        self.store_from(offset, from.as_ptr().cast(), len.0)
    }

    #[inline(always)]
    fn store_from(&self, offset: usize, from: *const c_void, len: u32) -> Result<(), ()> {
        // Kernels without "bpf: pull before calling skb_postpull_rcsum()" clear the state of
        // a renewed frame only here.
        let flags = BPF_F_RECOMPUTE_CSUM.into();
        // SAFETY: both callers pass a length that their buffer has, and the
        // helper refuses what does not fit into the frame.
        match unsafe { bpf_skb_store_bytes(self.skb(), offset as u32, from, len, flags) } {
            0 => Ok(()),
            _ => Err(()),
        }
    }

    /// Marks the packet as addressed to whom it reaches next, and takes off
    /// the mark that the host's own rules may have set.
    #[inline(always)]
    pub fn adopt(&self) {
        self.ctx.set_mark(0);
        if !self.is_for_this_host() {
            // SAFETY: the helper changes a field of the packet only. Without
            // this, kernels before 6.15 deliver a frame that came by multicast
            // or promiscuously as one for somebody else.
            unsafe { bpf_skb_change_type(self.skb(), PACKET_HOST) };
        }
    }

    /// Sends the packet out of an interface, or with `BPF_F_INGRESS` into it.
    #[inline(always)]
    pub fn redirect(&self, ifindex: u32, flags: u64) -> i32 {
        // SAFETY: the helper notes the interface for after the run; an unknown
        // one drops the packet.
        unsafe { bpf_redirect(ifindex, flags) as i32 }
    }

    /// Puts the packet into the namespace at the other end of a container's interface.
    #[inline(always)]
    pub fn redirect_peer(&self, ifindex: u32) -> i32 {
        // SAFETY: as in `redirect`.
        unsafe { bpf_redirect_peer(ifindex, 0) as i32 }
    }

    /// Sends the packet out of an interface to a next hop, whose MAC the
    /// kernel's neighbour table knows or asks for.
    #[inline(always)]
    pub fn redirect_neigh(&self, ifindex: u32, next_hop: &Addr) -> i32 {
        let mut neigh = Neigh { reserved: 0, family: AF_INET6, addr: *next_hop };
        if next_hop.is_v4() {
            neigh.family = AF_INET;
            neigh.addr = Addr([zerocopy::transmute!([next_hop.v4_word(), 0]), 0]);
        }
        let len = size_of::<bpf_redir_neigh>() as i32;
        // SAFETY: from `family` on, `neigh` is what the helper takes, and it copies that
        // before it returns.
        unsafe { bpf_redirect_neigh(ifindex, (&raw mut neigh).byte_add(NEIGH).cast(), len, 0) as i32 }
    }

    /// Sends the packet out of an interface to the next hop of the kernel's
    /// own routing table.
    #[inline(always)]
    pub fn redirect_routed(&self, ifindex: u32) -> i32 {
        // SAFETY: a null pointer with length 0 asks for the kernel's routing.
        unsafe { bpf_redirect_neigh(ifindex, core::ptr::null_mut(), 0, 0) as i32 }
    }
}

/// A next hop as `bpf_redirect_neigh` takes it: from `family` on this is a
/// `bpf_redir_neigh`, and what stands before it aligns the address. One of IPv4 is the
/// first four bytes of it.
#[repr(C)]
struct Neigh {
    reserved: u32,
    family: u32,
    addr: Addr,
}

const NEIGH: usize = offset_of!(Neigh, family);
const _: () = assert!(size_of::<Neigh>() - NEIGH == size_of::<bpf_redir_neigh>());

/// Bytes of the longest frame that the programs write: an ICMPv6 error with its quote.
pub const RENEWED: usize = ETH_LEN + IPV6_LEN + 8 + QUOTE_MAX;

/// How much of a packet is quoted: 1 to [`QUOTE_MAX`] bytes.
#[derive(Clone, Copy)]
pub struct QuoteLen(u32);

const _: () = assert!(QUOTE_MAX.is_power_of_two());

impl QuoteLen {
    /// As much as there is. The bound is arithmetic and not a comparison: the
    /// compiler would fold a comparison into a form from which verifiers
    /// before 6.12 learn nothing about the length itself.
    #[inline(always)]
    pub fn of(packet: &Packet<'_>) -> Self {
        let len = packet.l3_len() as usize;
        let len = if len > QUOTE_MAX { QUOTE_MAX } else { len };
        let last = core::hint::black_box(len.wrapping_sub(1)) & (QUOTE_MAX - 1);
        Self(last as u32 + 1)
    }

    /// In bytes.
    #[inline(always)]
    pub fn get(self) -> usize {
        self.0 as usize
    }
}
