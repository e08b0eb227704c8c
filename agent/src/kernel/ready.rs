//! Waiting until what was just set up carries packets.
//!
//! The kernel answers before it is ready: it opens the queue of an interface that was
//! up before its other end, and makes an IPv6 address its own, by workers that run
//! later. On a busy machine that may be a second, and what is sent meanwhile is lost.

use std::{net::IpAddr, time::Duration};

use anyhow::{Result, bail};
use futures::{StreamExt, TryStreamExt, channel::mpsc::UnboundedReceiver};
use netlink_packet_core::NetlinkMessage;
use netlink_packet_route::{RouteNetlinkMessage, route::RouteType};
use netlink_sys::SocketAddr;
use rtnetlink::{Handle, MulticastGroup};
use tokio::time::timeout;

use super::{link, netns::Netns};
use crate::problem::Problem;

/// How long the kernel may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// What the kernel tells of a change.
type Message = (NetlinkMessage<RouteNetlinkMessage>, SocketAddr);

/// The kernel's word of changes, until it is dropped.
pub struct Events {
    /// The connection ends with its last handle.
    _open: Handle,
    messages: UnboundedReceiver<Message>,
}

impl Events {
    /// Listens in this thread's network namespace, from now on.
    pub fn listen(group: MulticastGroup) -> Result<Self> {
        let (connection, handle, messages) = rtnetlink::new_multicast_connection(&[group])?;
        tokio::spawn(connection);
        Ok(Self { _open: handle, messages })
    }

    /// Waits until `ready`, which is asked again with every change; whether it came to that.
    async fn until<F: Future<Output = Result<bool>>>(mut self, ready: impl Fn() -> F) -> Result<bool> {
        let asking = async {
            loop {
                if ready().await? {
                    return Ok(true);
                }
                if self.messages.next().await.is_none() {
                    return Ok(false);
                }
            }
        };
        timeout(PATIENCE, asking).await.unwrap_or(Ok(false))
    }
}

/// Waits until the queue of an interface takes packets; its other end is up.
///
/// The queue of an interface that comes up without its other end drops everything until the
/// kernel's link watch has seen that end (`linkwatch_do_dev`), which is put off for a second if
/// some two hundred interfaces change at once. The link watch sets the operational state after
/// that; since Linux 6.8 it also does so when a process asks for the interface.
pub async fn queue(netlink: &Handle, interface: &str) -> Result<()> {
    let open = async || {
        let found = link::find(netlink, interface).await?;
        let Some(found) = found else { bail!("interface {interface} disappeared") };
        Ok(found.operational)
    };
    if open().await? || Events::listen(MulticastGroup::Link)?.until(open).await? {
        return Ok(());
    }
    let problem =
        format!("the kernel has not opened the queue of {interface} within {} s", PATIENCE.as_secs());
    bail!(Problem::new(problem, "try again when the host changes fewer interfaces at once"))
}

/// Waits until an address is the namespace's own: what comes for it is delivered.
///
/// The kernel inserts the route that makes it so after the check for duplicates, in a worker
/// (`addrconf_dad_work`), also where there is nothing to check.
pub async fn address(netlink: &Handle, netns: &Netns, addr: IpAddr) -> Result<()> {
    let own = async || is_own(netlink, addr).await;
    if own().await? || netns.events(MulticastGroup::Ipv6Route).await?.until(own).await? {
        return Ok(());
    }
    let (place, patience) = (netns.path.display(), PATIENCE.as_secs());
    let problem = format!("the kernel has not made {addr} an address of {place} within {patience} s");
    bail!(Problem::new(problem, "try again when the host changes fewer addresses at once"))
}

/// Whether what is sent to an address stays in the namespace.
async fn is_own(netlink: &Handle, addr: IpAddr) -> Result<bool> {
    match netlink.route().get(link::route_to(addr)).execute().try_next().await {
        Ok(found) => Ok(found.is_some_and(|route| route.header.kind == RouteType::Local)),
        Err(error) if link::is(&error, libc::ENETUNREACH) => Ok(false),
        Err(error) => Err(error.into()),
    }
}
