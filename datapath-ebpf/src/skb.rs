//! The packet: the only unsafe access to its bytes and to the kernel's helpers
//! that act on it.

use core::{
    ffi::c_void,
    mem::{offset_of, size_of},
};

use aya_ebpf::{
    bindings::{__sk_buff, BPF_F_RECOMPUTE_CSUM, bpf_adj_room_mode::BPF_ADJ_ROOM_MAC, bpf_redir_neigh},
    helpers::{
        bpf_csum_diff, bpf_redirect, bpf_redirect_neigh, bpf_redirect_peer, bpf_skb_adjust_room,
        bpf_skb_change_tail, bpf_skb_change_type, bpf_skb_load_bytes, bpf_skb_pull_data, bpf_skb_store_bytes,
        bpf_skb_vlan_pop,
    },
    programs::TcContext,
};
use margay_common::{
    net::{Addr, Family, REPLY_MARK, REPLY_MASK},
    sent,
};
use margay_packet::{
    ETH_LEN, Frame, IPV4, IPV6, Packet, Part, icmp,
    walk::{self, Walked},
};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::maps::{self, Numbers};

/// The bits of a VLAN tag that name the VLAN.
const VLAN_ID: u32 = 0x0fff;
/// Consecutive priority tags that a frame may have. Real senders use two at most.
const PRIORITY_TAGS_MAX: usize = 4;

/// `pkt_type` of a frame that is addressed to the device it came in on.
const PACKET_HOST: u32 = 0;
/// The same of a frame that is addressed to another machine.
const PACKET_OTHERHOST: u32 = 3;
/// Address families in `bpf_redir_neigh`.
const AF_INET: u32 = 2;
const AF_INET6: u32 = 10;

/// The `T` at `offset` of the bytes from `start` to `end`. `offset` has to be a constant for
/// the verifier.
#[inline(always)]
pub fn view<T>(start: usize, end: usize, offset: usize) -> Option<*mut T> {
    if start + offset + size_of::<T>() > end {
        return None;
    }
    Some((start + offset) as *mut T)
}

/// One packet in one run of a program of tc.
pub struct Skb<'a> {
    ctx: &'a TcContext,
}

impl Frame for Skb<'_> {
    #[inline(always)]
    fn len(&self) -> u32 {
        self.ctx.len()
    }

    #[inline(always)]
    fn pull(&self, len: usize) {
        if self.ctx.data() + len > self.ctx.data_end() {
            // SAFETY: the helper takes any length and fails if the packet has less; the views are
            // made again after it, as `view` does each time.
            unsafe { bpf_skb_pull_data(self.raw(), len as u32) };
        }
    }

    #[inline(always)]
    fn get<T: FromBytes>(&self, offset: usize) -> Option<T> {
        // SAFETY: `view` compared the end with the packet's, and every bit pattern is a `T`.
        view(self.ctx.data(), self.ctx.data_end(), offset).map(|p: *mut T| unsafe { p.read_unaligned() })
    }

    #[inline(always)]
    fn set<T: IntoBytes + Immutable>(&self, offset: usize, value: T) -> Option<()> {
        // SAFETY: as in `get`; no reference to the bytes lives, since `get` copies.
        view(self.ctx.data(), self.ctx.data_end(), offset)
            .map(|p: *mut T| unsafe { p.write_unaligned(value) })
    }
}

impl Packet for Skb<'_> {
    type Cursor = Numbers;

    #[inline(always)]
    fn gso_size(&self) -> u32 {
        // SAFETY: as in `ifindex`.
        unsafe { (*self.raw()).gso_size }
    }

    #[inline(always)]
    fn load<T: FromBytes + IntoBytes + Default>(&self, offset: usize) -> Option<T> {
        let mut value = T::default();
        let (to, len) = ((&raw mut value).cast::<c_void>(), size_of::<T>() as u32);
        // SAFETY: the helper writes `len` bytes into `value`, which has that
        // size and takes every bit pattern, or none at all.
        match unsafe { bpf_skb_load_bytes(self.raw().cast(), offset as u32, to, len) } {
            0 => Some(value),
            _ => None,
        }
    }

    #[inline(always)]
    fn load_part<const N: usize>(&self, offset: usize, to: &mut [u8; N], len: Part<N>) -> Option<()> {
        let to = to.as_mut_ptr().cast();
        // SAFETY: a `Part` is at most the size of the buffer.
        match unsafe { bpf_skb_load_bytes(self.raw().cast(), offset as u32, to, len.get()) } {
            0 => Some(()),
            _ => None,
        }
    }

    /// The old packet may be `CHECKSUM_PARTIAL`: the device, or the kernel for it, would
    /// compute the transport checksum later and write it into the new bytes. So all bytes
    /// that the checksum can start in are cut out at the front. Its start then lies before
    /// the frame, and the kernel clears the state (`skb_postpull_rcsum`, here or in the next
    /// store). Fails if the checksum's field lies beyond `len`. `len` is [`RENEWED`] at most.
    #[inline(always)]
    fn renew(&self, len: usize) -> Option<()> {
        self.resize(len)?;
        self.resize(len + RENEWED)?;
        // SAFETY: the helper takes bytes out or fails; no view outlives it.
        match unsafe { bpf_skb_adjust_room(self.raw(), -(RENEWED as i32), BPF_ADJ_ROOM_MAC, 0) } {
            0 => Some(()),
            _ => None,
        }
    }

    #[inline(always)]
    fn store_behind<const N: usize, const SKIP: usize>(&self, offset: usize, from: &[u8; N]) -> Option<()> {
        const { assert!(SKIP < N) };
        // SAFETY: `SKIP` is less than the length of what `from` points to.
        let from = unsafe { from.as_ptr().byte_add(SKIP) };
        self.store_from(offset, from.cast(), (N - SKIP) as u32)
    }

    #[inline(always)]
    fn store_part<const N: usize>(&self, offset: usize, from: &[u8; N], len: Part<N>) -> Option<()> {
        self.store_from(offset, from.as_ptr().cast(), len.get())
    }

    #[inline(always)]
    fn sum<const N: usize>(&self, bytes: &[u8; N]) -> u32 {
        const { assert!(N.is_multiple_of(4) && N <= 512) };
        let to = bytes.as_ptr().cast_mut().cast();
        // SAFETY: the helper reads `N` bytes from `bytes` and writes nothing.
        unsafe { bpf_csum_diff(core::ptr::null_mut(), 0, to, N as u32, 0) as u32 }
    }

    #[inline(always)]
    fn cursor(&self, end: u32) -> Option<Numbers> {
        Numbers::new(0, end)
    }

    #[inline(always)]
    fn options(&self, len: u32) -> Walked {
        Walked::from_raw(walk_options(self.raw(), len))
    }

    #[inline(always)]
    fn extensions(&self, first: u8) -> Walked {
        Walked::from_raw(walk_extensions(self.raw(), first.into()))
    }
}

/// Steps over options in a global function, which the verifier goes through once.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn walk_options(skb: *mut __sk_buff, len: u32) -> u32 {
    let ctx = TcContext::new(skb);
    walk::options(&Skb::new(&ctx), len).raw()
}

/// The same for extension headers.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn walk_extensions(skb: *mut __sk_buff, first: u32) -> u32 {
    let ctx = TcContext::new(skb);
    walk::extensions(&Skb::new(&ctx), first as u8).raw()
}

impl<'a> Skb<'a> {
    /// Wraps the context of a program.
    #[inline(always)]
    pub fn new(ctx: &'a TcContext) -> Self {
        Self { ctx }
    }

    /// The kernel's own context, for global functions.
    #[inline(always)]
    pub fn raw(&self) -> *mut __sk_buff {
        self.ctx.skb.skb
    }

    /// The interface whose hook this run belongs to.
    #[inline(always)]
    pub fn ifindex(&self) -> u32 {
        // SAFETY: the kernel passes a context that is valid for the whole run
        // and rewrites this access into one of its own structure.
        unsafe { (*self.raw()).ifindex }
    }

    /// The interface that the packet came in on, or 0. 0 does not prove that this host made
    /// it: the kernel also loses the interface when it fragments a forwarded IPv6 packet.
    #[inline(always)]
    pub fn ingress_ifindex(&self) -> u32 {
        // SAFETY: as in `ifindex`.
        unsafe { (*self.raw()).ingress_ifindex }
    }

    /// Whether a socket of this host sends the packet, including the kernel's own (echo
    /// replies, ICMP errors). Forwarded packets have none: the stack detaches the sender's
    /// socket when it receives them (`skb_orphan` in `ip_rcv_core`).
    #[inline(always)]
    pub fn has_socket(&self) -> bool {
        // SAFETY: as in `ifindex`; whichever field of the union is read, it is a pointer,
        // and it is compared and not followed.
        unsafe { !(*self.raw()).__bindgen_anon_2.sk.is_null() }
    }

    /// Whether the host's own rules say that the packet answers what a container
    /// sent to the world. Containers cannot say so: their namespace's border
    /// clears marks.
    #[inline(always)]
    pub fn is_masqueraded_reply(&self) -> bool {
        // SAFETY: as in `ifindex`.
        unsafe { (*self.raw()).mark & REPLY_MASK == REPLY_MARK }
    }

    /// The EtherType by which the kernel handles the packet. At a veth's ingress it
    /// is the frame's own; a netkit keeps the one that the raw socket was bound to.
    #[inline(always)]
    pub fn protocol(&self) -> u16 {
        // SAFETY: as in `ifindex`.
        unsafe { (*self.raw()).protocol as u16 }
    }

    /// Whether the frame has a VLAN tag, which the kernel keeps in the metadata.
    #[inline(always)]
    pub fn had_vlan(&self) -> bool {
        // SAFETY: as in `ifindex`.
        unsafe { (*self.raw()).vlan_present != 0 }
    }

    /// Whether that tag is a priority tag: VLAN 0 (IEEE 802.1Q section 6.9.1).
    #[inline(always)]
    fn has_priority_tag(&self) -> bool {
        // SAFETY: as in `ifindex`.
        self.had_vlan() && unsafe { (*self.raw()).vlan_tci } & VLAN_ID == 0
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
            if unsafe { bpf_skb_vlan_pop(self.raw()) } != 0 {
                return Err(());
            }
        }
        if self.has_priority_tag() { Err(()) } else { Ok(()) }
    }

    /// Whether the frame is addressed to the device that it came in on.
    #[inline(always)]
    pub fn is_for_this_host(&self) -> bool {
        // SAFETY: as in `ifindex`.
        unsafe { (*self.raw()).pkt_type == PACKET_HOST }
    }

    /// Whether the frame is addressed to another machine.
    #[inline(always)]
    pub fn is_for_another_host(&self) -> bool {
        // SAFETY: as in `ifindex`.
        unsafe { (*self.raw()).pkt_type == PACKET_OTHERHOST }
    }

    /// The family by the protocol that the kernel handles the packet as.
    #[inline(always)]
    pub fn family(&self) -> Option<Family> {
        // SAFETY: as in `ifindex`.
        match unsafe { (*self.raw()).protocol } as u16 {
            IPV4 => Some(Family::V4),
            IPV6 => Some(Family::V6),
            _ => None,
        }
    }

    #[inline(always)]
    fn resize(&self, len: usize) -> Option<()> {
        // SAFETY: the helper resizes the frame or fails; no view outlives it.
        match unsafe { bpf_skb_change_tail(self.raw(), len as u32, 0) } {
            0 => Some(()),
            _ => None,
        }
    }

    #[inline(always)]
    fn store_from(&self, offset: usize, from: *const c_void, len: u32) -> Option<()> {
        // Kernels without "bpf: pull before calling skb_postpull_rcsum()" clear the state of
        // a renewed frame only here.
        let flags = BPF_F_RECOMPUTE_CSUM.into();
        // SAFETY: the callers pass a length that their buffer has, and the
        // helper refuses what does not fit into the frame.
        match unsafe { bpf_skb_store_bytes(self.raw(), offset as u32, from, len, flags) } {
            0 => Some(()),
            _ => None,
        }
    }

    /// Marks the packet as addressed to its next receiver, and clears the mark that the host's
    /// own rules may have set.
    #[inline(always)]
    pub fn adopt(&self) {
        self.ctx.set_mark(0);
        if !self.is_for_this_host() {
            // SAFETY: the helper changes a field of the packet only. Without
            // this, kernels before 6.15 deliver a frame that came by multicast
            // or promiscuously as a frame for another machine.
            unsafe { bpf_skb_change_type(self.raw(), PACKET_HOST) };
        }
    }

    /// Sends the packet out of an interface, or with `BPF_F_INGRESS` into it.
    #[inline(always)]
    pub fn redirect(&self, ifindex: u32, flags: u64) -> i32 {
        let way = if flags == 0 { sent::OUT } else { sent::INTO };
        maps::tell_sent(way, ifindex, &Addr::UNSPECIFIED);
        // SAFETY: the helper notes the interface for after the run; an unknown
        // one drops the packet.
        unsafe { bpf_redirect(ifindex, flags) as i32 }
    }

    /// Puts the packet into the namespace at the other end of a container's interface.
    #[inline(always)]
    pub fn redirect_peer(&self, ifindex: u32) -> i32 {
        maps::tell_sent(sent::PEER, ifindex, &Addr::UNSPECIFIED);
        // SAFETY: as in `redirect`.
        unsafe { bpf_redirect_peer(ifindex, 0) as i32 }
    }

    /// Sends the packet out of an interface to a next hop. The kernel finds the hop's MAC in its
    /// neighbour table or asks the link for it.
    #[inline(always)]
    pub fn redirect_neigh(&self, ifindex: u32, next_hop: &Addr) -> i32 {
        maps::tell_sent(sent::NEXT_HOP, ifindex, next_hop);
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
        maps::tell_sent(sent::ROUTED, ifindex, &Addr::UNSPECIFIED);
        // SAFETY: a null pointer with length 0 asks for the kernel's routing.
        unsafe { bpf_redirect_neigh(ifindex, core::ptr::null_mut(), 0, 0) as i32 }
    }
}

/// A next hop as `bpf_redirect_neigh` takes it: from `family` on this is a
/// `bpf_redir_neigh`; the padding before it aligns the address. An IPv4 address is in the
/// first four bytes.
#[repr(C)]
struct Neigh {
    reserved: u32,
    family: u32,
    addr: Addr,
}

const NEIGH: usize = offset_of!(Neigh, family);
const _: () = assert!(size_of::<Neigh>() - NEIGH == size_of::<bpf_redir_neigh>());

/// Bytes of the longest frame that the programs write: an ICMPv6 error with its quote.
pub const RENEWED: usize = ETH_LEN + icmp::LONGEST;
