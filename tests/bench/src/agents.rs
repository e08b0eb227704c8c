//! Hundreds of agents against a real etcd, with their whole control plane, on kernels that only
//! record the changes. All share the processors of this machine with etcd, so costs that grow
//! with the square of the agents set the limit early.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::Result;
use margay::{
    control::{Control, Loop, Sources, State},
    desired::{LocalFacts, Uplink},
    endpoints::{Endpoints, new_id},
    ipam::{self, Ipam},
    journal::{Journal, Member, Step},
    kernel::{self, Kernel, Netlink, Part, sysctl::Originals},
    membership::Membership,
    model::{
        Unknown,
        block::Holder,
        endpoint::{Device, Endpoint, Owner, Stage},
        network::{Network, NetworkRequest},
        snapshot::Snapshot,
    },
    network::Networks,
    reconcile::Change,
    store::{Store, etcd},
    tables::Tables,
};
use margay_common::net::Mac;
use margay_tests::lab::{ETCD, Lab, Plan};
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::{interval, sleep},
};

use crate::{percentile, resident};

/// Containers for each agent.
const CONTAINERS: usize = 10;
/// How often a container is tried again while the store does not answer.
const REFUSALS: u32 = 20;
/// Containers that start in a second.
const PER_SECOND: u32 = 100;

/// A kernel that only records its entries.
#[derive(Clone, Default)]
struct Recorder {
    tables: Arc<Mutex<Tables>>,
    routes: Arc<AtomicUsize>,
    prefixes: Arc<AtomicUsize>,
}

impl Kernel for Recorder {
    async fn read(&mut self, part: Part) -> Result<Tables> {
        let tables = self.tables.lock().expect("no panic").clone();
        let Tables { host_routes, firewall, accepts, sysctls, .. } = tables.clone();
        Ok(match part {
            Part::Own => tables,
            Part::Host => Tables { host_routes, firewall, accepts, sysctls, ..Tables::default() },
        })
    }

    async fn apply(&mut self, change: &Change) -> Result<()> {
        let mut tables = self.tables.lock().expect("no panic");
        match change {
            Change::Put(entry) => tables.put(entry.clone()),
            Change::Remove(key) => tables.remove(key),
        }
        self.routes.store(tables.routes.len(), Ordering::Relaxed);
        self.prefixes.store(tables.prefixes.len(), Ordering::Relaxed);
        Ok(())
    }
}

/// One agent without sockets; it ends as if killed.
struct Agent {
    name: String,
    kernel: Recorder,
    journal: Journal,
    endpoints: Arc<Endpoints>,
    _tasks: JoinSet<()>,
}

/// What all agents of this process share.
struct Shared {
    netlink: Netlink,
    dir: PathBuf,
}

impl Agent {
    fn start(shared: &Shared, i: usize, kernel: Recorder) -> Result<Self> {
        let name = format!("n{i}");
        let dir = shared.dir.join(&name);
        let options = etcd::Options { endpoints: vec![format!("{ETCD}:2379")], ..etcd::Options::default() };
        let store: Arc<dyn Store> = Arc::new(etcd::Etcd::new(&options)?);
        let journal = Journal::open(&dir)?;
        let instance = journal.instance(new_id)?;
        let facts = facts(&name, i, journal.endpoints());
        let (control, requests) = Control::channel();
        let (links, link_feed) = mpsc::channel(1);
        let (routes, route_feed) = mpsc::channel(1);
        let (world, world_feed) = mpsc::channel(1);
        let (vanished, vanishing) = mpsc::channel(1);
        let (rounds, on_rounds) = watch::channel(0);
        let ipam =
            Ipam::new(Arc::clone(&store), name.clone(), 30, &facts.endpoints.clone().into(), BTreeMap::new());
        let state = State { known: journal.known()?.map(Arc::new), facts, ..State::default() };
        let store_feed = store.watch(&Snapshot::PREFIXES);
        let sources = Sources {
            store: store_feed,
            links: link_feed,
            routes: route_feed,
            world: world_feed,
            requests,
            vanished,
            rounds,
        };
        let originals = Originals::of(&dir);
        let control_loop = Loop::new(kernel.clone(), shared.netlink.clone(), originals, state, sources);
        let networks = Networks::new(Arc::clone(&store), &[]);
        let endpoints = Endpoints::new(ipam, networks, control, shared.netlink.clone(), journal.clone());
        let endpoints = Arc::new(endpoints);
        let membership = Membership::new(store, Arc::clone(&endpoints), journal.clone(), instance, 600);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            // The host's event channels stay open and silent.
            let _silent = (links, routes, world, vanishing);
            drop(control_loop.run().await);
        });
        tasks.spawn(Arc::new(membership).run(on_rounds));
        Ok(Self { name, kernel, journal, endpoints, _tasks: tasks })
    }

    async fn is_settled(&self) -> bool {
        let settled = |state: &State| state.in_sync() && state.snapshot.alive.contains_key(&state.facts.node);
        self.endpoints.control.look(settled).await.unwrap_or(false)
    }

    /// Takes an address and notes an endpoint, as attaching does. How long the
    /// address took, and how often it was refused before.
    async fn start_container(&self, network: &Network) -> Result<(Duration, u32)> {
        let start = Instant::now();
        let id = new_id()?;
        let holder = Holder { endpoint: id.clone(), name: None, node: None, unknown: Unknown::new() };
        let request = ipam::Request { holder, wanted: Vec::new() };
        let mut refusals = 0;
        let addresses = loop {
            match self.endpoints.ipam.allocate(network, &request).await {
                Ok(addresses) => break addresses,
                // As a runtime does that starts it again.
                Err(_) if refusals < REFUSALS => {
                    refusals += 1;
                    sleep(Duration::from_millis(100)).await;
                }
                Err(refusal) => return Err(refusal.into()),
            }
        };
        let took = start.elapsed();
        let member = Member { network: network.clone(), stash: Default::default() };
        let step = Step::default().network(&member).endpoint(&endpoint(id, network, addresses));
        self.journal.commit(step).await?;
        Ok((took, refusals))
    }
}

fn facts(name: &str, i: usize, endpoints: BTreeMap<String, Endpoint>) -> LocalFacts {
    LocalFacts {
        node: name.to_owned(),
        addresses: vec![IpAddr::from([172, 16, (i / 250) as u8, (i % 250 + 1) as u8])],
        uplink: Uplink { name: "up0".into(), ifindex: 2, mtu: 1500, ..Uplink::default() },
        endpoints: endpoints.into(),
        ..LocalFacts::default()
    }
}

fn endpoint(id: String, network: &Network, addresses: Vec<IpAddr>) -> Endpoint {
    Endpoint {
        name: None,
        network: network.id,
        network_name: network.name.clone(),
        addresses,
        mac: Mac([2, 0, 0, 0, 0, 1]),
        netns: PathBuf::from("/run/netns/none"),
        sandbox: 1,
        ifname: "eth0".into(),
        host_interface: margay::tables::host_interface(&id),
        device: Device::Veth,
        mtu: 1500,
        stage: Stage::Joined,
        owner: Owner::Command,
        lost: None,
        id,
    }
}

/// Runs the whole of it.
pub fn agents(count: usize) {
    let lab = Lab::without_agents(Plan { v6: false, ..Plan::for_test(1) });
    let wire = std::fs::File::open(lab.wire.path()).expect("the wire");
    let enter =
        move || nix::sched::setns(&wire, nix::sched::CloneFlags::CLONE_NEWNET).expect("root may enter");
    let dir = Path::new("/run/margay-bench-agents").to_owned();
    let threads = std::thread::spawn({
        let dir = dir.clone();
        move || {
            enter();
            let mut runtime = tokio::runtime::Builder::new_multi_thread();
            let runtime = runtime.worker_threads(2).on_thread_start(enter).enable_all().build();
            runtime.expect("a runtime").block_on(run(&lab, dir, count)).expect("it runs");
        }
    });
    threads.join().expect("measured");
    drop(std::fs::remove_dir_all(dir));
}

async fn run(lab: &Lab, dir: PathBuf, count: usize) -> Result<()> {
    let shared = Shared { netlink: kernel::netlink()?, dir };
    println!("\n{count} agents, their control plane for real, against one etcd, all on this machine");
    let memory = resident(std::process::id());
    let start = Instant::now();
    let mut agents = (0..count)
        .map(|i| Agent::start(&shared, i, Recorder::default()).map(Arc::new))
        .collect::<Result<Vec<_>>>()?;
    wait(&agents, |agent| agent.kernel.prefixes.load(Ordering::Relaxed) == count).await;
    println!("  all join at once; each knows each: {:.1} s", start.elapsed().as_secs_f64());
    println!("  memory of an agent: {:.2} MiB", (resident(std::process::id()) - memory) / count as f64);
    report(lab);
    let start = Instant::now();
    let request = NetworkRequest { name: "blue".into(), subnets: vec!["10.0.0.0/12".parse()?], ..request() };
    let (network, _) = agents[0].endpoints.networks.create(request).await?;
    wait(&agents, |agent| agent.kernel.prefixes.load(Ordering::Relaxed) == count + 1).await;
    println!("  a network is created; all have it: {:.0} ms", start.elapsed().as_secs_f64() * 1e3);
    containers(&agents, &network).await?;
    println!("  memory of an agent: {:.2} MiB", (resident(std::process::id()) - memory) / count as f64);
    report(lab);
    let start = Instant::now();
    for (i, agent) in agents.iter_mut().enumerate().take(count / 2) {
        // Its kernel keeps what it has.
        let kernel = agent.kernel.clone();
        *agent = Arc::new(Agent::start(&shared, i, kernel)?);
    }
    wait(&agents, |_| true).await;
    println!(
        "  half of them killed and started at once; all in sync: {:.1} s",
        start.elapsed().as_secs_f64()
    );
    let start = Instant::now();
    agents.push(Arc::new(Agent::start(&shared, count, Recorder::default())?));
    let all = agents.len();
    wait(&agents, |agent| agent.kernel.prefixes.load(Ordering::Relaxed) == all + 1).await;
    println!("  one more node joins; all know it: {:.0} ms", start.elapsed().as_secs_f64() * 1e3);
    report(lab);
    Ok(())
}

/// Starts containers at a steady rate, all over the cluster.
async fn containers(agents: &[Arc<Agent>], network: &Network) -> Result<()> {
    let mut ticks = interval(Duration::from_secs(1) / PER_SECOND);
    let mut starting = JoinSet::new();
    let start = Instant::now();
    let wanted = CONTAINERS * agents.len();
    for i in 0..wanted {
        ticks.tick().await;
        let (agent, network) = (Arc::clone(&agents[i % agents.len()]), network.clone());
        starting.spawn(async move { agent.start_container(&network).await });
    }
    let (times, refusals): (Vec<Duration>, Vec<u32>) =
        starting.join_all().await.into_iter().collect::<Result<Vec<_>>>()?.into_iter().unzip();
    let started = start.elapsed();
    let blocks = agents.len();
    wait(agents, |agent| agent.kernel.routes.load(Ordering::Relaxed) >= blocks - 1).await;
    let times: Vec<f64> = times.iter().map(|time| time.as_secs_f64() * 1e3).collect();
    println!(
        "  {wanted} containers at {PER_SECOND}/s: {:.1} s, an address takes {:.1} ms (median), {:.1} ms (p99); \
         the store did not answer in time {} times",
        started.as_secs_f64(),
        percentile(times.clone(), 0.5),
        percentile(times, 0.99),
        refusals.iter().sum::<u32>()
    );
    println!(
        "  all have the routes to all {blocks} blocks {:.0} ms after the last container",
        (start.elapsed() - started).as_secs_f64() * 1e3
    );
    Ok(())
}

/// Until all agents are in sync, announced, and as they should be.
async fn wait(agents: &[Arc<Agent>], as_it_should: impl Fn(&Agent) -> bool) {
    let begun = Instant::now();
    for agent in agents {
        while !(as_it_should(agent) && agent.is_settled().await) {
            assert!(begun.elapsed() < Duration::from_secs(300), "{} does not settle", agent.name);
            sleep(Duration::from_millis(5)).await;
        }
    }
}

fn request() -> NetworkRequest {
    serde_json::from_str(r#"{"name":"","subnets":[]}"#).expect("the rest has defaults")
}

/// What etcd says of itself.
fn report(lab: &Lab) {
    let text = lab.wire.run(&format!("curl -s http://{ETCD}:2379/metrics")).out;
    let of = |name: &str| -> f64 {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|value| value.trim().parse().ok()).unwrap_or_default()
    };
    let keys = of("etcd_debugging_mvcc_keys_total ");
    println!(
        "  etcd: {:.0} watchers, {keys:.0} keys, {:.1} MB sent, {:.1} MB received, {:.1} CPU s, {:.0} MiB resident",
        of("etcd_debugging_mvcc_watcher_total "),
        of("etcd_network_client_grpc_sent_bytes_total ") / 1e6,
        of("etcd_network_client_grpc_received_bytes_total ") / 1e6,
        of("process_cpu_seconds_total "),
        resident(lab.etcd_id())
    );
}
