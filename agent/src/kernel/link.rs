//! Interfaces, addresses, neighbours and routes by netlink.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Context, Result, bail};
use futures::{StreamExt, TryStreamExt, future::ready};
use ipnet::IpNet;
use margay_common::net::{GATEWAY_MAC, Mac};
use netlink_packet_route::{
    address::{AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage},
    link::{
        InfoData, InfoVeth, LinkAttribute, LinkFlags, LinkInfo, LinkLayerType, LinkMessage, LinkXdp, State,
        XdpAttached,
    },
    route::{
        RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteMetric, RouteProtocol, RouteScope,
        RouteType,
    },
};
use rtnetlink::{
    Error, Handle, LinkMessageBuilder, LinkUnspec, LinkVeth, MulticastGroup, RouteMessageBuilder,
};

use tokio::sync::mpsc;

use crate::{
    model::network::{max_len, net},
    tables::HostRoute,
};

/// The number that marks the kernel's routes as ours (`ip route show proto`).
pub const PROTOCOL: RouteProtocol = RouteProtocol::Other(77);
/// How often an interrupted listing is repeated.
const LISTINGS: usize = 100;
/// The other end of `margay0`; nothing ever arrives there.
pub const HOST_PEER: &str = "margay0-peer";

/// An interface.
#[derive(Clone, Debug, Default)]
pub struct Link {
    /// Its name.
    pub name: String,
    /// Its index.
    pub index: u32,
    /// Its MTU.
    pub mtu: u32,
    /// Whether it is set up.
    pub up: bool,
    /// Whether it carries packets, as the kernel's link watch saw it last (RFC 2863's `up`).
    pub operational: bool,
    /// Whether it carries Ethernet frames.
    pub ethernet: bool,
    /// Its MAC, where it has one of six bytes.
    pub mac: Option<Mac>,
    /// What kind of virtual interface it is; physical ones have none.
    pub kind: Option<String>,
    /// The bus of its hardware, and its place there; virtual ones have none, and
    /// kernels before 5.14 do not tell.
    pub device: Option<(String, String)>,
    /// Its XDP program.
    pub xdp: Option<AttachedXdp>,
    /// The index of the interface that it stands on.
    pub parent: Option<u32>,
    /// The largest super-packet that it sends, bytes.
    pub super_packet: u32,
    /// The most that this can be raised to, bytes; 0 before Linux 5.19.
    pub super_packet_max: u32,
}

/// An XDP program at an interface.
#[derive(Clone, Copy, Debug)]
pub struct AttachedXdp {
    /// Whether the driver runs it.
    pub native: bool,
    /// The kernel's id of the program.
    pub program: u32,
}

impl From<LinkMessage> for Link {
    fn from(message: LinkMessage) -> Self {
        let (mut name, mut mtu) = (String::new(), 0);
        let (mut super_packet, mut super_packet_max) = (0, 0);
        let (mut bus, mut place, mut operational) = (None, None, false);
        let (mut mac, mut kind, mut xdp, mut parent) = (None, None, None, None);
        for attribute in &message.attributes {
            match attribute {
                LinkAttribute::IfName(found) => name.clone_from(found),
                LinkAttribute::Mtu(found) => mtu = *found,
                LinkAttribute::OperState(state) => operational = *state == State::Up,
                LinkAttribute::Address(bytes) => mac = bytes.as_slice().try_into().ok().map(Mac),
                LinkAttribute::LinkInfo(infos) => {
                    kind = infos.iter().find_map(|info| match info {
                        LinkInfo::Kind(kind) => Some(kind.to_string()),
                        _ => None,
                    });
                }
                LinkAttribute::Link(index) => parent = Some(*index),
                LinkAttribute::ParentDevBusName(found) => bus = Some(found.clone()),
                LinkAttribute::ParentDevName(found) => place = Some(found.clone()),
                LinkAttribute::Xdp(found) => xdp = attached_xdp(found),
                LinkAttribute::GsoMaxSize(found) => super_packet = *found,
                LinkAttribute::TsoMaxSize(found) => super_packet_max = *found,
                _ => {}
            }
        }
        Self {
            name,
            index: message.header.index,
            mtu,
            up: message.header.flags.contains(LinkFlags::Up),
            operational,
            ethernet: message.header.link_layer_type == LinkLayerType::Ether,
            super_packet,
            super_packet_max,
            mac,
            kind,
            device: bus.zip(place),
            xdp,
            parent,
        }
    }
}

fn attached_xdp(found: &[LinkXdp]) -> Option<AttachedXdp> {
    let program = found.iter().find_map(|part| match part {
        LinkXdp::ProgId(id) if *id != 0 => Some(*id),
        _ => None,
    })?;
    let native = found.iter().any(|part| matches!(part, LinkXdp::Attached(XdpAttached::Driver)));
    Some(AttachedXdp { native, program })
}

/// All interfaces.
pub async fn list(netlink: &Handle) -> Result<Vec<Link>> {
    whole(|| netlink.link().get().execute().map_ok(Link::from).try_collect()).await
}

/// A listing that nothing interrupted: while interfaces come and go the kernel
/// may leave some out, and says so (`NLM_F_DUMP_INTR`, here EBUSY).
pub(super) async fn whole<T, F: Future<Output = Result<T, Error>>>(list: impl Fn() -> F) -> Result<T> {
    for _ in 0..LISTINGS {
        match list().await {
            Err(error) if is(&error, libc::EBUSY) => tokio::task::yield_now().await,
            result => return Ok(result?),
        }
    }
    bail!("others change the host's interfaces at every look")
}

/// The interface of that name.
pub async fn find(netlink: &Handle, name: &str) -> Result<Option<Link>> {
    match netlink.link().get().match_name(name).execute().try_next().await {
        Ok(link) => Ok(link.map(Link::from)),
        Err(error) if is(&error, libc::ENODEV) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// The index of the interface of that name.
pub async fn index(netlink: &Handle, name: &str) -> Result<Option<u32>> {
    Ok(find(netlink, name).await?.map(|link| link.index))
}

/// Removes an interface, if it is there; its peer goes with it.
pub async fn remove(netlink: &Handle, name: &str) -> Result<()> {
    let Some(index) = index(netlink, name).await? else { return Ok(()) };
    match netlink.link().del(index).execute().await {
        Err(error) if !is(&error, libc::ENODEV) => Err(error).context(format!("remove {name}")),
        _ => Ok(()),
    }
}

/// Sets an interface up.
pub async fn set_up(netlink: &Handle, index: u32) -> Result<()> {
    let message = LinkUnspec::new_with_index(index).up().build();
    Ok(netlink.link().set(message).execute().await?)
}

/// Sets an interface's MTU.
pub async fn set_mtu(netlink: &Handle, index: u32, mtu: u32) -> Result<()> {
    let message = LinkUnspec::new_with_index(index).mtu(mtu).build();
    Ok(netlink.link().set(message).execute().await?)
}

/// Has an interface send and merge super-packets of up to `size` bytes, both
/// families (`IFLA_GSO_MAX_SIZE` and its three like, IPv4's since Linux 6.3).
/// It fails where the device cannot take them whole.
pub async fn set_super_packets(netlink: &Handle, index: u32, size: u32) -> Result<()> {
    let mut message = LinkUnspec::new_with_index(index).build();
    message.attributes.extend(super_packets(size));
    Ok(netlink.link().set(message).execute().await?)
}

/// The attributes of that.
pub(super) fn super_packets(size: u32) -> [LinkAttribute; 4] {
    [
        LinkAttribute::GsoMaxSize(size),
        LinkAttribute::GroMaxSize(size),
        LinkAttribute::GsoIpv4MaxSize(size),
        LinkAttribute::GroIpv4MaxSize(size),
    ]
}

/// Makes `margay0` and its peer, both down.
pub async fn add_host_pair(netlink: &Handle, name: &str, mtu: u32) -> Result<()> {
    let peer = LinkMessageBuilder::<LinkUnspec>::new().name(HOST_PEER).mtu(mtu).build();
    let message = veth(name, mtu, peer).arp(false).build();
    netlink.link().add(message).execute().await.context(format!("create {name}"))
}

fn veth(name: &str, mtu: u32, peer: LinkMessage) -> LinkMessageBuilder<LinkVeth> {
    LinkMessageBuilder::<LinkVeth>::new(name, "")
        .set_info_data(InfoData::Veth(InfoVeth::Peer(peer)))
        .mtu(mtu)
        .address(GATEWAY_MAC.0.to_vec())
}

/// An address of this host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address {
    /// The interface that has it.
    pub interface: u32,
    /// The address and the prefix that it came with.
    pub net: IpNet,
    /// Whether others may be told of it: it is not temporary (RFC 8981), not still being
    /// checked or found to be another's (RFC 4862 section 5.4), not running out (section
    /// 5.5.4).
    pub lasting: bool,
}

/// All addresses of this host.
pub async fn addresses(netlink: &Handle) -> Result<Vec<Address>> {
    let all = || netlink.address().get().execute().try_collect::<Vec<_>>();
    Ok(whole(all).await?.iter().filter_map(address).collect())
}

fn address(message: &AddressMessage) -> Option<Address> {
    let (mut local, mut plain, mut flags) = (None, None, AddressFlags::empty());
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(addr) => local = Some(*addr),
            AddressAttribute::Address(addr) => plain = Some(*addr),
            AddressAttribute::Flags(found) => flags = *found,
            _ => {}
        }
    }
    let addr = local.or(plain)?;
    let mut passing = AddressFlags::Tentative | AddressFlags::Dadfailed | AddressFlags::Deprecated;
    if addr.is_ipv6() {
        // The same bit says of an IPv4 address that it is not its subnet's first.
        passing |= AddressFlags::Secondary;
    }
    let net = net(addr, message.header.prefix_len);
    Some(Address { interface: message.header.index, net, lasting: !flags.intersects(passing) })
}

/// Gives a container's interface its address, without duplicate address
/// detection: nobody else on that link could have it.
pub async fn add_address(netlink: &Handle, index: u32, addr: IpAddr) -> Result<()> {
    let mut request = netlink.address().add(index, addr, max_len(addr));
    if addr.is_ipv6() {
        let message = request.message_mut();
        message.header.flags |= AddressHeaderFlags::Nodad;
        message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
    }
    request.execute().await.context(format!("address {addr}"))
}

/// Gives a container's interface the gateway as a neighbour for good.
pub async fn add_gateway_neighbour(netlink: &Handle, index: u32, gateway: IpAddr) -> Result<()> {
    let request = netlink.neighbours().add(index, gateway).link_layer_address(&GATEWAY_MAC.0);
    request.replace().execute().await.context(format!("neighbour {gateway}"))
}

/// A container's routes: the gateway on the link, each subnet of the network
/// and everything else through it. Where there is a default route already, it
/// stays.
pub async fn add_container_routes(
    netlink: &Handle,
    index: u32,
    subnet: IpNet,
    gateway: IpAddr,
) -> Result<()> {
    let on_link = route(net(gateway, max_len(gateway)), index).scope(RouteScope::Link);
    netlink.route().add(on_link.build()).execute().await.context("route to the gateway")?;
    let default = net(if gateway.is_ipv4() { [0, 0, 0, 0].into() } else { Ipv6Addr::UNSPECIFIED.into() }, 0);
    for dst in [subnet, default] {
        let through = with_gateway(route(dst, index), gateway)?;
        match netlink.route().add(through.build()).execute().await {
            Err(error) if is(&error, libc::EEXIST) && dst == default => {}
            result => result.context(format!("route to {dst} via {gateway}"))?,
        }
    }
    Ok(())
}

/// The interfaces of the default routes, IPv4's first, the preferred ones
/// before others.
pub async fn default_interfaces(netlink: &Handle) -> Result<Vec<u32>> {
    let mut defaults = default_interfaces_of(netlink, true).await?;
    defaults.extend(default_interfaces_of(netlink, false).await?);
    Ok(defaults)
}

/// The same of one family.
pub async fn default_interfaces_of(netlink: &Handle, v4: bool) -> Result<Vec<u32>> {
    let mut defaults: Vec<(u32, u32)> = Vec::new();
    let all = || netlink.route().get(every_route(v4)).execute().try_collect::<Vec<_>>();
    for message in whole(all).await? {
        let unicast = message.header.kind == RouteType::Unicast;
        let main = message.header.table == RouteHeader::RT_TABLE_MAIN;
        if message.header.destination_prefix_length != 0 || !unicast || !main {
            continue;
        }
        let metric = message.attributes.iter().find_map(|a| match a {
            RouteAttribute::Priority(metric) => Some(*metric),
            _ => None,
        });
        let metric = metric.unwrap_or_default();
        defaults.extend(interfaces(&message).map(|index| (metric, index)));
    }
    defaults.sort_unstable();
    Ok(defaults.into_iter().map(|(_, index)| index).collect())
}

/// The interfaces of a route, several where it has several next hops.
pub(super) fn interfaces(message: &RouteMessage) -> impl Iterator<Item = u32> {
    message.attributes.iter().flat_map(|attribute| match attribute {
        RouteAttribute::Oif(index) => vec![*index],
        RouteAttribute::MultiPath(hops) => hops.iter().map(|hop| hop.interface_index).collect(),
        _ => Vec::new(),
    })
}

pub(super) fn every_route(v4: bool) -> RouteMessage {
    if v4 {
        RouteMessageBuilder::<Ipv4Addr>::new().build()
    } else {
        RouteMessageBuilder::<Ipv6Addr>::new().build()
    }
}

/// The host's routes that are ours.
pub async fn host_routes(netlink: &Handle) -> Result<Vec<(IpNet, HostRoute)>> {
    let mut routes = Vec::new();
    for v4 in [true, false] {
        let all = || {
            let found = netlink.route().get(every_route(v4)).execute();
            // Others' may be as many as the Internet has.
            let ours = found.try_filter(|message| ready(message.header.protocol == PROTOCOL));
            ours.try_collect::<Vec<_>>()
        };
        routes.extend(whole(all).await?.iter().filter_map(|message| host_route(message, v4)));
    }
    Ok(routes)
}

fn host_route(message: &RouteMessage, v4: bool) -> Option<(IpNet, HostRoute)> {
    let addr = |address: &RouteAddress| match address {
        RouteAddress::Inet(v4) => Some(IpAddr::V4(*v4)),
        RouteAddress::Inet6(v6) => Some(IpAddr::V6(*v6)),
        _ => None,
    };
    let (mut dst, mut gateway, mut source, mut mtu) = (None, None, None, 0);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(found) => dst = addr(found),
            RouteAttribute::Gateway(found) => gateway = addr(found),
            RouteAttribute::PrefSource(found) => source = addr(found),
            RouteAttribute::Metrics(metrics) => {
                mtu = metrics.iter().find_map(|m| match m {
                    RouteMetric::Mtu(mtu) => Some(*mtu),
                    _ => None,
                })?;
            }
            _ => {}
        }
    }
    let dst = net(dst.filter(|dst| dst.is_ipv4() == v4)?, message.header.destination_prefix_length);
    Some((dst, HostRoute { gateway: gateway?, source, mtu }))
}

/// Adds or replaces one of the host's routes, unless somebody else's is in its
/// place.
pub async fn put_host_route(netlink: &Handle, index: u32, dst: IpNet, spec: &HostRoute) -> Result<()> {
    let mut builder = with_gateway(route(dst, index), spec.gateway)?.onlink().protocol(PROTOCOL);
    if let Some(source) = spec.source {
        builder = builder.pref_source(source)?;
    }
    let mut message = builder.build();
    message.attributes.push(RouteAttribute::Metrics(vec![RouteMetric::Mtu(spec.mtu)]));
    let ours = host_routes(netlink).await?.iter().any(|(found, _)| *found == dst);
    let request = netlink.route().add(message);
    let request = if ours { request.replace() } else { request };
    match request.execute().await {
        Err(error) if is(&error, libc::EEXIST) => bail!(
            "the host has a route to {dst} that is not Margay's (ip route show {dst}); remove it, or the network"
        ),
        result => result.context(format!("route to {dst} by margay0")),
    }
}

/// Removes one of the host's routes, if it is there.
pub async fn remove_host_route(netlink: &Handle, dst: IpNet) -> Result<()> {
    let message = route(dst, 0).protocol(PROTOCOL).build();
    match netlink.route().del(message).execute().await {
        Err(error) if !is(&error, libc::ESRCH) => Err(error).context(format!("remove route to {dst}")),
        _ => Ok(()),
    }
}

/// The route to one address, to be asked for.
pub(super) fn route_to(addr: IpAddr) -> RouteMessage {
    route(net(addr, max_len(addr)), 0).build()
}

fn route(dst: IpNet, index: u32) -> RouteMessageBuilder<IpAddr> {
    let builder = RouteMessageBuilder::<IpAddr>::new();
    // The only error is a prefix longer than its family has bits.
    let builder = builder.destination_prefix(dst.network(), dst.prefix_len()).unwrap_or_default();
    if index == 0 { builder } else { builder.output_interface(index) }
}

fn with_gateway(
    builder: RouteMessageBuilder<IpAddr>,
    gateway: IpAddr,
) -> Result<RouteMessageBuilder<IpAddr>> {
    Ok(builder.gateway(gateway)?)
}

/// Reports every change of an interface or address of this host. One waiting message is enough:
/// the receiver then looks at everything again.
pub fn watch() -> Result<mpsc::Receiver<()>> {
    let (send, receive) = mpsc::channel(1);
    let groups = [MulticastGroup::Link, MulticastGroup::Ipv4Ifaddr, MulticastGroup::Ipv6Ifaddr];
    let (connection, handle, mut messages) = rtnetlink::new_multicast_connection(&groups)?;
    tokio::spawn(connection);
    tokio::spawn(async move {
        // The connection ends with its last handle.
        let _open = handle;
        while messages.next().await.is_some() {
            if let Err(mpsc::error::TrySendError::Closed(())) = send.try_send(()) {
                return;
            }
        }
    });
    Ok(receive)
}

/// Whether an error is the kernel's with that number.
pub fn is(error: &Error, errno: i32) -> bool {
    matches!(error, Error::NetlinkError(message) if message.raw_code() == -errno)
}
