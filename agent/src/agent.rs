//! The agent: configure, build, run, and leave everything in place.

use std::{net::IpAddr, sync::Arc, time::Duration};

use anyhow::{Context, Result, anyhow, bail};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc,
};
use tracing::{info, warn};

use crate::{
    api::server::{self, Agent},
    config::{Config, SOCKET},
    control::{Control, Loop, Sources, State},
    desired::LocalFacts,
    ipam::Ipam,
    journal::Journal,
    kernel::{
        self, Netlink,
        attach::TcMode,
        datapath::{self, Datapath},
        facts,
        host::Host,
        link,
        pins::Pins,
        privileges,
    },
    model::{
        self, Unknown,
        key::{Key, ROOT},
        node::{AddressHolder, Alive, Cluster, Node},
        snapshot::{Event, Snapshot},
    },
    network::Networks,
    store::{Commit, Condition, Listing, Op, Store, Txn, etcd::Etcd},
    workload::{Which, Workloads, new_id},
};

/// How long to wait before the store is asked again at the start.
const ASK_AGAIN: Duration = Duration::from_millis(500);

/// Runs the agent until it is told to end. Whatever it has put into the kernel
/// stays there and works on.
pub async fn run(config: Config) -> Result<()> {
    privileges::check()?;
    let pins = Pins::create(&config.bpffs)?;
    let journal = Journal::open(&config.state_dir)?;
    let netlink = kernel::netlink().context("netlink")?;
    let facts = first_facts(&config, &netlink, &journal).await?;
    let mode = config.tc_mode.unwrap_or_else(TcMode::probe);
    let listener = server::listen(&config.run_dir.join(SOCKET)).await?;
    let host = Host::new(pins.clone(), netlink.clone(), mode, config.uplink.clone(), config.datapath_log)?;
    let datapath = host.datapath();
    if config.datapath_log {
        crate::kernel::log::follow(&*datapath.lock().await)?;
    }
    let store: Arc<dyn Store> = Arc::new(Etcd::new(&config.etcd)?);
    let (control, requests) = Control::channel();
    let (links, link_events) = mpsc::channel(1);
    link::watch(links)?;
    let (vanished, vanishing) = mpsc::channel(64);
    info!(
        "node {} at {} on uplink {}, programs attached by {mode:?}",
        config.node,
        facts.addresses.iter().map(IpAddr::to_string).collect::<Vec<_>>().join(" and "),
        config.uplink
    );
    let own = node(&config, &facts);
    let state = State { facts, ..State::default() };
    let sources = Sources { store: store.watch(), links: link_events, requests, vanished };
    let control_loop = Loop::new(host, netlink.clone(), state, sources);
    let ipam = Ipam::new(Arc::clone(&store), config.node.clone());
    let networks = Networks::new(Arc::clone(&store));
    let workloads = Workloads::new(ipam, networks, control, netlink, journal);
    let agent = Arc::new(Agent { workloads, datapath, pins: pins.clone(), mode });
    tokio::spawn(settle(Arc::clone(&agent), store, own, pins, config.datapath_log));
    tokio::spawn(bury(Arc::clone(&agent), vanishing));
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        result = control_loop.run() => result.and(Err(anyhow!("the control loop ended"))),
        result = server::serve(listener, agent) => result,
        _ = tokio::signal::ctrl_c() => Ok(()),
        _ = terminate.recv() => Ok(()),
    }?;
    drop(std::fs::remove_file(config.run_dir.join(SOCKET)));
    info!("ended; the datapath goes on");
    Ok(())
}

async fn first_facts(config: &Config, netlink: &Netlink, journal: &Journal) -> Result<LocalFacts> {
    let uplink = facts::uplink(netlink, &config.uplink).await?;
    let addresses = facts::node_addresses(netlink, &uplink, &config.addresses).await?;
    Ok(LocalFacts {
        node: config.node.clone(),
        addresses,
        uplink,
        interfaces: facts::own_interfaces(netlink).await?,
        endpoints: journal.read()?,
    })
}

fn node(config: &Config, facts: &LocalFacts) -> Node {
    Node {
        name: config.node.clone(),
        addresses: facts.addresses.clone(),
        link_local: facts.uplink.link_local,
        unknown: Unknown::new(),
    }
}

/// Once the store answers: tells the others of this node, keeps telling them
/// that it lives, and takes back what a crash left behind.
async fn settle(agent: Arc<Agent>, store: Arc<dyn Store>, own: Node, pins: Pins, log: bool) {
    while let Err(error) = register(&*store, &own).await {
        warn!("this node cannot join: {error:#}");
        agent.workloads.control.joining(Some(format!("{error:#}"))).await;
        tokio::time::sleep(ASK_AGAIN).await;
    }
    agent.workloads.control.joining(None).await;
    let alive = Alive { since: crate::control::now() };
    store.announce(Key::Alive(own.name.clone()), model::encode(&alive));
    while !agent.workloads.control.look(State::in_sync).await.unwrap_or(true) {
        tokio::time::sleep(ASK_AGAIN).await;
    }
    while let Err(error) = agent.workloads.sweep().await {
        warn!("addresses without endpoints are not taken back yet: {error:#}");
        tokio::time::sleep(ASK_AGAIN).await;
    }
    agent.workloads.open();
    // Only now is every hook sure to have the new programs.
    if let Err(error) = Datapath::forget_others(&pins, log) {
        warn!("old programs: {error:#}");
    }
    info!("programs in {}", datapath::programs_dir(&pins, log).display());
}

/// Writes the node's own keys, unless another node has one of its addresses.
async fn register(store: &dyn Store, own: &Node) -> Result<()> {
    let keys: Vec<Key> = own.addresses.iter().map(|addr| Key::Address(*addr)).collect();
    let more = [Key::Guard.to_string(), Key::Cluster.to_string(), format!("{ROOT}networks/")];
    let prefixes: Vec<String> = keys.iter().map(Key::to_string).chain(more).collect();
    let listing = store.list(&prefixes).await?;
    let mut txn = Txn::default();
    first_node(&listing, &mut txn)?;
    check_subnets(own, &listing, &mut txn)?;
    for key in keys {
        let found = listing.entries.iter().find_map(|entry| match entry {
            Event::Put { key: found, value, revision } if *found == key.to_string() => {
                Some((value, revision))
            }
            _ => None,
        });
        match found {
            None => txn.conditions.push(Condition::Absent(key.clone())),
            Some((value, revision)) => {
                let holder: AddressHolder = model::decode(value).with_context(|| key.to_string())?;
                if holder.node != own.name {
                    bail!("{key} belongs to node {}", holder.node);
                }
                txn.conditions.push(Condition::Revision(key.clone(), *revision));
            }
        }
        txn.ops.push(Op::Put(key, model::encode(&AddressHolder { node: own.name.clone() })));
    }
    txn.ops.push(Op::Put(Key::Node(own.name.clone()), model::encode(own)));
    match store.commit(txn).await? {
        Commit::Done(_) => Ok(()),
        Commit::Conflict => bail!("others changed the cluster at the same moment"),
    }
}

/// The first node of a cluster gives it its id.
fn first_node(listing: &Listing, txn: &mut Txn) -> Result<()> {
    if listing.revision_of(&Key::Cluster).is_none() {
        let cluster = Cluster { id: new_id()?, epoch: 0 };
        txn.conditions.push(Condition::Absent(Key::Cluster));
        txn.ops.push(Op::Put(Key::Cluster, model::encode(&cluster)));
    }
    Ok(())
}

/// A node whose address lies in a network's subnet would be unreachable from
/// that network. Creating a network rewrites the guard, so none comes between.
fn check_subnets(own: &Node, listing: &Listing, txn: &mut Txn) -> Result<()> {
    let mut snapshot = Snapshot::default();
    snapshot.replace(&listing.entries);
    for network in snapshot.networks.values() {
        if let Some((addr, subnet)) = own.addresses.iter().find_map(|a| Some((a, network.subnet_of(*a)?))) {
            bail!("its address {addr} lies in subnet {} of network {}", subnet.cidr, network.name);
        }
    }
    txn.conditions.push(match listing.revision_of(&Key::Guard) {
        Some(revision) => Condition::Revision(Key::Guard, revision),
        None => Condition::Absent(Key::Guard),
    });
    Ok(())
}

/// Detaches endpoints whose interface vanished with their container.
async fn bury(agent: Arc<Agent>, mut vanishing: mpsc::Receiver<String>) {
    while let Some(id) = vanishing.recv().await {
        // Nobody else would come back to it, so this does until it is done.
        while let Err(error) = agent.workloads.detach(&Which::Id(id.clone())).await {
            warn!("endpoint {id} is gone, but not all of it yet: {error:#}");
            tokio::time::sleep(ASK_AGAIN).await;
        }
    }
}
