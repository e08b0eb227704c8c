//! Attaching and detaching a container: the use case that every front end
//! shares. Both are idempotent: the same request twice has one result.

mod inside;
mod kept;
mod sandbox;
pub mod staged;

use std::{
    collections::BTreeMap,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result, anyhow, bail};
use margay_common::net::Mac;
use tokio::{
    sync::{Mutex, watch},
    time::{sleep, timeout},
};
use tracing::{debug, info, warn};

use self::sandbox::Sandboxes;
use crate::{
    control::{Control, State},
    desired::host::container_mtu,
    ipam::{self, Ipam},
    journal::{Journal, Member, Step},
    kernel::{
        Netlink,
        device::{self, Pair},
        link,
        netns::Netns,
        ready, sysctl,
    },
    model::{
        Unknown,
        block::Holder,
        endpoint::{Device, Endpoint, check_ifname},
        network::Network,
        pick::{Face, pick},
    },
    network::Networks,
    problem::{Problem, Rejection},
    tables::host_interface,
    words,
};

pub use kept::aside;
pub use staged::Create;

/// How long an attach waits for the node to join.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);
/// How long the store may take to give an address, before it comes out of the stash. One
/// request of the store may take longer, and an address needs several.
const STORE: Duration = Duration::from_secs(3);
/// How long a front end may have to wait for an address.
pub const ADDRESS: Duration = Duration::from_secs(PATIENCE.as_secs() + STORE.as_secs());

/// The longest name of an endpoint, characters.
const NAME_MAX: usize = 128;

/// How often a namespace that nobody has any more is looked for, and how many
/// times.
const LOOK: Duration = Duration::from_millis(50);
const LOOKS: usize = 200;

/// What a front end asks for.
#[derive(Clone, Debug)]
pub struct Attach {
    /// The network's name.
    pub network: String,
    /// The container's network namespace.
    pub netns: PathBuf,
    /// The interface inside.
    pub ifname: String,
    /// A name for people.
    pub name: Option<String>,
    /// Addresses wanted.
    pub addresses: Vec<IpAddr>,
    /// The MAC wanted.
    pub mac: Option<Mac>,
}

/// Which endpoint a front end means.
#[derive(Clone, Debug)]
pub enum Which {
    /// The one with this id or, failing that, this name.
    Id(String),
    /// The one behind an interface of a namespace.
    Interface(PathBuf, String),
}

/// Held by whoever works on an interface.
type Turn = Arc<Mutex<()>>;

/// The containers of this node.
pub struct Workloads {
    /// The addresses of this node.
    pub ipam: Ipam,
    /// The networks of the cluster.
    pub networks: Networks,
    /// The control loop.
    pub control: Control,
    /// Netlink in the host's namespace.
    pub netlink: Netlink,
    /// The endpoints of this node.
    pub journal: Journal,
    /// What kind of interface new containers get.
    pub device: Device,
    /// Whether attaching may begin.
    open: watch::Sender<bool>,
    /// Whether the store may say more than this node's endpoints have.
    dirty: AtomicBool,
    /// How often the store turned out to have lost something.
    losses: AtomicU64,
    /// Addresses that a runtime asked for and no endpoint has.
    leases: staged::Leases,
    /// Numbers of a runtime's containers.
    sandboxes: Sandboxes,
    /// One at a time for each interface of each namespace.
    busy: Mutex<BTreeMap<(u32, String), Turn>>,
}

impl Workloads {
    /// Nothing is attached or detached by this.
    pub fn new(ipam: Ipam, networks: Networks, control: Control, netlink: Netlink, journal: Journal) -> Self {
        let sandboxes = Sandboxes::after(&journal.endpoints());
        Self {
            ipam,
            networks,
            control,
            netlink,
            journal,
            device: Device::default(),
            open: watch::Sender::new(false),
            dirty: AtomicBool::new(false),
            losses: AtomicU64::new(0),
            leases: staged::Leases::default(),
            sandboxes,
            busy: Mutex::default(),
        }
    }

    /// The same with another kind of interface for new containers.
    pub fn with(self, device: Device) -> Self {
        Self { device, ..self }
    }

    /// Attaches a container to a network, or finds it attached.
    pub async fn attach(&self, request: Attach) -> Result<Endpoint> {
        check_ifname(&request.ifname)?;
        if let Some(name) = &request.name {
            words::check("endpoint name", name, NAME_MAX)?;
        }
        let netns = Netns::open(&request.netns).await?;
        let turn = self.turn(netns.inode, &request.ifname).await;
        let _turn = turn.lock().await;
        self.joined().await?;
        if let Some(found) = self.existing(netns.inode, &request.ifname)? {
            if found.ready
                && found.lost.is_none()
                && link::index(&self.netlink, &found.host_interface).await?.is_some()
            {
                return same(found, &request);
            }
            // Begun and not finished, or of a namespace that is gone and whose
            // inode number this one has now.
            self.take_down(&found).await?;
        }
        let network = self.network(&request.network).await?;
        self.check_once(&network, &netns)?;
        if let Some(name) = &request.name {
            self.check_name(&network, name).await?;
        }
        let id = new_id()?;
        let holder =
            Holder { endpoint: id.clone(), name: request.name.clone(), node: None, unknown: Unknown::new() };
        let wanted = ipam::Request { holder, wanted: request.addresses.clone() };
        let (addresses, stashed) = self.allocate(&network, &wanted).await?;
        let mtu = self.mtu(&network).await?;
        let endpoint = Endpoint {
            name: request.name,
            network: network.id,
            network_name: network.name.clone(),
            mac: request.mac.unwrap_or_else(|| mac_for(&addresses)),
            addresses,
            netns: netns.path.clone(),
            sandbox: netns.inode,
            ifname: request.ifname,
            host_interface: host_interface(&id),
            device: self.device,
            mtu,
            ready: false,
            docker: None,
            lost: None,
            id,
        };
        let brought_up = self.bring_up(&endpoint, &network, &netns).await;
        self.tell_store(stashed);
        match brought_up {
            Ok(endpoint) => {
                let addresses = list(&endpoint.addresses);
                info!(
                    endpoint = endpoint.id,
                    name = endpoint.name,
                    network = network.name,
                    addresses,
                    "attached"
                );
                Ok(endpoint)
            }
            Err(error) => {
                if let Err(undo) = self.take_down(&endpoint).await {
                    warn!(endpoint = endpoint.id, "roll-back incomplete: {undo:#}");
                }
                Err(error)
            }
        }
    }

    /// Detaches a container; `None` if it was not attached.
    pub async fn detach(&self, which: &Which) -> Result<Option<Endpoint>> {
        let Some(endpoint) = self.find(which).await? else { return Ok(None) };
        let turn = self.turn_of(&endpoint).await;
        let _turn = turn.lock().await;
        self.take_down(&endpoint).await?;
        info!(endpoint = endpoint.id, name = endpoint.name, network = endpoint.network_name, "detached");
        Ok(Some(endpoint))
    }

    /// Lets attaching begin: this node is a member of the cluster, and what a
    /// crash left behind is swept, or has to wait for the store.
    pub fn open(&self) {
        self.open.send_if_modified(|open| !std::mem::replace(open, true));
    }

    /// Lets nothing be attached any more.
    pub fn shut(&self) {
        self.open.send_if_modified(|open| std::mem::replace(open, false));
    }

    /// Whether addresses may be taken in the store that no endpoint has.
    pub fn is_dirty(&self) -> bool {
        self.dirty.load(Ordering::Relaxed)
    }

    /// How often the store turned out to have lost something since the start.
    pub fn losses(&self) -> u64 {
        self.losses.load(Ordering::Relaxed)
    }

    /// The store has lost something: what hangs on it is not gone.
    pub fn lost(&self) {
        self.losses.fetch_add(1, Ordering::Relaxed);
    }

    /// They are about to be looked for.
    pub fn clean(&self) {
        self.dirty.store(false, Ordering::Relaxed);
    }

    /// Waits until attaching may begin.
    pub async fn joined(&self) -> Result<()> {
        let mut open = self.open.subscribe();
        if timeout(PATIENCE, open.wait_for(|open| *open)).await.is_ok() {
            return Ok(());
        }
        let problem =
            self.control.look(|state| state.join_problem.clone().or_else(|| state.refusal())).await?;
        let problem = problem.unwrap_or_else(|| Problem::new("it is joining", "see `margay status`"));
        Err(Rejection::Later(problem.within("this node has not joined the cluster")).into())
    }

    /// Nothing is agreed upon before this node is a member, or with a store that
    /// is away or not to be believed.
    pub async fn agreed(&self) -> Result<()> {
        if let Some(away) = self.control.look(|state| state.store.unusable().cloned()).await? {
            bail!(away);
        }
        self.joined().await?;
        self.believed().await
    }

    /// What may be in the way of joining can be mended before this node is a member, with a
    /// store that can be asked and is believed.
    pub async fn believed(&self) -> Result<()> {
        match self.control.look(State::refusal).await? {
            Some(reason) => bail!(Rejection::Later(reason)),
            None => Ok(()),
        }
    }

    /// Addresses from the store, or from the stash while it cannot be asked,
    /// and which of both.
    async fn allocate(&self, network: &Network, request: &ipam::Request) -> Result<(Vec<IpAddr>, bool)> {
        let why = match self.control.refusal() {
            Some(why) => why.problem,
            None => loop {
                let allocated = timeout(STORE, self.ipam.allocate(network, request));
                let Ok(allocated) = allocated.await else {
                    // The store may have done it all the same.
                    self.dirty.store(true, Ordering::Relaxed);
                    break format!("the store did not answer within {} s", STORE.as_secs());
                };
                match allocated {
                    Err(ipam::Refusal::Away(away)) => break away.to_problem().problem,
                    Err(refusal) if self.make_room(network, &refusal).await? => {}
                    result => return Ok((result?, false)),
                }
            },
        };
        Ok((self.ipam.allocate_from_stash(network, request, &why).await?, true))
    }

    /// Has membership tell the store of an address out of the stash, now that
    /// it stands in the journal, or is no endpoint's any more.
    fn tell_store(&self, stashed: bool) {
        if stashed {
            self.dirty.store(true, Ordering::Relaxed);
        }
    }

    /// The endpoint that is meant.
    pub async fn find(&self, which: &Which) -> Result<Option<Endpoint>> {
        let endpoints = self.journal.endpoints();
        match which {
            Which::Id(id) => {
                let found = pick("endpoint", endpoints.values(), id, |e| Face {
                    id: &e.id,
                    name: e.name.as_deref(),
                    of: &e.network_name,
                });
                Ok(found?.cloned())
            }
            Which::Interface(path, ifname) => {
                // A namespace that is gone is known by its path alone.
                let inode = Netns::open(path).await.ok().map(|netns| netns.inode);
                let here = |e: &Endpoint| match inode {
                    Some(inode) => e.sandbox == inode,
                    None => e.netns == *path,
                };
                Ok(endpoints.into_values().find(|e| here(e) && e.ifname == *ifname))
            }
        }
    }

    async fn bring_up(&self, endpoint: &Endpoint, network: &Network, netns: &Netns) -> Result<Endpoint> {
        self.note(endpoint, network).await?;
        self.open_host_side(endpoint, &endpoint.ifname, Some(netns)).await?;
        inside::configure(netns, endpoint, network).await?;
        ready::queue(&self.netlink, &endpoint.host_interface).await?;
        let endpoint = Endpoint { ready: true, ..endpoint.clone() };
        self.journal.commit(Step::default().endpoint(&endpoint)).await?;
        Ok(endpoint)
    }

    /// Writes an endpoint into the journal, with its network, without which it is nothing.
    async fn note(&self, endpoint: &Endpoint, network: &Network) -> Result<()> {
        let stash = self.ipam.stash(network.id).await;
        let member = Member { network: network.clone(), stash };
        self.journal.commit(Step::default().network(&member).endpoint(endpoint)).await
    }

    /// Makes the interface and has the kernel serve its host side.
    async fn open_host_side(&self, endpoint: &Endpoint, inside: &str, netns: Option<&Netns>) -> Result<()> {
        let host = &endpoint.host_interface;
        self.control.expect(host.clone()).await?;
        let super_packets = self.control.look(|state| state.facts.super_packets).await?;
        let Endpoint { device, mac, mtu, .. } = *endpoint;
        let pair = Pair { device, host, inside, netns, mac, mtu, super_packets };
        device::add(&self.netlink, &pair).await?;
        // The host side is closed whenever it has no program, whatever the
        // host's forwarding says.
        sysctl::set("ipv6", host, "disable_ipv6", "1")?;
        sysctl::set("ipv4", host, "rp_filter", "1")?;
        let index = link::index(&self.netlink, host).await?;
        let index = index.ok_or_else(|| anyhow!("interface {host} disappeared"))?;
        link::set_up(&self.netlink, index).await?;
        self.control.serve(endpoint.clone()).await
    }

    async fn take_down(&self, endpoint: &Endpoint) -> Result<()> {
        self.control.release(endpoint.id.clone()).await?;
        link::remove(&self.netlink, &endpoint.host_interface).await?;
        let gone = Step::default().without_endpoint(&endpoint.id);
        if let Some(kept) = self.keep(endpoint) {
            return self.journal.commit(gone.kept(&kept)).await;
        }
        if let Err(away) = self.ipam.release(endpoint.network, &endpoint.id).await {
            // Membership takes them back once the store answers.
            self.dirty.store(true, Ordering::Relaxed);
            debug!("addresses of endpoint {}: {away}", endpoint.id);
        }
        self.journal.commit(gone).await
    }

    fn existing(&self, sandbox: u32, ifname: &str) -> Result<Option<Endpoint>> {
        let endpoints = self.journal.endpoints();
        Ok(endpoints.into_values().find(|e| e.sandbox == sandbox && e.ifname == ifname))
    }

    /// A container joins a network once: it has one route to it.
    fn check_once(&self, network: &Network, netns: &Netns) -> Result<()> {
        let endpoints = self.journal.endpoints();
        match endpoints.values().find(|e| e.sandbox == netns.inode && e.network == network.id) {
            Some(other) if other.netns == netns.path => bail!(Rejection::conflict(
                format!(
                    "{} is on network {} already, by interface {} (endpoint {})",
                    netns.path.display(),
                    network.name,
                    other.ifname,
                    other.id
                ),
                "detach that endpoint first"
            )),
            // The inode number of a namespace that is gone, in use again.
            _ => Ok(()),
        }
    }

    /// A name is one endpoint's, unless that one is gone and its end was not
    /// noticed yet.
    async fn check_name(&self, network: &Network, name: &str) -> Result<()> {
        let endpoints = self.journal.endpoints();
        let named = |e: &&Endpoint| e.network == network.id && e.name.as_deref() == Some(name);
        let Some(other) = endpoints.values().find(named) else { return Ok(()) };
        // The kernel takes a moment to end a namespace that nobody has any more.
        let left = Netns::open(&other.netns).await.map_or(true, |netns| netns.inode != other.sandbox);
        let looks = if left { LOOKS } else { 1 };
        for _ in 0..looks {
            if link::index(&self.netlink, &other.host_interface).await?.is_none() {
                return self.take_down(other).await;
            }
            sleep(LOOK).await;
        }
        let what = format!("endpoint {} of network {} is named {name} already", other.id, network.name);
        bail!(Rejection::conflict(what, "choose another name"))
    }

    /// The network of that name: as known here, or as the store has it if it
    /// is newer than what we have seen.
    async fn network(&self, name: &str) -> Result<Network> {
        if let Some(network) = self.known_network(name).await? {
            return Ok(network);
        }
        let Some(revision) = self.networks.find(name).await? else {
            let what = format!("there is no network {name}");
            bail!(Rejection::missing(what, "margay network create makes one"))
        };
        self.control.revision(revision).await?;
        let gone = || Rejection::missing(format!("network {name} was removed just now"), "create it again");
        Ok(self.known_network(name).await?.ok_or_else(gone)?)
    }

    async fn mtu(&self, network: &Network) -> Result<u32> {
        let network = network.clone();
        self.control.look(move |state| container_mtu(&network, &state.facts)).await
    }

    async fn known_network(&self, name: &str) -> Result<Option<Network>> {
        let name = name.to_owned();
        let look = move |state: &State| {
            let barred = || state.snapshot.barred.values().find(|(network, _)| network.name == name);
            match (state.snapshot.network(&name), barred()) {
                (None, Some((_, reason))) => bail!(Rejection::conflict(
                    format!("network {name} is not served on this node: {reason}"),
                    "see `margay status`"
                )),
                (found, _) => Ok(found.cloned()),
            }
        };
        self.control.look(look).await?
    }

    async fn turn_of(&self, endpoint: &Endpoint) -> Turn {
        match &endpoint.docker {
            Some(docker) => self.turn(0, &docker.id).await,
            None => self.turn(endpoint.sandbox, &endpoint.ifname).await,
        }
    }

    async fn turn(&self, sandbox: u32, ifname: &str) -> Turn {
        let mut busy = self.busy.lock().await;
        busy.retain(|_, turn| Arc::strong_count(turn) > 1);
        Arc::clone(busy.entry((sandbox, ifname.to_owned())).or_default())
    }
}

/// The same request again finds what the first made; another is refused.
fn same(found: Endpoint, request: &Attach) -> Result<Endpoint> {
    let network = found.network_name == request.network;
    let addresses = request.addresses.iter().all(|addr| found.addresses.contains(addr));
    let mac = request.mac.is_none_or(|mac| mac == found.mac);
    let name = request.name.is_none() || request.name == found.name;
    if network && addresses && mac && name {
        return Ok(found);
    }
    let what = format!(
        "interface {} in {} is endpoint {} of network {} already, attached with other options",
        request.ifname,
        request.netns.display(),
        found.id,
        found.network_name
    );
    bail!(Rejection::conflict(what, "detach it first, or choose another interface with --ifname"))
}

/// A MAC made of the endpoint's first address, so that it is the same again
/// for the same address. Locally administered, unicast.
fn mac_for(addresses: &[IpAddr]) -> Mac {
    match addresses.first() {
        Some(IpAddr::V4(v4)) => {
            let [a, b, c, d] = v4.octets();
            Mac([0x02, 0x4d, a, b, c, d])
        }
        Some(IpAddr::V6(v6)) => {
            let bits = v6.to_bits();
            let [a, b, c, d] = ((bits ^ bits >> 32 ^ bits >> 64 ^ bits >> 96) as u32).to_be_bytes();
            Mac([0x06, 0x4d, a, b, c, d])
        }
        None => Mac([0x02, 0x4d, 0, 0, 0, 0]),
    }
}

fn list(addresses: &[IpAddr]) -> String {
    addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
}

/// Sixteen hexadecimal digits nobody has had.
pub fn new_id() -> Result<String> {
    use std::io::Read;
    let mut bytes = [0; 8];
    let path = Path::new("/dev/urandom");
    std::fs::File::open(path).and_then(|mut file| file.read_exact(&mut bytes)).context("/dev/urandom")?;
    Ok(format!("{:016x}", u64::from_be_bytes(bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn macs_are_unicast_and_follow_the_address() {
        let addr = |text: &str| text.parse::<IpAddr>().expect("a literal");
        let (v4, v6) = (mac_for(&[addr("10.1.0.2")]), mac_for(&[addr("fd00::2")]));
        assert_eq!(v4, mac_for(&[addr("10.1.0.2"), addr("fd00::2")]));
        assert_ne!(v4, mac_for(&[addr("10.1.0.3")]));
        assert!(v4.0[0] & 3 == 2 && v6.0[0] & 3 == 2);
    }

    #[test]
    fn ids_are_long_and_new() {
        let (a, b) = (new_id().expect("random"), new_id().expect("random"));
        assert!(a.len() == 16 && a != b);
    }
}
