//! The commands' way to the agent.

use std::path::Path;

use anyhow::{Context, Result, anyhow, bail};
use http_body_util::{BodyExt, Full};
use hyper::{Method, Request, body::Bytes, client::conn::http1, header::CONTENT_TYPE};
use hyper_util::rt::TokioIo;
use serde::{Serialize, de::DeserializeOwned};
use tokio::net::UnixStream;

use super::wire::Failure;

/// A request without a body.
pub async fn get<T: DeserializeOwned>(socket: &Path, path: &str) -> Result<T> {
    request(socket, Method::GET, path, Bytes::new()).await
}

/// What the agent says as text.
pub async fn text(socket: &Path, path: &str) -> Result<String> {
    let body = answer(socket, Method::GET, path, Bytes::new()).await?;
    Ok(String::from_utf8_lossy(&body).into_owned())
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
    let body = answer(socket, method, path, body).await?;
    serde_json::from_slice(&body).context("the agent's answer does not parse")
}

/// The body of the answer, or the agent's refusal.
async fn answer(socket: &Path, method: Method, path: &str, body: Bytes) -> Result<Bytes> {
    let stream = UnixStream::connect(socket).await.with_context(|| {
        format!(
            "no agent answers on {}; start it with `margay agent`, or name its socket with --socket",
            socket.display()
        )
    })?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("host", "margay")
        .header(CONTENT_TYPE, "application/json")
        .body(Full::new(body))?;
    let answer = sender.send_request(request).await.context("the agent broke off")?;
    let status = answer.status();
    let body = answer.into_body().collect().await.context("the agent broke off")?.to_bytes();
    if status.is_success() {
        return Ok(body);
    }
    let failure: Failure = serde_json::from_slice(&body)
        .map_err(|_| anyhow!("the agent answered {status}: {}", String::from_utf8_lossy(&body)))?;
    bail!(failure.error)
}
