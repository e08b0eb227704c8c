//! Frames as only a raw socket sends them.

use std::{fs::File, io, mem, os::fd::AsRawFd, path::Path, ptr, thread};

use nix::{
    sched::{CloneFlags, setns},
    sys::socket::{
        AddressFamily, LinkAddr, MsgFlags, SockFlag, SockType, SockaddrLike, bind, send as send_out, socket,
    },
};

/// Sends a frame out of the interface of an index in a namespace, as one of an
/// EtherType, whatever its own says (packet(7)).
pub fn send(netns: &Path, index: i32, ether_type: u16, frame: &[u8]) -> io::Result<()> {
    let netns = File::open(netns)?;
    let addr = address(index, ether_type);
    let sent = || {
        setns(netns, CloneFlags::CLONE_NEWNET)?;
        let socket = socket(AddressFamily::Packet, SockType::Raw, SockFlag::empty(), None)?;
        bind(socket.as_raw_fd(), &addr)?;
        send_out(socket.as_raw_fd(), frame, MsgFlags::empty())
    };
    // The namespace is a thread's.
    let sent = thread::scope(|scope| scope.spawn(sent).join().expect("no panic"));
    Ok(sent.map(drop)?)
}

fn address(index: i32, ether_type: u16) -> LinkAddr {
    // SAFETY: numbers alone, for which all zero is a value.
    let mut addr: libc::sockaddr_ll = unsafe { mem::zeroed() };
    addr.sll_family = libc::AF_PACKET as u16;
    addr.sll_protocol = ether_type.to_be();
    addr.sll_ifindex = index;
    let len = size_of::<libc::sockaddr_ll>() as u32;
    // SAFETY: it points to an address of that family and length.
    unsafe { LinkAddr::from_raw(ptr::from_ref(&addr).cast(), Some(len)) }.expect("a link address")
}
