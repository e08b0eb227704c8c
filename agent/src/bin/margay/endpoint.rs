//! `margay endpoint`.

use std::path::{Path, PathBuf};

use anyhow::{Result, anyhow};
use hyper::Method;
use margay::{
    api::{client, wire},
    model::pick::{Face, pick},
};

use crate::{
    cli::EndpointCommand,
    commands::{left, listing},
    output,
};

/// Runs the command.
pub async fn run(socket: &Path, command: EndpointCommand) -> Result<()> {
    match command {
        EndpointCommand::Attach { network, netns, pid, name, ip, mac, ifname, format } => {
            let target = netns.unwrap_or_else(|| match pid {
                Some(pid) => format!("/proc/{pid}/ns/net").into(),
                None => PathBuf::new(),
            });
            let netns = std::path::absolute(target)?;
            let request = wire::AttachRequest { network, netns, ifname, name, addresses: ip, mac };
            let made: wire::EndpointView =
                client::send(socket, Method::POST, "/v1/endpoints", &request).await?;
            if pid.is_some() {
                output::notice(
                    "the attachment ends with the container: a restart creates a new namespace; attach that one \
                     again, or have the container join a namespace that you keep (README, By hand)",
                );
            }
            output::endpoints(&[made], format, &[])
        }
        EndpointCommand::Detach { id, netns, ifname } => detach(socket, id, netns, ifname).await,
        EndpointCommand::Ls { all: true, format } => {
            output::holders(&client::get::<Vec<wire::Holder>>(socket, "/v1/holders").await?, format)
        }
        EndpointCommand::Ls { all: false, format } => {
            let (endpoints, source) = list(socket).await?;
            output::endpoints(&endpoints, format, &source)
        }
        EndpointCommand::Inspect { id } => {
            let (endpoints, _) = list(socket).await?;
            let found = pick("endpoint", &endpoints, &id, |e| Face {
                id: &e.id,
                name: e.name.as_deref(),
                of: &e.network,
            })?;
            output::json(
                found.ok_or_else(|| {
                    anyhow!("this node has no endpoint {id}; margay endpoint ls lists them")
                })?,
            )
        }
    }
}

async fn list(socket: &Path) -> Result<(Vec<wire::EndpointView>, Vec<(&'static str, serde_json::Value)>)> {
    match listing(socket, "/v1/endpoints").await {
        Ok((found, mut extra)) => {
            extra.push(("source", "agent".into()));
            Ok((found, extra))
        }
        Err(error) => {
            let (found, mut extra) = left(error, socket, |left| Ok(left.endpoints())).await?;
            extra.push(("stale_since", serde_json::Value::Null));
            Ok((found, extra))
        }
    }
}

async fn detach(socket: &Path, id: Option<String>, netns: Option<PathBuf>, ifname: String) -> Result<()> {
    let netns = netns.map(std::path::absolute).transpose()?;
    let named = match (&id, &netns) {
        (Some(id), _) => id.clone(),
        (None, netns) => {
            format!("with {ifname} in {}", netns.as_deref().unwrap_or(Path::new("")).display())
        }
    };
    let ifname = netns.is_some().then_some(ifname);
    let request = wire::DetachRequest { id, netns, ifname };
    // Nothing to detach is what was asked for.
    let gone: Option<wire::EndpointView> =
        client::send(socket, Method::DELETE, "/v1/endpoints", &request).await?;
    if gone.is_none() {
        output::notice(&format!("this node has no endpoint {named}: nothing to detach"));
    }
    Ok(())
}
