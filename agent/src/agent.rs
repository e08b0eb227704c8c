//! The agent: configure, build, run, and leave everything in place.

mod boot;
mod doors;
mod end;
pub mod left;
mod own;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result, anyhow};
use margay_common::{net::Addr, route::Neighbour};
use tokio::{
    sync::{Notify, mpsc, watch},
    time::{sleep, timeout},
};
use tracing::{info, warn};

use doors::Doors;
use own::{Own, Running};

use crate::{
    again::Again,
    api::server::Agent,
    config::Config,
    control::{Control, Loop, Sources, State},
    desired::LocalFacts,
    docker, drops,
    endpoints::{Endpoints, Which, aside, new_id},
    files,
    ipam::Ipam,
    journal::{Journal, Member},
    kernel::{
        self,
        attach::TcMode,
        datapath::{self, Datapath, Extras},
        device,
        host::Host,
        link,
        maps::Maps,
        pins::Pins,
        privileges, routes,
        sysctl::Originals,
        table::HashTable,
        world,
    },
    membership::Membership,
    model::{
        endpoint::Device,
        snapshot::{Event, Snapshot},
    },
    network::Networks,
    next_hops,
    problem::Problem,
    report::Report,
    shared::Shared,
    store::Store,
};

/// How long to wait before something that failed is tried again, and how long at most.
const ASK_AGAIN: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));

/// How long the addresses of the store are waited for at the start.
const STORE_FOUND: Duration = Duration::from_secs(3);
/// How often they are looked up again.
const STORE_AGAIN: Duration = Duration::from_secs(30);

/// Runs the agent until it is told to end. Whatever it has put into the kernel
/// stays there and works on.
pub async fn run(config: Config) -> Result<()> {
    privileges::check()?;
    let pins = Pins::create(&config.bpffs)?;
    let (mut doors, journal) = opened(&config).await?;
    let instance = journal.instance(new_id)?;
    let netlink = kernel::netlink().context("netlink")?;
    let stop = Arc::new(Notify::new());
    end::heed_signals(Arc::clone(&stop))?;
    let facts = tokio::select! {
        facts = boot::facts(&config, &netlink, &journal, &doors) => facts?,
        () = stop.notified() => {
            doors.close();
            return Ok(());
        }
    };
    let uplink = facts.uplink.name.clone();
    let mode = config.tc_mode.unwrap_or_else(TcMode::probe);
    let device = device::choose(config.container_device).await?;
    let store = open_store(&config)?;
    let originals = Originals::of(&config.state_dir);
    let extras = Extras::default();
    let own = Own::new()?;
    let own_netlink = own.netlink()?;
    let host = Host::new(pins.clone(), own_netlink.clone(), mode, uplink, originals.clone(), extras)?;
    let Maps { neighbours, counters, log_drops, .. } = Maps::open(&pins)?;
    let counters = Arc::new(counters);
    let (control, requests) = Control::channel();
    let (links, routes) = (link::watch()?, routes::watch().context("netlink")?);
    let world = world::watch();
    let (vanished, vanishing) = mpsc::channel(64);
    let (rounds, on_rounds) = watch::channel(0);
    greet(&config, &facts, mode);
    places(&config, &facts, device).write(&config.run_dir)?;
    let members = journal.networks();
    let ipam = ipam(&config, &store, &journal, &members, &facts);
    let (begun, state) = (begun(&facts), first_state(&journal, &members, facts, &*store).await?);
    let sources =
        Sources { store: store.watch(&Snapshot::PREFIXES), links, routes, world, requests, vanished, rounds };
    let control_loop = Loop::new(host, own_netlink, originals, state, sources);
    let networks = Networks::new(Arc::clone(&store), docker::COMPARED);
    let endpoints = Endpoints::new(ipam, networks, control, netlink, journal.clone()).with(device);
    let endpoints = Arc::new(endpoints);
    let (same_store, same_endpoints) = (Arc::clone(&store), Arc::clone(&endpoints));
    let membership =
        Arc::new(Membership::new(same_store, same_endpoints, journal, instance, config.block_idle));
    let report = Arc::new(Report::default());
    let docker = doors.open_to_docker(&endpoints, &report, &on_rounds);
    follow_store(&endpoints, &store);
    keep_neighbours_fresh(&endpoints, neighbours);
    let agent = Arc::new(Agent {
        report,
        calls: docker.as_ref().map(|docker| docker.calls.clone()),
        stop: Arc::clone(&stop),
        endpoints: Arc::clone(&endpoints),
        membership: Arc::clone(&membership),
        store,
        store_at: config.store.to_string(),
        drops: drops::Switch::new(&endpoints.control, (log_drops, &counters), &pins, config.datapath_log)
            .await?,
        counters,
        pins: pins.clone(),
        mode,
    });
    tokio::spawn(membership.run(on_rounds.clone()));
    tokio::spawn(forget_old_programs(Arc::clone(&endpoints), on_rounds, pins, extras));
    tokio::spawn(undo_begun(Arc::clone(&endpoints), begun));
    tokio::spawn(bury(endpoints, vanishing));
    let control_loop = own.run(control_loop)?;
    serve(doors, agent, control_loop, stop).await
}

/// Opens the doors and then the journal: two agents with one socket are told that first.
async fn opened(config: &Config) -> Result<(Doors, Journal)> {
    let doors = Doors::open(config).await?;
    match Journal::open(&config.state_dir) {
        Ok(journal) => Ok((doors, journal)),
        Err(error) => {
            doors.close();
            Err(error)
        }
    }
}

/// Serves until the agent is told to end.
async fn serve(
    mut doors: Doors,
    agent: Arc<Agent>,
    mut control_loop: Running,
    stop: Arc<Notify>,
) -> Result<()> {
    tokio::select! {
        result = &mut control_loop.ended => result?.and(Err(anyhow!("the control loop ended"))),
        result = doors.serve(agent) => result,
        () = stop.notified() => Ok(()),
    }?;
    control_loop.end().await;
    info!("agent stopped; the programs keep forwarding");
    doors.close();
    Ok(())
}

/// Addresses for containers: what this node has of each network, and what it keeps aside.
fn ipam(
    config: &Config,
    store: &Arc<dyn Store>,
    journal: &Journal,
    members: &BTreeMap<u32, Member>,
    facts: &LocalFacts,
) -> Ipam {
    let stash = members.iter().map(|(id, member)| (*id, member.stash.clone())).collect();
    let (store, node) = (Arc::clone(store), config.node.clone());
    let endpoints = facts.endpoints.clone().into();
    let ipam = Ipam::new(store, node, config.address_rest, &endpoints, stash);
    ipam.with_kept(aside(journal.kept(), &endpoints))
}

fn open_store(config: &Config) -> Result<Arc<dyn Store>> {
    let store = config.store.open()?;
    // The embedded store's file is in the state folder, too.
    files::own(&config.state_dir)?;
    Ok(store)
}

/// Where to find what it has, once it does not run.
fn places(config: &Config, facts: &LocalFacts, container_device: Device) -> left::Places {
    left::Places {
        bpffs: config.bpffs.clone(),
        state_dir: config.state_dir.clone(),
        node: config.node.clone(),
        addresses: facts.addresses.clone(),
        uplink: facts.uplink.name.clone(),
        store: config.store.to_string(),
        container_device,
    }
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

/// The endpoints whose attaching an earlier agent began and did not end.
fn begun(facts: &LocalFacts) -> Vec<String> {
    let begun =
        facts.endpoints.values().filter(|endpoint| !endpoint.has_joined() && endpoint.handle().is_none());
    begun.map(|endpoint| endpoint.id.clone()).collect()
}

/// What the control loop begins with.
async fn first_state(
    journal: &Journal,
    members: &BTreeMap<u32, Member>,
    mut facts: LocalFacts,
    store: &dyn Store,
) -> Result<State> {
    // What must not be cut off is known before anything is read that might do it.
    facts.store = timeout(STORE_FOUND, store.addresses()).await.unwrap_or_default().into_iter().collect();
    Ok(State {
        snapshot: remembered(journal, members)?,
        known: journal.known()?.map(Arc::new),
        join_problem: Some(Problem::new("it is joining", "wait")),
        facts,
        ..State::default()
    })
}

/// Has the loop know the addresses at which this node reaches the store, which names may
/// lead to others in time.
fn follow_store(endpoints: &Endpoints, store: &Arc<dyn Store>) {
    let (control, store) = (endpoints.control.clone(), Arc::clone(store));
    tokio::spawn(async move {
        let mut told = None;
        loop {
            let addresses: BTreeSet<IpAddr> = store.addresses().await.into_iter().collect();
            // A resolver that is away makes no address another.
            if !addresses.is_empty() && told.as_ref() != Some(&addresses) {
                control.store_at(addresses.clone()).await;
                told = Some(addresses);
            }
            sleep(STORE_AGAIN).await;
        }
    });
}

/// Keeps the next hops fresh that XDP sends to.
fn keep_neighbours_fresh(endpoints: &Endpoints, table: HashTable<Addr, Neighbour>) {
    let (control, netlink) = (endpoints.control.clone(), endpoints.netlink.clone());
    tokio::spawn(next_hops::keep_fresh(control, netlink, table));
}

/// What is known before the store says anything: the networks of our own
/// endpoints, this node, the deny list, and the last good values of what could not be read.
fn remembered(journal: &Journal, members: &BTreeMap<u32, Member>) -> Result<Snapshot> {
    let mut snapshot = Snapshot::default();
    for (key, value) in journal.last_good()? {
        snapshot.apply(&Event::Put { key, value, revision: 0 });
    }
    snapshot.unreadable = Shared::default();
    for member in members.values() {
        snapshot.networks.insert(member.network.id, member.network.clone());
    }
    if let Some(known) = journal.known()? {
        snapshot.nodes.insert(known.node.name.clone(), known.node);
        snapshot.denied.extend(known.denied);
    }
    Ok(snapshot)
}

/// Once every hook is sure to have the new programs, the others may go.
async fn forget_old_programs(
    endpoints: Arc<Endpoints>,
    mut rounds: watch::Receiver<u64>,
    pins: Pins,
    extras: Extras,
) {
    let settled = |state: &State| state.in_sync() && state.hooks_are_settled();
    while !endpoints.control.look(settled).await.unwrap_or(false) {
        if rounds.changed().await.is_err() {
            return;
        }
    }
    let old = pins.clone();
    // Large maps are emptied with pauses.
    match tokio::task::spawn_blocking(move || Datapath::forget_others(&old, extras)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => warn!("cannot remove old programs: {error:#}"),
        Err(error) => warn!("cannot remove old programs: {error}"),
    }
    info!(programs = %datapath::programs_dir(&pins, extras).display(), "attached this agent's programs to every hook");
}

/// Undoes what a crash left half-attached.
async fn undo_begun(endpoints: Arc<Endpoints>, begun: Vec<String>) {
    for id in begun {
        warn!(endpoint = id, "incomplete attach, rolling back");
        let mut again = Again::new(ASK_AGAIN.0, ASK_AGAIN.1);
        while let Err(error) = endpoints.detach(&Which::Id(id.clone())).await {
            sleep(again.failed(&format!("endpoint {id}: roll-back incomplete, retrying: {error:#}"))).await;
        }
    }
}

/// Detaches endpoints whose interface vanished with their container.
async fn bury(endpoints: Arc<Endpoints>, mut vanishing: mpsc::Receiver<String>) {
    while let Some(id) = vanishing.recv().await {
        // Docker has yet to ask for its interface, or has forgotten it: that is
        // settled with Docker.
        let found = endpoints.journal.endpoints().remove(&id);
        if found.is_some_and(|endpoint| endpoint.handle().is_some() && !endpoint.has_joined()) {
            continue;
        }
        // Nobody else would come back to it, so this does until it is done.
        let mut again = Again::new(ASK_AGAIN.0, ASK_AGAIN.1);
        while let Err(error) = endpoints.detach(&Which::Id(id.clone())).await {
            sleep(again.failed(&format!("endpoint {id}: cleanup incomplete, retrying: {error:#}"))).await;
        }
    }
}
