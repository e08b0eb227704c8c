//! Sending and receiving raw frames.

use std::{
    fs::File,
    io, mem,
    os::fd::{AsRawFd, OwnedFd},
    path::Path,
    ptr, thread,
};

use nix::{
    errno::Errno,
    sched::{CloneFlags, setns},
    sys::socket::{
        AddressFamily, LinkAddr, MsgFlags, SockFlag, SockType, SockaddrLike, bind, recv, send as send_out,
        socket,
    },
};

use crate::container::Namespace;

/// The index of an interface of a namespace.
#[track_caller]
pub fn index(namespace: &Namespace, interface: &str) -> i32 {
    let link = namespace.sh(&format!("ip -o link show dev {interface}"));
    link.split(':').next().and_then(|index| index.parse().ok()).expect("an index")
}

/// Its MAC.
#[track_caller]
pub fn mac(namespace: &Namespace, interface: &str) -> [u8; 6] {
    let link = namespace.sh(&format!("ip -o link show dev {interface}"));
    let mac = link.split("link/ether ").nth(1).and_then(|rest| rest.split(' ').next()).expect("a MAC");
    let bytes: Vec<u8> = mac.split(':').map(|byte| u8::from_str_radix(byte, 16).expect("hex")).collect();
    bytes.try_into().expect("six")
}

/// Captures the frames at an interface, from now on.
pub struct Capture(OwnedFd);

impl Capture {
    /// Begins.
    #[track_caller]
    pub fn of(namespace: &Namespace, interface: &str) -> Self {
        /// ETH_P_ALL (linux/if_ether.h).
        const ALL: u16 = 3;
        let addr = address(index(namespace, interface), ALL);
        let opened = inside(&namespace.path(), || {
            let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
            let socket = socket(AddressFamily::Packet, SockType::Raw, flags, None)?;
            bind(socket.as_raw_fd(), &addr)?;
            Ok(socket)
        });
        Self(opened.expect("root may listen"))
    }

    /// The frames since the last call.
    pub fn frames(&self) -> Vec<Vec<u8>> {
        let mut frames = Vec::new();
        let mut buffer = vec![0; 1 << 16];
        loop {
            match recv(self.0.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
                Ok(len) => frames.push(buffer[..len].to_vec()),
                Err(Errno::EAGAIN) => return frames,
                Err(error) => panic!("a capture: {error}"),
            }
        }
    }
}

/// Sends a frame out of an interface of a namespace. The socket has the given EtherType, even
/// if the frame has another (packet(7)).
pub fn send(netns: &Path, index: i32, ether_type: u16, frame: &[u8]) -> io::Result<()> {
    send_times(netns, index, ether_type, frame, 1)
}

/// The same so many times, as fast as it goes.
pub fn send_times(netns: &Path, index: i32, ether_type: u16, frame: &[u8], times: usize) -> io::Result<()> {
    let addr = address(index, ether_type);
    inside(netns, || {
        let socket = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, None)?;
        bind(socket.as_raw_fd(), &addr)?;
        (0..times).try_for_each(|_| send_out(socket.as_raw_fd(), frame, MsgFlags::empty()).map(drop))
    })
}

/// Runs a closure in a network namespace, on a thread of its own.
fn inside<T: Send>(netns: &Path, act: impl FnOnce() -> nix::Result<T> + Send) -> io::Result<T> {
    let netns = File::open(netns)?;
    let enter_and_act = || setns(netns, CloneFlags::CLONE_NEWNET).and_then(|()| act());
    Ok(thread::scope(|scope| scope.spawn(enter_and_act).join().expect("no panic"))?)
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
