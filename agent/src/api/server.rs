//! The agent's side of the socket.

mod views;

use std::{fs, os::unix::fs::PermissionsExt, path::Path as FsPath, sync::Arc};

use anyhow::{Context, Result, anyhow, bail};
use axum::{
    Json, Router,
    extract::{Path, State},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::{delete, get},
};
use tokio::{net::UnixListener, sync::Mutex};

use super::wire;
use crate::{
    kernel::{attach::TcMode, counters, datapath::Datapath, pins::Pins},
    model::endpoint::mac_text,
    workload::{Attach, Which, Workloads},
};

/// What the handlers stand on.
pub struct Agent {
    /// Attaching and detaching, networks, and the control loop.
    pub workloads: Workloads,
    /// Programs and maps.
    pub datapath: Arc<Mutex<Datapath>>,
    /// Where they are pinned.
    pub pins: Pins,
    /// How programs are attached.
    pub mode: TcMode,
}

type Shared = State<Arc<Agent>>;
type Answer<T> = Result<Json<T>, Refused>;

/// A refusal, in words.
struct Refused(anyhow::Error);

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let failure = wire::Failure { error: format!("{:#}", self.0) };
        (StatusCode::CONFLICT, Json(failure)).into_response()
    }
}

impl<E: Into<anyhow::Error>> From<E> for Refused {
    fn from(error: E) -> Self {
        Self(error.into())
    }
}

/// Opens the socket, for root alone. One that a dead agent left is replaced,
/// one that a living agent holds is not.
pub async fn listen(path: &FsPath) -> Result<UnixListener> {
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir).with_context(|| format!("{}", dir.display()))?;
    }
    if super::client::answers(path).await {
        bail!("another agent answers on {} already; choose another --run-dir", path.display());
    }
    if path.exists() {
        fs::remove_file(path).with_context(|| format!("{}", path.display()))?;
    }
    let listener = UnixListener::bind(path).with_context(|| format!("{}", path.display()))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Serves until the process ends.
pub async fn serve(listener: UnixListener, agent: Arc<Agent>) -> Result<()> {
    let router = Router::new()
        .route("/v1/status", get(status))
        .route("/v1/counters", get(read_counters))
        .route("/v1/routes", get(routes))
        .route("/v1/nodes", get(nodes))
        .route("/v1/networks", get(networks).post(create_network))
        .route("/v1/networks/{name}", delete(remove_network))
        .route("/v1/endpoints", get(endpoints).post(attach).delete(detach))
        .with_state(agent);
    Ok(axum::serve(listener, router).await?)
}

async fn status(State(agent): Shared) -> Answer<wire::Status> {
    let (mode, maps) = (agent.mode, agent.pins.maps());
    Ok(Json(agent.workloads.control.look(move |state| views::status(state, mode, &maps)).await??))
}

async fn read_counters(State(agent): Shared) -> Answer<Vec<wire::Counter>> {
    Ok(Json(counters::read(&agent.datapath.lock().await.maps.counters)?))
}

async fn routes(State(agent): Shared) -> Answer<Vec<wire::Route>> {
    Ok(Json(agent.workloads.control.look(views::routes).await?))
}

async fn nodes(State(agent): Shared) -> Answer<Vec<wire::Node>> {
    Ok(Json(agent.workloads.control.look(views::nodes).await?))
}

async fn networks(State(agent): Shared) -> Answer<Vec<wire::Network>> {
    Ok(Json(agent.workloads.control.look(views::networks).await?))
}

async fn create_network(
    State(agent): Shared,
    Json(request): Json<wire::NetworkRequest>,
) -> Answer<wire::Network> {
    let (network, revision) = agent.workloads.networks.create(request).await?;
    agent.workloads.control.revision(revision).await?;
    let find = move |state: &crate::control::State| {
        views::networks(state).into_iter().find(|found| found.id == network.id)
    };
    let found = agent.workloads.control.look(find).await?;
    Ok(Json(found.ok_or_else(|| anyhow!("the network was removed again just now"))?))
}

async fn remove_network(State(agent): Shared, Path(name): Path<String>) -> Answer<()> {
    let revision = agent.workloads.networks.remove(&name).await?;
    agent.workloads.control.revision(revision).await?;
    Ok(Json(()))
}

async fn endpoints(State(agent): Shared) -> Answer<Vec<wire::Endpoint>> {
    Ok(Json(agent.workloads.journal.read()?.into_values().map(views::endpoint).collect()))
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
    Ok(Json(views::endpoint(attached.await??)))
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
    let detached = tokio::spawn(async move { agent.workloads.detach(&which).await });
    Ok(Json(detached.await??.map(views::endpoint)))
}
