//! The socket that dockerd talks to: every call of the protocol, each answered
//! within its time.

use std::{path::Path, sync::Arc, time::Duration};

use anyhow::{Context, Result, anyhow};
use axum::{
    Router,
    body::Bytes,
    extract::State,
    http::{StatusCode, Uri, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::{net::UnixListener, time::timeout};
use tracing::{debug, warn};

use super::{Docker, driver, ipam, wire};
use crate::{endpoints::PATIENCE, store::OPERATION, words};

/// How long a call may take. dockerd itself waits for ever, and holds a lock
/// of the network meanwhile.
pub(super) const DEADLINE: Duration = Duration::from_secs(15);

// A call waits for this node to join, reads the store, and writes to it.
const _: () = assert!(PATIENCE.as_secs() + 2 * OPERATION.as_secs() < DEADLINE.as_secs());

/// What a call comes to: an answer, or why it cannot be done.
type Answer = Result<Value>;

/// A request that cannot be understood.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Malformed(String);

/// A call that the protocol does not have.
#[derive(Debug, thiserror::Error)]
#[error("there is no call {0}")]
struct NoSuchCall(String);

/// Serves until the process ends.
pub async fn serve(listener: UnixListener, docker: Arc<Docker>) -> Result<()> {
    let router = Router::new().fallback(handle).with_state(docker);
    Ok(axum::serve(listener, router).await?)
}

/// Opens the socket. It appears whole, under its name, in one step.
pub fn listen(path: &Path) -> Result<UnixListener> {
    let named = || format!("--docker-plugin {}", path.display());
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir).with_context(named)?;
    }
    let draft = path.with_extension("new");
    drop(std::fs::remove_file(&draft));
    let listener = UnixListener::bind(&draft).with_context(named)?;
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(&draft, mode).with_context(named)?;
    std::fs::rename(&draft, path).with_context(named)?;
    Ok(listener)
}

async fn handle(State(docker): State<Arc<Docker>>, uri: Uri, body: Bytes) -> Response {
    let call = uri.path().to_owned();
    debug!(call, "docker calls {}", String::from_utf8_lossy(&body));
    let begun = std::time::Instant::now();
    // In a task of its own: a dockerd that goes away must not leave half.
    let work = tokio::spawn({
        let (docker, call) = (Arc::clone(&docker), call.clone());
        async move { docker.answer(&call, &body).await }
    });
    let result = match timeout(DEADLINE, work).await {
        Ok(Ok(result)) => result,
        Ok(Err(_)) => Err(anyhow!("the agent failed at {call}; report it with what the agent's log says")),
        Err(_) => Err(anyhow!("{call} took more than {} s; see `margay status`", DEADLINE.as_secs())),
    };
    docker.calls.observe(&call, begun.elapsed(), result.is_ok());
    let (status, value) = match result {
        Ok(value) => (StatusCode::OK, value),
        Err(error) => {
            let text = words::of(&error);
            warn!("docker: {call}: {text}");
            // The network driver's errors are read from one field, the IPAM
            // driver's from the other.
            (status_of(&error), json!({"Err": text, "Error": text}))
        }
    };
    (status, [(CONTENT_TYPE, wire::CONTENT_TYPE)], value.to_string()).into_response()
}

fn status_of(error: &anyhow::Error) -> StatusCode {
    if error.is::<Malformed>() {
        StatusCode::BAD_REQUEST
    } else if error.is::<NoSuchCall>() {
        StatusCode::NOT_FOUND
    } else {
        StatusCode::INTERNAL_SERVER_ERROR
    }
}

/// Reads a body. After a broken connection dockerd sends the call again with
/// an empty one, which must not pass for a request that leaves all open.
fn read<T: DeserializeOwned>(body: &Bytes) -> Result<T> {
    if body.is_empty() {
        return Err(Malformed("the request is empty: the first attempt was cut off; try again".into()).into());
    }
    let strange = |error: serde_json::Error| Malformed(format!("the request does not parse: {error}"));
    // An object and nothing else: a list would pass for one by its order.
    let fields: wire::Options = serde_json::from_slice(body).map_err(strange)?;
    Ok(serde_json::from_value(fields.into()).map_err(strange)?)
}

impl Docker {
    /// Answers a call. What is asked only once in dockerd's life rests on
    /// nothing that could be away.
    async fn answer(self: &Arc<Self>, call: &str, body: &Bytes) -> Answer {
        match call {
            "/Plugin.Activate" => Ok(json!({"Implements": ["NetworkDriver", "IpamDriver"]})),
            "/NetworkDriver.GetCapabilities" => Ok(json!({"Scope": "local", "ConnectivityScope": "global"})),
            "/IpamDriver.GetCapabilities" => {
                Ok(json!({"RequiresMACAddress": false, "RequiresRequestReplay": false}))
            }
            "/IpamDriver.GetDefaultAddressSpaces" => Ok(json!({
                "LocalDefaultAddressSpace": ipam::ADDRESS_SPACE,
                "GlobalDefaultAddressSpace": ipam::ADDRESS_SPACE,
            })),
            "/NetworkDriver.AllocateNetwork" => Ok(json!({"Options": {}})),
            "/NetworkDriver.FreeNetwork" | "/NetworkDriver.DiscoverNew" | "/NetworkDriver.DiscoverDelete" => {
                Ok(json!({}))
            }
            "/NetworkDriver.CreateNetwork" => driver::create_network(self, read(body)?).await,
            "/NetworkDriver.DeleteNetwork" => driver::delete_network(self, &read(body)?).await,
            "/NetworkDriver.CreateEndpoint" => driver::create_endpoint(self, read(body)?).await,
            "/NetworkDriver.EndpointOperInfo" => read::<wire::OfEndpoint>(body).map(|_| json!({"Value": {}})),
            "/NetworkDriver.DeleteEndpoint" => driver::delete_endpoint(self, &read(body)?).await,
            "/NetworkDriver.Join" => driver::join(self, &read(body)?).await,
            "/NetworkDriver.Leave" | "/NetworkDriver.RevokeExternalConnectivity" => {
                read::<wire::OfEndpoint>(body).map(|_| json!({}))
            }
            "/NetworkDriver.ProgramExternalConnectivity" => driver::publish(&read(body)?),
            "/IpamDriver.RequestPool" => ipam::request_pool(self, &read(body)?).await,
            "/IpamDriver.ReleasePool" => ipam::release_pool(self, &read(body)?).await,
            "/IpamDriver.RequestAddress" => ipam::request_address(self, &read(body)?).await,
            "/IpamDriver.ReleaseAddress" => ipam::release_address(self, &read(body)?).await,
            _ => Err(NoSuchCall(call.into()).into()),
        }
    }
}
