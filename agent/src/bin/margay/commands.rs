//! What each command does.

use std::{
    io::IsTerminal,
    path::{Path, PathBuf},
};

use anyhow::{Result, anyhow, bail};
use clap::CommandFactory;
use hyper::Method;
use margay::{
    agent,
    api::{client, wire},
    config::LogFormat,
};
use tracing_subscriber::EnvFilter;

use crate::{
    cleanup,
    cli::{
        Cli, Command, EndpointCommand, GuardCommand, ListCommand, LogCommand, NetworkCommand, NodeCommand,
        Output, PoolCommand, Switch,
    },
    output, store,
};

/// Runs a command.
pub async fn run(cli: Cli) -> Result<()> {
    let socket = &cli.socket;
    match cli.command {
        Command::Agent { settings, config } => {
            let settings = settings.or_file(config.as_deref())?;
            log(settings.log.unwrap_or_default());
            agent::run(settings.check()?).await
        }
        Command::Metrics => output::line(client::text(socket, "/metrics").await?.trim_end()),
        Command::Network { command } => network(socket, command).await,
        Command::Endpoint { command } => endpoint(socket, command).await,
        Command::Route { command: ListCommand::Ls(format) } => {
            output::routes(&client::get::<Vec<wire::Route>>(socket, "/v1/routes").await?, format)
        }
        Command::Node { command } => node(socket, command).await,
        Command::Pool { command } => pool(socket, command).await,
        Command::Guard { command } => guard(socket, command).await,
        Command::Store { command } => store::run(socket, command).await,
        Command::Status { format, quiet } => {
            let status: wire::Status = client::get(socket, "/v1/status").await?;
            if !quiet {
                output::status(&status, format)?;
            }
            if !status.problems.is_empty() {
                return Err(Wrong.into());
            }
            Ok(())
        }
        Command::Counters { format, all } => {
            let mut counters: Vec<wire::Counter> = client::get(socket, "/v1/counters").await?;
            if !all && format.output == Output::Table {
                counters.retain(|counter| counter.packets > 0);
            }
            output::counters(&counters, format)
        }
        Command::Log { command: LogCommand::Datapath { switch } } => {
            let request = wire::LogRequest { drops: switch == Switch::On };
            client::send(socket, Method::POST, "/v1/log", &request).await
        }
        Command::Cleanup(options) => cleanup::run(&options).await,
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "margay", &mut std::io::stdout());
            Ok(())
        }
    }
}

/// Sets up the log: to standard error, as much as MARGAY_LOG says.
fn log(format: LogFormat) {
    let filter = EnvFilter::try_from_env("MARGAY_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_target(false)
        .with_ansi(std::io::stderr().is_terminal());
    match format {
        LogFormat::Text => log.init(),
        LogFormat::Json => {
            log.json().flatten_event(true).with_current_span(false).with_span_list(false).init()
        }
    }
}

/// Something is wrong, and what has been printed.
#[derive(Debug, thiserror::Error)]
#[error("something is wrong")]
pub struct Wrong;

async fn node(socket: &Path, command: NodeCommand) -> Result<()> {
    match command {
        NodeCommand::Ls(format) => {
            output::nodes(&client::get::<Vec<wire::Node>>(socket, "/v1/nodes").await?, format)
        }
        NodeCommand::Rm { name, yes } => {
            let request = wire::NodeRemoval { name, yes };
            let freed: wire::Freed = client::send(socket, Method::DELETE, "/v1/nodes", &request).await?;
            output::line(&format!("{} blocks and borrowed addresses are free", freed.blocks))
        }
    }
}

async fn guard(socket: &Path, command: GuardCommand) -> Result<()> {
    let send = |method, cidr, comment| async move {
        client::send(socket, method, "/v1/guard", &wire::BlockRequest { cidr, comment }).await
    };
    match command {
        GuardCommand::Add { cidr, comment } => send(Method::POST, cidr, comment).await,
        GuardCommand::Rm { cidr } => send(Method::DELETE, cidr, None).await,
        GuardCommand::Ls(format) => {
            output::blocked(&client::get::<Vec<wire::Blocked>>(socket, "/v1/guard").await?, format)
        }
    }
}

async fn pool(socket: &Path, command: PoolCommand) -> Result<()> {
    let send = |method, cidr, network_size| async move {
        client::send(socket, method, "/v1/pools", &wire::PoolRequest { cidr, network_size }).await
    };
    match command {
        PoolCommand::Add { cidr, network_size } => send(Method::POST, cidr, network_size).await,
        PoolCommand::Rm { cidr } => send(Method::DELETE, cidr, None).await,
        PoolCommand::Ls(format) => {
            output::pools(&client::get::<Vec<wire::Pool>>(socket, "/v1/pools").await?, format)
        }
    }
}

async fn network(socket: &Path, command: NetworkCommand) -> Result<()> {
    match command {
        NetworkCommand::Create(create) => {
            let request = wire::NetworkRequest {
                name: create.name,
                subnets: create.subnet,
                gateways: create.gateway,
                mtu: create.mtu,
                internal: create.internal,
                routable: create.routable,
                block_size: create.block_size,
                ipv6: create.ipv6,
                ranges: create.ip_range,
                aux: create.aux_address,
                ..wire::NetworkRequest::default()
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
