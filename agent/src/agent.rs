//! The agent: configure, build, run, and leave everything in place.

mod doors;

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use anyhow::{Context, Result, anyhow};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{Mutex, Notify, mpsc, watch},
};
use tracing::{info, warn};

use doors::Doors;

use crate::{
    api::server::Agent,
    config::Config,
    control::{Control, Loop, Sources, State},
    desired::{LocalFacts, World, Xdp},
    ipam::Ipam,
    journal::{Journal, Member},
    kernel::{
        self, Netlink,
        attach::TcMode,
        datapath::{self, Datapath, Extras},
        device,
        facts::{self, Look},
        host::Host,
        link,
        pins::Pins,
        privileges,
        super_packets::{self, SuperPackets, USUAL},
        sysctl::Originals,
        world, xdp,
    },
    membership::Membership,
    model::snapshot::{Event, Snapshot},
    network::Networks,
    next_hops,
    report::Report,
    workload::{Which, Workloads, new_id},
};

/// How long to wait before something that failed is tried again.
const ASK_AGAIN: std::time::Duration = std::time::Duration::from_millis(500);

/// Runs the agent until it is told to end. Whatever it has put into the kernel
/// stays there and works on.
pub async fn run(config: Config) -> Result<()> {
    privileges::check()?;
    let pins = Pins::create(&config.bpffs)?;
    let journal = Journal::open(&config.state_dir)?;
    let instance = journal.instance(new_id)?;
    let netlink = kernel::netlink().context("netlink")?;
    let facts = first_facts(&config, &netlink, &journal).await?;
    let uplink = facts.uplink.name.clone();
    let mode = config.tc_mode.unwrap_or_else(TcMode::probe);
    let device = device::choose(config.container_device).await?;
    let mut doors = Doors::open(&config).await?;
    let store = config.store.open()?;
    let originals = Originals::of(&config.state_dir);
    let extras = Extras { log: config.datapath_log, ..Extras::default() };
    let host = Host::new(pins.clone(), netlink.clone(), mode, uplink.clone(), originals.clone(), extras)?;
    let datapath = host.datapath();
    tell_of_drops(extras, &datapath).await?;
    let (control, requests) = Control::channel();
    let (links, link_events) = mpsc::channel(1);
    link::watch(links)?;
    let world_events = world::watch(netlink.clone(), uplink.clone(), originals.clone());
    let (vanished, vanishing) = mpsc::channel(64);
    let (rounds, on_rounds) = watch::channel(0);
    greet(&config, &facts, mode);
    let members = journal.networks()?;
    let stash = members.iter().map(|(id, member)| (*id, member.stash.clone())).collect();
    let ipam =
        Ipam::new(Arc::clone(&store), config.node.clone(), config.address_rest, &facts.endpoints, stash);
    let begun = begun(&facts);
    let state = first_state(&journal, &members, facts, store.addresses()).await?;
    let sources = Sources {
        store: store.watch(),
        links: link_events,
        world: world_events,
        requests,
        vanished,
        refusal: control.refusals(),
        rounds,
    };
    let control_loop = Loop::new(host, netlink.clone(), originals, state, sources);
    let networks = Networks::new(Arc::clone(&store));
    let workloads = Workloads::new(ipam, networks, control, netlink, journal.clone());
    let workloads = Arc::new(workloads.with(device));
    let (same_store, same_workloads) = (Arc::clone(&store), Arc::clone(&workloads));
    let membership = Membership::new(same_store, same_workloads, journal, instance, config.block_idle);
    let membership = Arc::new(membership);
    let stop = Arc::new(Notify::new());
    let report = Arc::new(Report::default());
    let docker = doors.open_to_docker(&workloads, &report, &on_rounds)?;
    let (control, netlink) = (workloads.control.clone(), workloads.netlink.clone());
    tokio::spawn(next_hops::vouch(control, netlink, Arc::clone(&datapath)));
    let agent = Arc::new(Agent {
        report,
        calls: docker.as_ref().map(|docker| docker.calls.clone()),
        stop: Arc::clone(&stop),
        workloads: Arc::clone(&workloads),
        membership: Arc::clone(&membership),
        store,
        store_at: config.store.to_string(),
        datapath,
        pins: pins.clone(),
        mode,
    });
    tokio::spawn(membership.run(on_rounds.clone()));
    tokio::spawn(forget_old_programs(Arc::clone(&workloads), on_rounds, pins, extras));
    tokio::spawn(undo_begun(Arc::clone(&workloads), begun));
    tokio::spawn(bury(workloads, vanishing));
    tokio::select! {
        result = control_loop.run() => result.and(Err(anyhow!("the control loop ended"))),
        result = doors.serve(agent) => result,
        result = told_to_end(&stop) => result,
    }?;
    doors.close();
    info!("ended; the datapath goes on");
    Ok(())
}

/// Has the drops that the programs tell of come up in the log, if they tell.
async fn tell_of_drops(extras: Extras, datapath: &Mutex<Datapath>) -> Result<()> {
    if extras.log { kernel::log::follow(&*datapath.lock().await) } else { Ok(()) }
}

/// Says what the agent has taken, also what nobody told it.
fn greet(config: &Config, facts: &LocalFacts, mode: TcMode) {
    info!(
        node = config.node,
        addresses = facts.addresses.iter().map(IpAddr::to_string).collect::<Vec<_>>().join(" and "),
        uplink = facts.uplink.name,
        store = %config.store,
        tc_mode = format!("{mode:?}").to_lowercase(),
        version = crate::version(),
        "starting"
    );
}

/// Waits for a signal, or for somebody at the socket.
async fn told_to_end(stop: &Notify) -> Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        _ = terminate.recv() => {}
        () = stop.notified() => {}
    }
    Ok(())
}

async fn first_facts(config: &Config, netlink: &Netlink, journal: &Journal) -> Result<LocalFacts> {
    let name = match &config.uplink {
        Some(name) => name.clone(),
        None => {
            let (name, why) = facts::find_uplink(netlink).await?;
            info!(uplink = name, "found the uplink, {why}");
            name
        }
    };
    let endpoints = journal.endpoints();
    let expected = endpoints.values().map(|endpoint| &endpoint.host_interface);
    let Look { interfaces, occupied, uplink, .. } = facts::look(netlink, &name, expected).await?;
    let uplink = uplink?;
    let addresses = facts::node_addresses(netlink, &uplink, &config.addresses).await?;
    let mut facts = LocalFacts {
        node: config.node.clone(),
        addresses,
        uplink,
        super_packets: None,
        xdp: Xdp::default(),
        occupied,
        world: match config.masquerade {
            true => world::read(netlink, &name, &Originals::of(&config.state_dir)).await?,
            false => World::default(),
        },
        interfaces,
        endpoints,
    };
    facts.xdp = choose_xdp(config, netlink, &facts).await?;
    facts.super_packets = size_super_packets(config, netlink, &facts).await;
    Ok(facts)
}

/// Whether and how the uplink gets its XDP program.
async fn choose_xdp(config: &Config, netlink: &Netlink, facts: &LocalFacts) -> Result<Xdp> {
    let links = link::list(netlink).await?;
    let uplink = links.iter().find(|link| link.name == facts.uplink.name);
    let Some(uplink) = uplink else { return Ok(Xdp::default()) };
    Ok(xdp::choose(config.xdp, uplink, &links))
}

/// Has the uplink and the containers that are there send super-packets as large
/// as is asked for now, and says how large where that is not usual. The uplink
/// is raised before the containers and lowered after them.
async fn size_super_packets(config: &Config, netlink: &Netlink, facts: &LocalFacts) -> Option<u32> {
    let uplink = SuperPackets::of(&config.state_dir);
    let was_raised = uplink.is_raised();
    let mut size = USUAL;
    if config.big_tcp {
        match uplink.raise(netlink, &facts.uplink.name).await {
            Ok(raised) => size = raised,
            Err(error) => warn!("there is no BIG TCP: {error:#}"),
        }
    }
    if config.big_tcp || was_raised {
        super_packets::fit(netlink, facts.endpoints.values(), size).await;
    }
    if size == USUAL
        && let Err(error) = uplink.restore(netlink).await
    {
        warn!("BIG TCP is not undone: {error:#}");
    }
    (size != USUAL).then_some(size)
}

/// The endpoints whose attaching an earlier agent began and did not end.
fn begun(facts: &LocalFacts) -> Vec<String> {
    let begun = facts.endpoints.values().filter(|endpoint| !endpoint.ready && endpoint.docker.is_none());
    begun.map(|endpoint| endpoint.id.clone()).collect()
}

/// What the control loop begins with.
async fn first_state(
    journal: &Journal,
    members: &BTreeMap<u32, Member>,
    facts: LocalFacts,
    store: impl Future<Output = Vec<IpAddr>>,
) -> Result<State> {
    let mut snapshot = remembered(journal, members)?;
    if !snapshot.blocked.is_empty() {
        // The store may have moved since: without it nobody could unblock it.
        let store = store.await;
        snapshot.blocked.retain(|cidr, _| !store.iter().any(|addr| cidr.contains(addr)));
    }
    Ok(State {
        snapshot,
        known: journal.known()?.map(Arc::new),
        join_problem: Some("it is about to".into()),
        facts,
        ..State::default()
    })
}

/// What is known before the store says anything: the networks of our own
/// endpoints, this node, what the guard blocks, and the last good values of what could not be read.
fn remembered(journal: &Journal, members: &BTreeMap<u32, Member>) -> Result<Snapshot> {
    let mut snapshot = Snapshot::default();
    for (key, value) in journal.last_good()? {
        snapshot.apply(&Event::Put { key, value, revision: 0 });
    }
    snapshot.unreadable.clear();
    for member in members.values() {
        snapshot.networks.insert(member.network.id, member.network.clone());
    }
    if let Some(known) = journal.known()? {
        snapshot.nodes.insert(known.node.name.clone(), known.node);
        snapshot.blocked.extend(known.blocked);
    }
    Ok(snapshot)
}

/// Once every hook is sure to have the new programs, the others may go.
async fn forget_old_programs(
    workloads: Arc<Workloads>,
    mut rounds: watch::Receiver<u64>,
    pins: Pins,
    extras: Extras,
) {
    let settled = |state: &State| state.in_sync() && state.hooks_are_settled();
    while !workloads.control.look(settled).await.unwrap_or(false) {
        if rounds.changed().await.is_err() {
            return;
        }
    }
    let old = pins.clone();
    // Large maps are emptied with pauses.
    match tokio::task::spawn_blocking(move || Datapath::forget_others(&old, extras)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => warn!("old programs: {error:#}"),
        Err(error) => warn!("old programs: {error}"),
    }
    info!(programs = %datapath::programs_dir(&pins, extras).display(), "every hook has this agent's programs");
}

/// Undoes what a crash left half-attached.
async fn undo_begun(workloads: Arc<Workloads>, begun: Vec<String>) {
    for id in begun {
        warn!(endpoint = id, "was not attached to the end, so it is undone");
        while let Err(error) = workloads.detach(&Which::Id(id.clone())).await {
            warn!("endpoint {id} is not undone yet: {error:#}");
            tokio::time::sleep(ASK_AGAIN).await;
        }
    }
}

/// Detaches endpoints whose interface vanished with their container.
async fn bury(workloads: Arc<Workloads>, mut vanishing: mpsc::Receiver<String>) {
    while let Some(id) = vanishing.recv().await {
        // Docker has yet to ask for its interface, or has forgotten it: that is
        // settled with Docker.
        let found = workloads.journal.endpoints().remove(&id);
        if found.is_some_and(|endpoint| endpoint.docker.is_some() && !endpoint.ready) {
            continue;
        }
        // Nobody else would come back to it, so this does until it is done.
        while let Err(error) = workloads.detach(&Which::Id(id.clone())).await {
            warn!("endpoint {id} is gone, but not all of it yet: {error:#}");
            tokio::time::sleep(ASK_AGAIN).await;
        }
    }
}
