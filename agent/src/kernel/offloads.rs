//! What a card does by itself.

use std::{fs, io, net::UdpSocket, os::fd::AsRawFd, path::Path};

use anyhow::{Context, Result};
use ethtool::{EthtoolAttr, EthtoolFeatureAttr};
use futures::TryStreamExt;

use super::link::Link;

/// Whether the kernel merges segments that come in on an interface (GRO).
///
/// # Errors
///
/// The kernel does not tell the interface's features.
pub async fn merges(interface: &str) -> Result<bool> {
    let (connection, mut handle, _) = ethtool::new_connection()?;
    let connection = tokio::spawn(connection);
    let words = || format!("cannot read the offloads of {interface}");
    let answers = handle.feature().get(Some(interface)).execute().await.with_context(words)?;
    let answers: Vec<_> = answers.try_collect().await.with_context(words)?;
    connection.abort();
    let attributes = answers.into_iter().flat_map(|answer| answer.payload.nlas);
    let active = attributes.filter_map(|attribute| match attribute {
        EthtoolAttr::Feature(EthtoolFeatureAttr::Active(bits)) => Some(bits),
        _ => None,
    });
    Ok(active.flatten().any(|bit| bit.value && bit.name == "rx-gro"))
}

/// Has the kernel check again which of the wanted features a card can have: not every driver asks
/// for that when its XDP program goes.
pub fn take_up_again(interface: &str) -> Result<()> {
    const GET_FLAGS: u32 = 0x25;
    const SET_FLAGS: u32 = 0x26;
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    let mut flags = Flags { command: GET_FLAGS, flags: 0 };
    // Setting the flags that are set changes no wish, and has all of them looked at.
    for command in [GET_FLAGS, SET_FLAGS] {
        flags.command = command;
        // SAFETY: all zeros is a request with an empty name.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        let room = request.ifr_name.len() - 1;
        for (to, from) in request.ifr_name[..room].iter_mut().zip(interface.bytes()) {
            *to = libc::c_char::from_ne_bytes([from]);
        }
        request.ifr_ifru.ifru_data = (&raw mut flags).cast();
        // SAFETY: the request is named with a terminating zero and points to eight
        // bytes that live through the call, which is what both commands take.
        let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCETHTOOL, &raw mut request) };
        if result != 0 {
            return Err(io::Error::last_os_error()).with_context(|| format!("features of {interface}"));
        }
    }
    Ok(())
}

/// `struct ethtool_value` of <linux/ethtool.h>.
#[repr(C)]
struct Flags {
    command: u32,
    flags: u32,
}

/// The driver of a card; none of a virtual interface. The list of interfaces in
/// sysfs may be another network namespace's, the list of buses is nobody's.
pub fn driver(interface: &Link) -> Option<String> {
    let device = match &interface.device {
        Some((bus, place)) => Path::new("/sys/bus").join(bus).join("devices").join(place),
        None => Path::new("/sys/class/net").join(&interface.name).join("device"),
    };
    let link = device.join("driver");
    Some(fs::read_link(link).ok()?.file_name()?.to_string_lossy().into_owned())
}
