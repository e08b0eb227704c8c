//! What each command does.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use clap::CommandFactory;
use hyper::Method;
use margay::{
    agent,
    api::{client, wire},
    config::SOCKET,
    kernel::{self, cleanup},
};

use crate::{
    cli::{Cleanup, Cli, Command, EndpointCommand, ListCommand, NetworkCommand, Output},
    output,
};

/// Runs a command.
pub async fn run(cli: Cli) -> Result<()> {
    let socket = &cli.socket;
    match cli.command {
        Command::Agent { settings, config } => agent::run(settings.or_file(config.as_ref())?.check()?).await,
        Command::Network { command } => network(socket, command).await,
        Command::Endpoint { command } => endpoint(socket, command).await,
        Command::Route { command: ListCommand::Ls(format) } => {
            output::routes(&client::get::<Vec<wire::Route>>(socket, "/v1/routes").await?, format)
        }
        Command::Node { command: ListCommand::Ls(format) } => {
            output::nodes(&client::get::<Vec<wire::Node>>(socket, "/v1/nodes").await?, format)
        }
        Command::Status(format) => {
            output::status(&client::get::<wire::Status>(socket, "/v1/status").await?, format)
        }
        Command::Counters { format, all } => {
            let mut counters: Vec<wire::Counter> = client::get(socket, "/v1/counters").await?;
            if !all && format.output == Output::Table {
                counters.retain(|counter| counter.packets > 0);
            }
            output::counters(&counters, format)
        }
        Command::Cleanup(options) => clean_up(&options).await,
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "margay", &mut std::io::stdout());
            Ok(())
        }
    }
}

async fn network(socket: &Path, command: NetworkCommand) -> Result<()> {
    match command {
        NetworkCommand::Create { name, subnet, gateway, mtu, internal, routable, block_size } => {
            let request = wire::NetworkRequest {
                name,
                subnets: subnet,
                gateways: gateway,
                mtu,
                internal,
                routable,
                block_size,
            };
            let made: wire::Network = client::send(socket, Method::POST, "/v1/networks", &request).await?;
            output::line(&made.name)
        }
        NetworkCommand::Ls(format) => output::networks(&networks(socket).await?, format),
        NetworkCommand::Inspect { name } => {
            let found = networks(socket).await?.into_iter().find(|network| network.name == name);
            output::json(&found.ok_or_else(|| anyhow!("there is no network {name}"))?)
        }
        NetworkCommand::Rm { name } => {
            let path = format!("/v1/networks/{}", escaped(&name)?);
            client::send(socket, Method::DELETE, &path, &()).await
        }
    }
}

async fn networks(socket: &Path) -> Result<Vec<wire::Network>> {
    client::get(socket, "/v1/networks").await
}

/// A network's name has nothing that a path would have to escape.
fn escaped(name: &str) -> Result<&str> {
    let plain = name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
    if plain && !name.is_empty() { Ok(name) } else { bail!("there is no network {name:?}") }
}

async fn endpoint(socket: &Path, command: EndpointCommand) -> Result<()> {
    match command {
        EndpointCommand::Attach { network, netns, pid, name, ip, mac, ifname, format } => {
            let netns = netns.unwrap_or_else(|| match pid {
                Some(pid) => format!("/proc/{pid}/ns/net").into(),
                None => PathBuf::new(),
            });
            let netns = std::path::absolute(netns)?;
            let request = wire::AttachRequest { network, netns, ifname, name, addresses: ip, mac };
            let made: wire::Endpoint = client::send(socket, Method::POST, "/v1/endpoints", &request).await?;
            output::endpoints(&[made], format)
        }
        EndpointCommand::Detach { id, netns, ifname } => {
            let netns = netns.map(std::path::absolute).transpose()?;
            let ifname = netns.is_some().then_some(ifname);
            let request = wire::DetachRequest { id, netns, ifname };
            // Nothing to detach is what was asked for.
            let _: Option<wire::Endpoint> =
                client::send(socket, Method::DELETE, "/v1/endpoints", &request).await?;
            Ok(())
        }
        EndpointCommand::Ls(format) => output::endpoints(&endpoints(socket).await?, format),
        EndpointCommand::Inspect { id } => {
            let wanted = |e: &wire::Endpoint| e.id == id || e.name.as_ref() == Some(&id);
            let found = endpoints(socket).await?.into_iter().find(wanted);
            output::json(&found.ok_or_else(|| anyhow!("this node has no endpoint {id}"))?)
        }
    }
}

async fn endpoints(socket: &Path) -> Result<Vec<wire::Endpoint>> {
    client::get(socket, "/v1/endpoints").await
}

async fn clean_up(options: &Cleanup) -> Result<()> {
    let socket = options.run_dir.join(SOCKET);
    if client::answers(&socket).await {
        bail!("the agent on {} is running and would put everything back; end it first", socket.display());
    }
    let netlink = kernel::netlink().context("netlink")?;
    for done in cleanup::everything(&netlink, &options.bpffs).await? {
        output::line(&format!("removed {done}"))?;
    }
    for dir in [options.state_dir.join("endpoints"), options.state_dir.clone()] {
        remove_dir(&dir)?;
    }
    match std::fs::remove_file(&socket) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
        _ => Ok(()),
    }
}

/// Removes the journal's files and its folder, if nobody else's are in it.
fn remove_dir(dir: &Path) -> Result<()> {
    let Ok(entries) = std::fs::read_dir(dir) else { return Ok(()) };
    for entry in entries {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "json" || extension == "new") {
            std::fs::remove_file(&path)?;
        }
    }
    if std::fs::remove_dir(dir).is_ok() {
        output::line(&format!("removed {}", dir.display()))?;
    }
    Ok(())
}
