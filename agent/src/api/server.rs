//! The agent's side of the socket.

mod problems;
pub(crate) mod views;
mod way;

use std::{
    fs, net::SocketAddr, os::unix::fs::PermissionsExt, path::Path as FsPath, sync::Arc, time::Duration,
};

use anyhow::{Context, Result, anyhow, bail};
use axum::{
    Json, Router,
    extract::{Path, Request, State},
    http::{StatusCode, header::CONTENT_TYPE},
    middleware::{Next, from_fn_with_state},
    response::{IntoResponse, Response},
    routing::{delete, get, post},
};
use nix::{
    sys::stat::{Mode, umask},
    unistd::{Gid, Uid, chown},
};
use tokio::{
    net::{TcpListener, UnixListener},
    sync::{Mutex, Notify, watch},
    task::JoinError,
    time::timeout,
};

use super::wire;
use crate::{
    control, drops,
    kernel::{attach::TcMode, counters, datapath::Datapath, host, pins::Pins},
    membership::Membership,
    metrics,
    model::{endpoint::mac_text, key::ROOT},
    node,
    problem::Problem,
    report::Report,
    store::{Store, transfer},
    tables::Tables,
    words,
    workload::{Attach, Which, Workloads},
};

/// What the handlers stand on.
pub struct Agent {
    /// Attaching and detaching, networks, and the control loop.
    pub workloads: Arc<Workloads>,
    /// What front ends have to tell.
    pub report: Arc<Report>,
    /// How long the calls of Docker's plugin take.
    pub calls: Option<metrics::Calls>,
    /// This node's part in the cluster.
    pub membership: Arc<Membership>,
    /// The store.
    pub store: Arc<dyn Store>,
    /// Where it is.
    pub store_at: String,
    /// Told when the agent is to end.
    pub stop: Arc<Notify>,
    /// Programs and maps.
    pub datapath: Arc<Mutex<Datapath>>,
    /// Whether drops are logged.
    pub drops: drops::Switch,
    /// Where they are pinned.
    pub pins: Pins,
    /// How programs are attached.
    pub mode: TcMode,
}

/// How long a request may take: the waits of an attach are shorter.
const DEADLINE: Duration = Duration::from_secs(60);

type Shared = State<Arc<Agent>>;
type Answer<T> = Result<Json<T>, Refused>;

/// A refusal, in words.
struct Refused(anyhow::Error);

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let failure = wire::Failure { error: words::of(&self.0) };
        (StatusCode::CONFLICT, Json(failure)).into_response()
    }
}

impl<E: Into<anyhow::Error>> From<E> for Refused {
    fn from(error: E) -> Self {
        Self(error.into())
    }
}

/// Who may use the socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Access {
    /// The user that it belongs to.
    pub owner: Option<Uid>,
    /// The group that it belongs to.
    pub group: Option<Gid>,
    /// Its permissions.
    pub mode: u32,
}

/// Opens the socket. One that a dead agent left is replaced, one that a living
/// agent holds is not.
pub async fn listen(path: &FsPath, access: &Access) -> Result<UnixListener> {
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir).with_context(|| format!("{}", dir.display()))?;
    }
    if super::client::answers(path).await {
        bail!("another agent answers on {} already; choose another --run-dir", path.display());
    }
    if path.exists() {
        fs::remove_file(path).with_context(|| format!("{}", path.display()))?;
    }
    // Nobody gets in before owner and permissions are what they should be.
    let mask = umask(Mode::from_bits_truncate(0o177));
    let listener = UnixListener::bind(path);
    umask(mask);
    let listener = listener.with_context(|| format!("{}", path.display()))?;
    chown(path, access.owner, access.group).with_context(|| format!("owner of {}", path.display()))?;
    fs::set_permissions(path, fs::Permissions::from_mode(access.mode))?;
    Ok(listener)
}

/// Opens the TCP socket that metrics are read from.
pub async fn listen_for_metrics(addr: Option<SocketAddr>) -> Result<Option<TcpListener>> {
    let Some(addr) = addr else { return Ok(None) };
    Ok(Some(TcpListener::bind(addr).await.with_context(|| format!("--metrics {addr}"))?))
}

/// Serves metrics and nothing else.
pub async fn serve_metrics(listener: Option<TcpListener>, agent: Arc<Agent>) -> Result<()> {
    let Some(listener) = listener else { return std::future::pending().await };
    let router = Router::new().route("/metrics", get(read_metrics)).with_state(agent);
    Ok(axum::serve(listener, router).await?)
}

/// Refuses everything with what the agent waits for.
pub async fn lobby(listener: UnixListener, waits: watch::Receiver<String>) {
    let answer = move || {
        let error = format!("the agent is starting; it is {}", waits.borrow().as_str());
        async move { (StatusCode::SERVICE_UNAVAILABLE, Json(wire::Failure { error })) }
    };
    // It ends with the socket alone.
    drop(axum::serve(listener, Router::new().fallback(answer)).await);
}

/// Serves until the process ends.
pub async fn serve(listener: UnixListener, agent: Arc<Agent>) -> Result<()> {
    let router = Router::new()
        .route("/v1/status", get(status))
        .route("/v1/counters", get(read_counters))
        .route("/metrics", get(read_metrics))
        .route("/v1/routes", get(routes).post(find_way))
        .route("/v1/nodes", get(nodes).delete(remove_node))
        .route("/v1/pools", get(pools).post(add_pool).delete(remove_pool))
        .route("/v1/guard", get(blocked).post(block).delete(unblock))
        .route("/v1/store", get(export))
        .route("/v1/store/state", get(store_state))
        .route("/v1/store/adopt", post(adopt))
        .route("/v1/log", post(log))
        .route("/v1/stop", post(stop))
        .route("/v1/networks", get(networks).post(create_network))
        .route("/v1/networks/{name}", delete(remove_network))
        .route("/v1/holders", get(holders))
        .route("/v1/endpoints", get(endpoints).post(attach).delete(detach))
        .layer(from_fn_with_state(DEADLINE, in_time))
        .with_state(agent);
    Ok(axum::serve(listener, router).await?)
}

/// Answers within a time, whatever a request waits for. What an attach or detach
/// has begun goes on in a task of its own.
async fn in_time(State(deadline): State<Duration>, request: Request, next: Next) -> Response {
    match timeout(deadline, next.run(request)).await {
        Ok(response) => response,
        Err(_) => Refused(
            Problem::new(
                format!("the agent did not come to an end with it within {} s", deadline.as_secs()),
                "see `margay status`, and its log",
            )
            .into(),
        )
        .into_response(),
    }
}

async fn status(State(agent): Shared) -> Answer<wire::Status> {
    let device = agent.workloads.device;
    let (mode, maps, at) = (agent.mode, agent.pins.maps(), agent.store_at.clone());
    let status = agent.workloads.control.look(move |state| views::status(state, (mode, device), &maps, &at));
    let mut status = status.await??;
    status.problems.extend(agent.workloads.journal.problems());
    status.problems.extend(agent.report.troubles());
    status.notices.extend(agent.report.notices());
    Ok(Json(status))
}

async fn read_counters(State(agent): Shared) -> Answer<Vec<wire::Counter>> {
    Ok(Json(counters::read(&agent.datapath.lock().await.maps.counters)?))
}

async fn read_metrics(State(agent): Shared) -> Result<Response, Refused> {
    let maps = agent.pins.maps();
    let (more, calls) =
        (agent.report.troubles().len() + agent.workloads.journal.problems().len(), agent.calls.clone());
    let look = move |state: &control::State| {
        let none = Tables::default();
        let usage = host::usage(&maps, state.actual.as_ref().unwrap_or(&none))?;
        let problems = problems::problems(state).len() + more;
        anyhow::Ok((metrics::Reading::of(state, problems, calls), usage))
    };
    let (reading, usage) = agent.workloads.control.look(look).await??;
    let counters = counters::read(&agent.datapath.lock().await.maps.counters)?;
    let text = metrics::text(&reading, &counters, &usage);
    Ok(([(CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response())
}

async fn routes(State(agent): Shared) -> Answer<Vec<wire::Route>> {
    Ok(Json(agent.workloads.control.look(views::routes).await?))
}

async fn find_way(State(agent): Shared, Json(request): Json<wire::WayRequest>) -> Answer<wire::Way> {
    let from = match &request.from {
        Some(id) => Some(way::sender(agent.workloads.find(&Which::Id(id.clone())).await?, id)?),
        None => None,
    };
    let look = move |state: &control::State| way::way(state, request.to, from.as_ref());
    Ok(Json(agent.workloads.control.look(look).await??))
}

/// No agent watches who has which address, so the store is asked.
async fn holders(State(agent): Shared) -> Answer<Vec<wire::Holder>> {
    let listing = agent.store.list(&[format!("{ROOT}ipam/")]).await?;
    Ok(Json(agent.workloads.control.look(move |state| views::holders(state, &listing)).await?))
}

async fn store_state(State(agent): Shared) -> Answer<wire::Store> {
    let at = agent.store_at.clone();
    Ok(Json(agent.workloads.control.look(move |state| views::store(state, &at)).await?))
}

async fn nodes(State(agent): Shared) -> Answer<Vec<wire::Node>> {
    Ok(Json(agent.workloads.control.look(views::nodes).await?))
}

async fn networks(State(agent): Shared) -> Answer<Vec<wire::Network>> {
    Ok(Json(agent.workloads.control.look(views::networks).await?))
}

async fn remove_node(State(agent): Shared, Json(request): Json<wire::NodeRemoval>) -> Answer<wire::Freed> {
    agent.workloads.believed().await?;
    let own = agent.workloads.control.look(|state| state.facts.node.clone()).await?;
    if own == request.name {
        return Err(
            anyhow!("node {own} is this one; margay cleanup takes it down, another node removes it").into()
        );
    }
    let blocks = node::remove(&agent.store, &request.name, request.yes).await?;
    agent.workloads.networks.unreserve(&request.name, None, u64::MAX).await?;
    Ok(Json(wire::Freed { blocks }))
}

async fn pools(State(agent): Shared) -> Answer<Vec<wire::Pool>> {
    Ok(Json(agent.workloads.control.look(views::pools).await?))
}

async fn add_pool(State(agent): Shared, Json(request): Json<wire::PoolRequest>) -> Answer<()> {
    agent.workloads.agreed().await?;
    let revision = agent.workloads.networks.add_pool(request.cidr, request.network_size).await?;
    agent.workloads.control.revision(revision).await?;
    Ok(Json(()))
}

async fn remove_pool(State(agent): Shared, Json(request): Json<wire::PoolRequest>) -> Answer<()> {
    agent.workloads.agreed().await?;
    let revision = agent.workloads.networks.remove_pool(request.cidr).await?;
    agent.workloads.control.revision(revision).await?;
    Ok(Json(()))
}

async fn blocked(State(agent): Shared) -> Answer<Vec<wire::Blocked>> {
    Ok(Json(agent.workloads.control.look(views::blocked).await?))
}

async fn block(State(agent): Shared, Json(request): Json<wire::BlockRequest>) -> Answer<()> {
    agent.workloads.agreed().await?;
    let revision = agent.workloads.networks.block(request.cidr, request.comment, control::now()).await?;
    agent.workloads.control.revision(revision).await?;
    Ok(Json(()))
}

async fn unblock(State(agent): Shared, Json(request): Json<wire::BlockRequest>) -> Answer<()> {
    agent.workloads.believed().await?;
    let revision = agent.workloads.networks.unblock(request.cidr).await?;
    agent.workloads.control.revision(revision).await?;
    Ok(Json(()))
}

async fn export(State(agent): Shared) -> Answer<wire::Dump> {
    Ok(Json(transfer::export(&*agent.store).await?))
}

async fn adopt(State(agent): Shared) -> Answer<()> {
    agent.membership.adopt().await?;
    Ok(Json(()))
}

async fn log(State(agent): Shared, Json(request): Json<wire::LogRequest>) -> Answer<()> {
    agent.drops.turn(request.drops).await?;
    Ok(Json(()))
}

async fn stop(State(agent): Shared) -> Answer<()> {
    agent.stop.notify_one();
    Ok(Json(()))
}

async fn create_network(
    State(agent): Shared,
    Json(request): Json<wire::NetworkRequest>,
) -> Answer<wire::Network> {
    agent.workloads.agreed().await?;
    let (network, revision) = agent.workloads.networks.create(request).await?;
    agent.workloads.control.revision(revision).await?;
    let find =
        move |state: &control::State| views::networks(state).into_iter().find(|found| found.id == network.id);
    let found = agent.workloads.control.look(find).await?;
    Ok(Json(found.ok_or_else(|| anyhow!("the network was removed again just now"))?))
}

/// What a task came to. One that failed by a fault of our own is told so.
fn ended<T>(task: Result<Result<T>, JoinError>) -> Result<T> {
    let fault = || Problem::new("the agent failed at this", "report it with what the agent's log says");
    task.map_err(|_| anyhow::Error::from(fault())).flatten()
}

async fn remove_network(State(agent): Shared, Path(name): Path<String>) -> Answer<()> {
    agent.workloads.believed().await?;
    let networks = &agent.workloads.networks;
    let revision = match networks.remove(&name).await {
        Ok(revision) => revision,
        Err(refusal) => {
            // What stopped containers of this host keep does not hold a network.
            let found = name.clone();
            let id = move |state: &control::State| state.snapshot.network(&found).map(|network| network.id);
            let Some(id) = agent.workloads.control.look(id).await? else { return Err(refusal.into()) };
            agent.workloads.unkeep_all(id).await?;
            networks.remove(&name).await?
        }
    };
    agent.workloads.control.revision(revision).await?;
    Ok(Json(()))
}

async fn endpoints(State(agent): Shared) -> Answer<Vec<wire::Endpoint>> {
    let endpoints = agent.workloads.journal.endpoints();
    Ok(Json(agent.workloads.control.look(move |state| views::endpoints(state, endpoints)).await?))
}

async fn attach(State(agent): Shared, Json(request): Json<wire::AttachRequest>) -> Answer<wire::Endpoint> {
    let mac = match &request.mac {
        None => None,
        Some(text) => match mac_text::parse(text) {
            Some(mac) if mac.0[0] & 1 == 0 && mac.0 != [0; 6] => Some(mac),
            _ => return Err(anyhow!("MAC {text:?}: use a unicast address like 02:00:00:00:00:01").into()),
        },
    };
    let request = Attach {
        network: request.network,
        netns: request.netns,
        ifname: request.ifname,
        name: request.name,
        addresses: request.addresses,
        mac,
    };
    // In a task of its own: a client that goes away must not leave half.
    let attached = tokio::spawn(async move { agent.workloads.attach(request).await });
    Ok(Json(views::endpoint(ended(attached.await)?)))
}

async fn detach(
    State(agent): Shared,
    Json(request): Json<wire::DetachRequest>,
) -> Answer<Option<wire::Endpoint>> {
    let which = match (request.id, request.netns) {
        (Some(id), None) => Which::Id(id),
        (None, Some(netns)) => Which::Interface(netns, request.ifname.unwrap_or_else(|| "eth0".into())),
        _ => return Err(anyhow!("name the endpoint by its id, or by namespace and interface").into()),
    };
    // Of a network that Docker has no more, only an operator can remove it.
    let book = agent.workloads.journal.docker_networks()?;
    if let Some(endpoint) = agent.workloads.find(&which).await?
        && endpoint.docker.as_ref().is_some_and(|docker| book.contains_key(&docker.network))
    {
        let container = endpoint.name.as_ref().unwrap_or(&endpoint.id);
        let network = &endpoint.network_name;
        return Err(anyhow!(
            "endpoint {container} is Docker's: docker network disconnect {network} {container}"
        )
        .into());
    }
    let detached = tokio::spawn(async move { agent.workloads.detach(&which).await });
    Ok(Json(ended(detached.await)?.map(views::endpoint)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::client;

    #[tokio::test]
    async fn a_request_that_comes_to_no_end_is_answered() {
        let dir = tempfile::tempdir().expect("a folder");
        let socket = dir.path().join("socket");
        let listener = UnixListener::bind(&socket).expect("a socket");
        let layer = from_fn_with_state(Duration::from_millis(10), in_time);
        let router = Router::new().route("/stuck", get(std::future::pending::<()>)).layer(layer);
        let served = tokio::spawn(async move { axum::serve(listener, router).await });
        let told = client::get::<()>(&socket, "/stuck").await.expect_err("refused").to_string();
        assert!(told.contains("did not come to an end") && told.contains("margay status"), "{told}");
        served.abort();
    }
}
