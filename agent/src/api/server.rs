//! The agent's side of the socket.

mod problems;
mod refused;
pub(crate) mod views;
mod way;

use std::{
    fs, net::SocketAddr, os::unix::fs::PermissionsExt, path::Path as FsPath, sync::Arc, time::Duration,
};

use anyhow::{Context, Result, bail};
use axum::{
    Json, Router,
    extract::{Path, Request, State},
    http::header::CONTENT_TYPE,
    middleware::{Next, from_fn_with_state},
    response::{IntoResponse, Response},
    routing::{delete, get, post},
};
use margay_common::verdict::Count;
use nix::{
    sys::stat::{Mode, umask},
    unistd::{Gid, Uid, chown},
};
use serde::Serialize;
use tokio::{
    net::{TcpListener, UnixListener},
    sync::{Notify, watch},
    task::JoinError,
    time::timeout,
};

use self::refused::{Body, Refused, no_such_request};
use super::wire;
use crate::{
    control, drops,
    endpoints::{Attach, Endpoints, Which},
    kernel::{attach::TcMode, counters, maps, pins::Pins, table::PerCpu},
    membership::Membership,
    metrics,
    model::{endpoint::mac_text, key::ROOT},
    node,
    problem::{Problem, Rejection},
    report::Report,
    store::{Store, transfer},
    tables::Tables,
};

/// What the handlers stand on.
pub struct Agent {
    /// Attaching and detaching, networks, and the control loop.
    pub endpoints: Arc<Endpoints>,
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
    /// What the programs count.
    pub counters: Arc<PerCpu<Count>>,
    /// Whether drops are logged.
    pub drops: drops::Switch,
    /// Where programs and maps are pinned.
    pub pins: Pins,
    /// How programs are attached.
    pub mode: TcMode,
}

/// How long a request may take: the waits of an attach are shorter.
const DEADLINE: Duration = Duration::from_secs(60);

type Shared = State<Arc<Agent>>;
type Answer<T> = Result<Json<T>, Refused>;

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
        let waits = format!("it is {}", waits.borrow().as_str());
        async move { Refused::from(Rejection::Later(Problem::new("the agent is starting", waits))) }
    };
    // It ends with the socket alone.
    drop(axum::serve(listener, Router::new().fallback(answer)).await);
}

/// Serves until the process ends.
pub async fn serve(listener: UnixListener, agent: Arc<Agent>) -> Result<()> {
    let router = Router::new()
        .merge(listings(&agent))
        .route("/v1/status", get(status))
        .route("/v1/counters", get(read_counters))
        .route("/metrics", get(read_metrics))
        .route("/v1/routes", get(routes).post(find_way))
        .route("/v1/nodes", delete(remove_node))
        .route("/v1/pools", post(add_pool).delete(remove_pool))
        .route("/v1/guard", post(deny).delete(allow))
        .route("/v1/store", get(export))
        .route("/v1/store/state", get(store_state))
        .route("/v1/store/adopt", post(adopt))
        .route("/v1/log", post(log))
        .route("/v1/stop", post(stop))
        .route("/v1/networks", post(create_network))
        .route("/v1/networks/{name}", delete(remove_network))
        .route("/v1/holders", get(holders))
        .route("/v1/endpoints", post(attach).delete(detach))
        .fallback(no_such_request)
        .layer(from_fn_with_state(DEADLINE, in_time))
        .with_state(agent);
    Ok(axum::serve(listener, router).await?)
}

/// Listings of what the cluster has, each with since when it may be old.
fn listings(agent: &Arc<Agent>) -> Router<Arc<Agent>> {
    Router::new()
        .route("/v1/nodes", get(nodes))
        .route("/v1/networks", get(networks))
        .route("/v1/endpoints", get(endpoints))
        .route("/v1/pools", get(pools))
        .route("/v1/guard", get(denied))
        .layer(from_fn_with_state(Arc::clone(agent), dated))
}

/// Says since when the store is away. It is looked at first: a listing may then be newer
/// than it says, and never older.
async fn dated(State(agent): Shared, request: Request, next: Next) -> Result<Response, Refused> {
    let away = |state: &control::State| state.store.away.as_ref().map(|(_, since)| *since);
    let away = agent.endpoints.control.look(away).await?;
    let mut response = next.run(request).await;
    if let Some(since) = away {
        response.headers_mut().insert(wire::AS_OF, since.into());
    }
    Ok(response)
}

/// Answers within a time, whatever a request waits for. What an attach or detach
/// has begun goes on in a task of its own.
async fn in_time(State(deadline): State<Duration>, request: Request, next: Next) -> Response {
    match timeout(deadline, next.run(request)).await {
        Ok(response) => response,
        Err(_) => Refused::from(Rejection::Later(Problem::new(
            format!("the agent did not finish this within {} s", deadline.as_secs()),
            "see `margay status` and the agent's log",
        )))
        .into_response(),
    }
}

async fn status(State(agent): Shared) -> Answer<wire::Status> {
    let device = agent.endpoints.device;
    let (mode, pins, at) = (agent.mode, agent.pins.clone(), agent.store_at.clone());
    let status = agent.endpoints.control.look(move |state| views::status(state, (mode, device), &pins, &at));
    let mut status = status.await??;
    status.problems.extend(agent.endpoints.journal.problems());
    status.problems.extend(agent.report.troubles());
    status.notices.extend(agent.report.notices());
    Ok(Json(status))
}

async fn read_counters(State(agent): Shared) -> Answer<Vec<wire::Counter>> {
    Ok(Json(counters::read(&agent.counters)?))
}

async fn read_metrics(State(agent): Shared) -> Result<Response, Refused> {
    let pins = agent.pins.clone();
    let (more, calls) =
        (agent.report.troubles().len() + agent.endpoints.journal.problems().len(), agent.calls.clone());
    let look = move |state: &control::State| {
        let none = Tables::default();
        let usage = maps::usage(&pins, state.actual.as_ref().unwrap_or(&none))?;
        let problems = problems::problems(state).len() + more;
        anyhow::Ok((metrics::Reading::of(state, problems, calls), usage))
    };
    let (reading, usage) = agent.endpoints.control.look(look).await??;
    let counters = counters::read(&agent.counters)?;
    let text = metrics::text(&reading, &counters, &usage);
    Ok(([(CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response())
}

async fn routes(State(agent): Shared) -> Result<Response, Refused> {
    told(&agent, views::routes).await
}

/// What a view of the state tells, written out by the thread that looks: a million entries
/// take their time.
async fn told<T: Serialize>(
    agent: &Agent,
    view: impl FnOnce(&control::State) -> T + Send + 'static,
) -> Result<Response, Refused> {
    let write = |state: &control::State| serde_json::to_vec(&view(state));
    let json = agent.endpoints.control.look(write).await??;
    Ok(([(CONTENT_TYPE, "application/json")], json).into_response())
}

async fn find_way(State(agent): Shared, Body(request): Body<wire::WayRequest>) -> Answer<wire::Way> {
    let from = match &request.from {
        Some(id) => Some(way::sender(agent.endpoints.find(&Which::Id(id.clone())).await?, id)?),
        None => None,
    };
    let look = move |state: &control::State| way::way(state, request.to, from.as_ref());
    Ok(Json(agent.endpoints.control.look(look).await??))
}

/// No agent watches who has which address, so the store is asked.
async fn holders(State(agent): Shared) -> Answer<Vec<wire::Holder>> {
    let listing = agent.store.list(&[format!("{ROOT}ipam/")]).await?;
    Ok(Json(agent.endpoints.control.look(move |state| views::holders(state, &listing)).await?))
}

async fn store_state(State(agent): Shared) -> Answer<wire::Store> {
    let at = agent.store_at.clone();
    Ok(Json(agent.endpoints.control.look(move |state| views::store(state, &at)).await?))
}

async fn nodes(State(agent): Shared) -> Answer<Vec<wire::Node>> {
    Ok(Json(agent.endpoints.control.look(views::nodes).await?))
}

async fn networks(State(agent): Shared) -> Result<Response, Refused> {
    told(&agent, views::networks).await
}

async fn remove_node(State(agent): Shared, Body(request): Body<wire::NodeRemoval>) -> Answer<wire::Freed> {
    agent.endpoints.believed().await?;
    let own = agent.endpoints.control.look(|state| state.facts.node.clone()).await?;
    if own == request.name {
        let what = format!("node {own} is this node");
        return Err(
            Rejection::conflict(what, "stop it with margay cleanup, then remove it on another node").into()
        );
    }
    let blocks = node::remove(&agent.store, &request.name, request.yes).await?;
    agent.endpoints.networks.unreserve(&request.name, None, u64::MAX).await?;
    Ok(Json(wire::Freed { blocks }))
}

async fn pools(State(agent): Shared) -> Answer<Vec<wire::Pool>> {
    Ok(Json(agent.endpoints.control.look(views::pools).await?))
}

async fn add_pool(State(agent): Shared, Body(request): Body<wire::PoolRequest>) -> Answer<()> {
    agent.endpoints.agreed().await?;
    let revision = agent.endpoints.networks.add_pool(request.cidr, request.network_prefix).await?;
    agent.endpoints.control.revision(revision).await?;
    Ok(Json(()))
}

async fn remove_pool(State(agent): Shared, Body(request): Body<wire::PoolRequest>) -> Answer<()> {
    agent.endpoints.agreed().await?;
    let revision = agent.endpoints.networks.remove_pool(request.cidr).await?;
    agent.endpoints.control.revision(revision).await?;
    Ok(Json(()))
}

async fn denied(State(agent): Shared) -> Answer<Vec<wire::Denied>> {
    Ok(Json(agent.endpoints.control.look(views::denied).await?))
}

async fn deny(State(agent): Shared, Body(request): Body<wire::DenyRequest>) -> Answer<()> {
    agent.endpoints.agreed().await?;
    let revision = agent.endpoints.networks.deny(request.cidr, request.comment, control::now()).await?;
    agent.endpoints.control.revision(revision).await?;
    Ok(Json(()))
}

async fn allow(State(agent): Shared, Body(request): Body<wire::DenyRequest>) -> Answer<()> {
    agent.endpoints.believed().await?;
    let revision = agent.endpoints.networks.allow(request.cidr).await?;
    agent.endpoints.control.revision(revision).await?;
    Ok(Json(()))
}

async fn export(State(agent): Shared) -> Answer<wire::Dump> {
    Ok(Json(transfer::export(&*agent.store).await?))
}

async fn adopt(State(agent): Shared) -> Answer<()> {
    agent.membership.adopt().await?;
    Ok(Json(()))
}

async fn log(State(agent): Shared, Body(request): Body<wire::LogRequest>) -> Answer<()> {
    agent.drops.turn(request.drops).await?;
    Ok(Json(()))
}

async fn stop(State(agent): Shared) -> Answer<()> {
    agent.stop.notify_one();
    Ok(Json(()))
}

async fn create_network(
    State(agent): Shared,
    Body(request): Body<wire::NetworkRequest>,
) -> Answer<wire::Network> {
    agent.endpoints.agreed().await?;
    let (network, revision) = agent.endpoints.networks.create(request).await?;
    agent.endpoints.control.revision(revision).await?;
    let find =
        move |state: &control::State| views::networks(state).into_iter().find(|found| found.id == network.id);
    let found = agent.endpoints.control.look(find).await?;
    let removed = || Rejection::missing("the network was removed again just now", "create it again");
    Ok(Json(found.ok_or_else(removed)?))
}

/// The result of a task. A panic becomes an error that says so.
fn ended<T>(task: Result<Result<T>, JoinError>) -> Result<T> {
    let fault = || Problem::new("internal error in the agent", "report it with the agent's log");
    task.map_err(|_| anyhow::Error::from(fault())).flatten()
}

async fn remove_network(State(agent): Shared, Path(name): Path<String>) -> Answer<()> {
    agent.endpoints.believed().await?;
    let networks = &agent.endpoints.networks;
    let revision = match networks.remove(&name).await {
        Err(refusal) if matches!(refusal.downcast_ref(), Some(Rejection::Conflict(_))) => {
            // What stopped containers of this host keep does not hold a network.
            let found = name.clone();
            let id = move |state: &control::State| state.snapshot.network(&found).map(|network| network.id);
            let Some(id) = agent.endpoints.control.look(id).await? else { return Err(refusal.into()) };
            agent.endpoints.unkeep_all(id).await?;
            networks.remove(&name).await?
        }
        result => result?,
    };
    agent.endpoints.control.revision(revision).await?;
    Ok(Json(()))
}

async fn endpoints(State(agent): Shared) -> Answer<Vec<wire::EndpointView>> {
    let endpoints = agent.endpoints.journal.endpoints();
    Ok(Json(agent.endpoints.control.look(move |state| views::endpoints(state, endpoints)).await?))
}

async fn attach(
    State(agent): Shared,
    Body(request): Body<wire::AttachRequest>,
) -> Answer<wire::EndpointView> {
    let mac = match &request.mac {
        None => None,
        Some(text) => match mac_text::parse(text) {
            Some(mac) if mac.0[0] & 1 == 0 && mac.0 != [0; 6] => Some(mac),
            _ => {
                let what = format!("MAC {text:?} is no unicast address");
                return Err(Rejection::invalid(what, "use one like 02:00:00:00:00:01").into());
            }
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
    let attached = tokio::spawn(async move { agent.endpoints.attach(request).await });
    Ok(Json(views::endpoint(ended(attached.await)?)))
}

async fn detach(
    State(agent): Shared,
    Body(request): Body<wire::DetachRequest>,
) -> Answer<Option<wire::EndpointView>> {
    let which = match (request.id, request.netns) {
        (Some(id), None) => Which::Id(id),
        (None, Some(netns)) => Which::Interface(netns, request.ifname.unwrap_or_else(|| "eth0".into())),
        _ => {
            let mend = "name it by its id, or by namespace and interface";
            return Err(Rejection::invalid("the request names no endpoint, or two", mend).into());
        }
    };
    // Of a network that Docker has no more, only an operator can remove it.
    let register = agent.endpoints.journal.runtime_networks();
    if let Some(endpoint) = agent.endpoints.find(&which).await?
        && endpoint.handle().is_some_and(|handle| register.contains_key(&handle.network))
    {
        let container = endpoint.name.as_ref().unwrap_or(&endpoint.id);
        let network = &endpoint.network_name;
        let mend = format!("docker network disconnect {network} {container}");
        return Err(Rejection::conflict(format!("endpoint {container} is Docker's"), mend).into());
    }
    let detached = tokio::spawn(async move { agent.endpoints.detach(&which).await });
    Ok(Json(ended(detached.await)?.map(views::endpoint)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::client;

    #[tokio::test]
    async fn request_that_never_ends_is_answered_in_time() {
        let dir = tempfile::tempdir().expect("a folder");
        let socket = dir.path().join("socket");
        let listener = UnixListener::bind(&socket).expect("a socket");
        let layer = from_fn_with_state(Duration::from_millis(10), in_time);
        let router = Router::new().route("/stuck", get(std::future::pending::<()>)).layer(layer);
        let served = tokio::spawn(async move { axum::serve(listener, router).await });
        let told = client::get::<()>(&socket, "/stuck").await.expect_err("refused").to_string();
        assert!(told.contains("did not finish") && told.contains("margay status"), "{told}");
        served.abort();
    }
}
