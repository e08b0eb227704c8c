//! The commands' way to the agent.

use std::{io::ErrorKind, path::Path, time::Duration};

use anyhow::{Context, Result, anyhow};
use http_body_util::{BodyExt, Full};
pub use hyper::Method;
use hyper::{Request, Response, StatusCode, body::Bytes, client::conn::http1, header::CONTENT_TYPE};
use hyper_util::rt::TokioIo;
use serde::{Serialize, de::DeserializeOwned};
use tokio::{net::UnixStream, time::timeout};

use super::wire::{AS_OF, Failure};
use crate::problem::Problem;

/// How long an answer may take: longer than the agent gives itself.
const PATIENCE: Duration = Duration::from_secs(90);

/// A request without a body.
pub async fn get<T: DeserializeOwned>(socket: &Path, path: &str) -> Result<T> {
    request(socket, Method::GET, path, Bytes::new()).await
}

/// The same of a listing of what the cluster has: also since when the store is away, in
/// seconds since 1970, if it is. The listing is as of then.
pub async fn get_as_of<T: DeserializeOwned>(socket: &Path, path: &str) -> Result<(T, Option<u64>)> {
    let answer = accepted(ask(socket, Method::GET, path, Bytes::new()).await?)?;
    let as_of = answer.headers().get(AS_OF).and_then(|value| value.to_str().ok()?.parse().ok());
    Ok((parsed(answer.body())?, as_of))
}

/// What the agent says as text.
pub async fn text(socket: &Path, path: &str) -> Result<String> {
    let answer = accepted(ask(socket, Method::GET, path, Bytes::new()).await?)?;
    Ok(String::from_utf8_lossy(answer.body()).into_owned())
}

/// A request with a body.
pub async fn send<T: DeserializeOwned>(
    socket: &Path,
    method: Method,
    path: &str,
    body: &impl Serialize,
) -> Result<T> {
    request(socket, method, path, serde_json::to_vec(body)?.into()).await
}

/// Whether an agent answers on the socket.
pub async fn answers(socket: &Path) -> bool {
    UnixStream::connect(socket).await.is_ok()
}

async fn request<T: DeserializeOwned>(socket: &Path, method: Method, path: &str, body: Bytes) -> Result<T> {
    parsed(accepted(ask(socket, method, path, body).await?)?.body())
}

fn parsed<T: DeserializeOwned>(body: &[u8]) -> Result<T> {
    serde_json::from_slice(body).context("the agent's answer does not parse")
}

/// No agent runs, as far as its socket tells.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct NoAgent(Problem);

/// The agent's refusal of a request.
#[derive(Debug, thiserror::Error)]
#[error("{error}")]
pub struct Refused {
    /// The HTTP status.
    pub status: StatusCode,
    error: String,
}

/// An answer that is no refusal.
fn accepted(answer: Response<Bytes>) -> Result<Response<Bytes>> {
    let status = answer.status();
    if status.is_success() {
        return Ok(answer);
    }
    let failure: Failure = serde_json::from_slice(answer.body())
        .map_err(|_| anyhow!("the agent answered {status}: {}", String::from_utf8_lossy(answer.body())))?;
    Err(Refused { status, error: failure.error }.into())
}

/// The agent's answer to a request, whatever it is.
pub async fn ask(socket: &Path, method: Method, path: &str, body: Bytes) -> Result<Response<Bytes>> {
    let stream = UnixStream::connect(socket).await.map_err(|error| unconnected(socket, error))?;
    let asked = timeout(PATIENCE, exchange(stream, method, path, body)).await;
    asked.map_err(|_| {
        let what = format!("the agent does not answer within {} s", PATIENCE.as_secs());
        Problem::new(what, "see its log, or restart it: that loses no packet")
    })?
}

/// Why there is no connection.
fn unconnected(socket: &Path, error: std::io::Error) -> anyhow::Error {
    let socket = socket.display();
    match error.kind() {
        ErrorKind::PermissionDenied => Problem::new(
            format!("permission denied on the agent's socket {socket}"),
            "use sudo, or join the group of the agent's --socket-group",
        )
        .into(),
        ErrorKind::NotFound | ErrorKind::ConnectionRefused => NoAgent(Problem::new(
            format!("no agent answers on {socket}"),
            "start it with `margay agent`, or name its socket with --socket",
        ))
        .into(),
        _ => anyhow::Error::from(error).context(format!("the agent's socket {socket}")),
    }
}

async fn exchange(stream: UnixStream, method: Method, path: &str, body: Bytes) -> Result<Response<Bytes>> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("host", "margay")
        .header(CONTENT_TYPE, "application/json")
        .body(Full::new(body))?;
    let answer =
        sender.send_request(request).await.context("the agent closed the connection before it answered")?;
    let (head, body) = answer.into_parts();
    let body = body.collect().await.context("the agent closed the connection before it answered")?.to_bytes();
    Ok(Response::from_parts(head, body))
}
