//! The host's own routes: which addresses are on the uplink's link, which prefixes are
//! spoken for, and word of both when they change.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::Duration,
};

use anyhow::Result;
use futures::{FutureExt, StreamExt, TryStreamExt};
use ipnet::IpNet;
use netlink_packet_core::NetlinkPayload;
use netlink_packet_route::{
    RouteNetlinkMessage,
    route::{RouteAddress, RouteAttribute, RouteMessage, RouteType},
};
use rtnetlink::{Handle, MulticastGroup, RouteMessageBuilder};
use tokio::{sync::mpsc, time::sleep};
use tracing::warn;

use super::link::{self, PROTOCOL};
use crate::model::network::{net, overlap};

/// The table of the host's own addresses (linux/rtnetlink.h).
const TABLE_LOCAL: u8 = 255;
/// How long changes gather before anybody looks.
const GATHER: Duration = Duration::from_millis(200);
/// Changed prefixes that are told singly; of more, everything may have changed.
const TOLD_MAX: usize = 64;
/// Prefixes that are told to others, as many as a node's value may hold.
const ROUTED_MAX: usize = 1024;
/// How finely prefixes are told where there are more, IPv4 and IPv6.
const COARSE: [u8; 2] = [20, 64];

/// Which of the host's routes may have changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Changed {
    /// Those to these prefixes.
    To(BTreeSet<IpNet>),
    /// All.
    All,
}

impl Changed {
    /// Whether the way to an address may be another now.
    pub fn concerns(&self, addr: IpAddr) -> bool {
        match self {
            Self::To(prefixes) => prefixes.iter().any(|prefix| prefix.contains(&addr)),
            Self::All => true,
        }
    }

    /// Whether what a prefix overlaps may be another now.
    pub fn overlaps(&self, cidr: IpNet) -> bool {
        match self {
            Self::To(prefixes) => prefixes.iter().any(|prefix| overlap(*prefix, cidr)),
            Self::All => true,
        }
    }

    fn add(&mut self, prefix: Option<IpNet>) {
        match (self, prefix) {
            (Self::All, _) => {}
            (Self::To(prefixes), Some(prefix)) if prefixes.len() < TOLD_MAX => drop(prefixes.insert(prefix)),
            (this, _) => *this = Self::All,
        }
    }
}

/// Where the kernel sends packets for an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// By an interface.
    By {
        /// Its index.
        interface: u32,
        /// The gateway; without one the address is on the interface's link.
        gateway: Option<IpAddr>,
    },
    /// Nowhere: a route says so, or the address is this host's own.
    Nowhere,
    /// No route says anything about it.
    Unsaid,
}

/// What the host's routes speak for.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Spoken {
    /// Prefixes of the routes that overlap what was asked about, the default routes and
    /// Margay's apart.
    pub routed: Vec<IpNet>,
    /// The gateways of the default routes.
    pub gateways: BTreeSet<IpAddr>,
}

/// Where the kernel sends packets for an address (`ip route get`).
///
/// # Errors
///
/// The kernel does not answer.
pub async fn way_to(netlink: &Handle, addr: IpAddr) -> Result<Way> {
    let builder = RouteMessageBuilder::<IpAddr>::new();
    let host = net(addr, u8::MAX);
    let message = builder.destination_prefix(addr, host.prefix_len())?.build();
    match netlink.route().get(message).execute().try_next().await {
        Ok(found) => Ok(found.as_ref().map_or(Way::Unsaid, way)),
        Err(error) if link::is(&error, libc::ENETUNREACH) => Ok(Way::Unsaid),
        // What routes of the kinds unreachable, prohibit and blackhole say.
        Err(error)
            if [libc::EHOSTUNREACH, libc::EACCES, libc::EINVAL].iter().any(|e| link::is(&error, *e)) =>
        {
            Ok(Way::Nowhere)
        }
        Err(error) => Err(error.into()),
    }
}

fn way(message: &RouteMessage) -> Way {
    let interface = message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Oif(index) => Some(*index),
        _ => None,
    });
    match interface {
        Some(interface) if message.header.kind == RouteType::Unicast => {
            Way::By { interface, gateway: gateway(&message.attributes) }
        }
        _ => Way::Nowhere,
    }
}

/// The gateway of a route; one of the other family is told as unspecified.
fn gateway(attributes: &[RouteAttribute]) -> Option<IpAddr> {
    attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Gateway(found) => address(found),
        RouteAttribute::Via(_) => Some(Ipv6Addr::UNSPECIFIED.into()),
        _ => None,
    })
}

fn address(found: &RouteAddress) -> Option<IpAddr> {
    match found {
        RouteAddress::Inet(v4) => Some(IpAddr::V4(*v4)),
        RouteAddress::Inet6(v6) => Some(IpAddr::V6(*v6)),
        _ => None,
    }
}

/// What the host's routes speak for among some prefixes. A host may have all routes of the
/// Internet: what concerns none of the prefixes is not kept.
///
/// # Errors
///
/// The routes cannot be listed.
pub async fn spoken(netlink: &Handle, among: &[IpNet], own: &BTreeSet<u32>) -> Result<Spoken> {
    let mut spoken = Spoken::default();
    for v4 in [true, false] {
        let all = || {
            let listing = netlink.route().get(link::every_route(v4)).execute();
            listing.try_filter_map(|message| async move { Ok(others(&message).then_some(message)) }).try_fold(
                Spoken::default(),
                |mut spoken, message| async move {
                    spoken.hear(&message, v4, among, own);
                    Ok(spoken)
                },
            )
        };
        let found = link::whole(all).await?;
        spoken.routed.extend(found.routed);
        spoken.gateways.extend(found.gateways);
    }
    spoken.routed = at_most(spoken.routed);
    Ok(spoken)
}

impl Spoken {
    fn hear(&mut self, message: &RouteMessage, v4: bool, among: &[IpNet], own: &BTreeSet<u32>) {
        if link::interfaces(message).any(|index| own.contains(&index)) {
            return;
        }
        let cidr = prefix(message, v4);
        if cidr.prefix_len() > 0 {
            self.routed.extend(among.iter().any(|found| overlap(*found, cidr)).then_some(cidr));
        } else if message.header.kind == RouteType::Unicast {
            self.gateways.extend(gateway(&message.attributes).filter(|addr| !addr.is_unspecified()));
            self.gateways.extend(message.attributes.iter().flat_map(|attribute| match attribute {
                RouteAttribute::MultiPath(hops) => {
                    hops.iter().filter_map(|hop| gateway(&hop.attributes)).collect()
                }
                _ => Vec::new(),
            }));
        }
    }
}

/// Whether a route is one that the host, or somebody on it, made, and that leads to hosts or
/// keeps from them.
fn others(message: &RouteMessage) -> bool {
    let kind = matches!(
        message.header.kind,
        RouteType::Unicast | RouteType::BlackHole | RouteType::Unreachable | RouteType::Prohibit
    );
    kind && message.header.table != TABLE_LOCAL && message.header.protocol != PROTOCOL
}

fn prefix(message: &RouteMessage, v4: bool) -> IpNet {
    let dst = message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Destination(found) => address(found),
        _ => None,
    });
    let any = if v4 { IpAddr::V4(Ipv4Addr::UNSPECIFIED) } else { Ipv6Addr::UNSPECIFIED.into() };
    net(dst.unwrap_or(any), message.header.destination_prefix_length).trunc()
}

/// As many prefixes as may be told: where there are more, coarser ones.
fn at_most(prefixes: Vec<IpNet>) -> Vec<IpNet> {
    let mut few = IpNet::aggregate(&prefixes);
    if few.len() > ROUTED_MAX {
        let coarse = |cidr: &IpNet| {
            let len = cidr.prefix_len().min(COARSE[usize::from(cidr.addr().is_ipv6())]);
            net(cidr.addr(), len).trunc()
        };
        few = IpNet::aggregate(&few.iter().map(coarse).collect());
        few.sort_by_key(IpNet::prefix_len);
        few.truncate(ROUTED_MAX);
    }
    few.sort();
    few
}

/// Tells which of the host's routes may have changed.
///
/// # Errors
///
/// The kernel does not take the subscription.
pub fn watch() -> std::io::Result<mpsc::Receiver<Changed>> {
    use MulticastGroup::{Ipv4Route, Ipv4Rule, Ipv6Route, Ipv6Rule};
    let groups = [Ipv4Route, Ipv6Route, Ipv4Rule, Ipv6Rule];
    let (connection, handle, mut messages) = rtnetlink::new_multicast_connection(&groups)?;
    tokio::spawn(connection);
    let (send, receive) = mpsc::channel(1);
    tokio::spawn(async move {
        // The connection ends with its last handle.
        let _open = handle;
        while let Some((message, _)) = messages.next().await {
            let mut changed = Changed::To(BTreeSet::new());
            hear(&mut changed, &message.payload);
            sleep(GATHER).await;
            while let Some(Some((message, _))) = messages.next().now_or_never() {
                hear(&mut changed, &message.payload);
            }
            let nothing = matches!(&changed, Changed::To(prefixes) if prefixes.is_empty());
            if !nothing && send.send(changed).await.is_err() {
                return;
            }
        }
        warn!("cannot watch the host's routes, so the agent reads them every minute only");
    });
    Ok(receive)
}

fn hear(changed: &mut Changed, payload: &NetlinkPayload<RouteNetlinkMessage>) {
    use RouteNetlinkMessage::{DelRoute, NewRoute};
    match payload {
        NetlinkPayload::InnerMessage(NewRoute(route) | DelRoute(route)) => {
            if others(route) {
                let v4 = route.header.address_family == netlink_packet_route::AddressFamily::Inet;
                changed.add(Some(prefix(route, v4)));
            }
        }
        // A rule, or more than fits: anything may be another.
        _ => changed.add(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cidr(text: &str) -> IpNet {
        text.parse().expect("a literal")
    }

    #[test]
    fn many_changed_prefixes_are_merged_into_few() {
        let many: Vec<IpNet> =
            (0..5000_u32).map(|i| net(Ipv4Addr::from(0x0ac0_0000 + i * 2).into(), 32)).collect();
        let told = at_most(many.clone());
        assert!(told.len() <= ROUTED_MAX, "{}", told.len());
        assert!(many.iter().all(|one| told.iter().any(|cidr| cidr.contains(one))));
        assert_eq!(at_most(vec![cidr("10.0.0.0/25"), cidr("10.0.0.128/25")]), [cidr("10.0.0.0/24")]);
    }

    #[test]
    fn route_change_concerns_addresses_within_its_prefix() {
        let mut changed = Changed::To(BTreeSet::new());
        changed.add(Some(cidr("192.0.2.0/24")));
        assert!(changed.concerns("192.0.2.7".parse().expect("a literal")));
        assert!(!changed.concerns("198.51.100.7".parse().expect("a literal")));
        assert!(changed.overlaps(cidr("192.0.0.0/16")) && !changed.overlaps(cidr("10.0.0.0/8")));
        (0..TOLD_MAX).for_each(|i| changed.add(Some(net([10, 0, i as u8, 0].into(), 24))));
        assert_eq!(changed, Changed::All);
    }
}
