//! What each command does.

use std::path::Path;

use anyhow::Result;
use hyper::Method;
use margay::{
    agent::{self, left::Left},
    api::{client, wire},
    problem::Problem,
    words,
};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::{
    cleanup,
    cli::{
        Cli, Command, GuardCommand, LogCommand, NetworkCommand, NodeCommand, Output, PoolCommand,
        RouteCommand, Switch,
    },
    complete, endpoint, log, output, store,
};

/// Runs a command.
pub async fn run(cli: Cli) -> Result<()> {
    let socket = &cli.socket;
    match cli.command {
        Command::Agent { settings, config } => {
            let settings = settings.or_file(config.as_deref())?;
            log::set_up(settings.log.unwrap_or_default());
            agent::run(settings.check()?).await
        }
        Command::Metrics => output::lines(&client::text(socket, "/metrics").await?),
        Command::Network { command } => network(socket, command).await,
        Command::Endpoint { command } => endpoint::run(socket, command).await,
        Command::Route { command } => route(socket, command).await,
        Command::Node { command } => node(socket, command).await,
        Command::Pool { command } => pool(socket, command).await,
        Command::Guard { command } => guard(socket, command).await,
        Command::Store { command } => store::run(socket, command).await,
        Command::Status { format, quiet } => {
            let (status, source) = get_or_left(socket, "/v1/status", Left::status).await?;
            if !quiet {
                output::status(&status, format, &source)?;
            }
            if !status.problems.is_empty() {
                return Err(Wrong.into());
            }
            Ok(())
        }
        Command::Counters { format, all } => {
            let (mut counters, source) = get_or_left(socket, "/v1/counters", Left::counters).await?;
            if !all && format.output == Output::Table {
                counters.retain(|counter| counter.packets > 0);
            }
            output::counters(&counters, format, &source)
        }
        Command::Log { command: LogCommand::Datapath { switch } } => {
            let request = wire::LogRequest { drops: switch == Switch::On };
            client::send(socket, Method::POST, "/v1/log", &request).await
        }
        Command::Cleanup(options) => cleanup::run(&options).await,
        Command::Completions { shell } => complete::print(shell),
    }
}

/// Something is wrong, and what has been printed.
#[derive(Debug, thiserror::Error)]
#[error("something is wrong")]
pub struct Wrong;

/// What the agent says; where none runs, what it left says instead, and that it does.
pub async fn get_or_left<T: DeserializeOwned>(
    socket: &Path,
    path: &str,
    left: impl FnOnce(&Left) -> Result<T>,
) -> Result<(T, Vec<(&'static str, Value)>)> {
    match client::get(socket, path).await {
        Ok(found) => Ok((found, vec![("source", "agent".into())])),
        Err(error) => self::left(error, socket, left).await,
    }
}

/// What the agent left says, if it failed to answer because there is none.
pub async fn left<T>(
    error: anyhow::Error,
    socket: &Path,
    left: impl FnOnce(&Left) -> Result<T>,
) -> Result<(T, Vec<(&'static str, Value)>)> {
    if !error.is::<client::NoAgent>() {
        return Err(error);
    }
    match Left::of(socket).await {
        Ok(found) => {
            let found = left(&found)?;
            output::notice(
                "no agent is running: this is read from its journal and the pinned maps, which still forward packets",
            );
            Ok((found, vec![("source", "host".into())]))
        }
        // Nothing was left, or it may not be read.
        Err(why) => {
            Err(error.context(format!("the agent's journal and maps cannot be read ({})", words::of(&why))))
        }
    }
}

/// A listing, with the fields that say where it is from and since when it may be old. The
/// latter is told on standard error, too.
pub async fn listing<T: DeserializeOwned>(
    socket: &Path,
    path: &str,
) -> Result<(Vec<T>, Vec<(&'static str, Value)>)> {
    let (found, as_of) = client::get_as_of(socket, path).await?;
    if let Some(since) = as_of {
        let store: wire::Store = client::get(socket, "/v1/store/state").await?;
        let why = store.away.map(|why| format!(": {why}")).unwrap_or_default();
        output::notice(&format!("as of {}, store away since then{why}", output::time(since)));
    }
    Ok((found, vec![("stale_since", as_of.into())]))
}

async fn route(socket: &Path, command: RouteCommand) -> Result<()> {
    match command {
        RouteCommand::Ls(format) => {
            let (routes, source) = get_or_left(socket, "/v1/routes", |left| Ok(left.routes())).await?;
            output::routes(&routes, format, &source)
        }
        RouteCommand::Get { to, from, format } => {
            let request = wire::WayRequest { to, from };
            let way: wire::Way = client::send(socket, Method::POST, "/v1/routes", &request).await?;
            output::way(&way, format)
        }
    }
}

async fn node(socket: &Path, command: NodeCommand) -> Result<()> {
    match command {
        NodeCommand::Ls(format) => {
            let (nodes, extra) = listing(socket, "/v1/nodes").await?;
            output::nodes(&nodes, format, &extra)
        }
        NodeCommand::Rm { name, yes } => {
            let request = wire::NodeRemoval { name, yes };
            let freed: wire::Freed = client::send(socket, Method::DELETE, "/v1/nodes", &request).await?;
            output::line(&format!("freed {} blocks and borrowed addresses", freed.blocks))
        }
    }
}

async fn guard(socket: &Path, command: GuardCommand) -> Result<()> {
    let send = |method, cidr, comment| async move {
        client::send(socket, method, "/v1/guard", &wire::DenyRequest { cidr, comment }).await
    };
    match command {
        GuardCommand::Add { cidr, comment } => send(Method::POST, cidr, comment).await,
        GuardCommand::Rm { cidr } => send(Method::DELETE, cidr, None).await,
        GuardCommand::Ls(format) => {
            let (denied, extra) = listing(socket, "/v1/guard").await?;
            output::denied(&denied, format, &extra)
        }
    }
}

async fn pool(socket: &Path, command: PoolCommand) -> Result<()> {
    let send = |method, cidr, network_prefix| async move {
        client::send(socket, method, "/v1/pools", &wire::PoolRequest { cidr, network_prefix }).await
    };
    match command {
        PoolCommand::Add { cidr, network_prefix } => send(Method::POST, cidr, network_prefix).await,
        PoolCommand::Rm { cidr } => send(Method::DELETE, cidr, None).await,
        PoolCommand::Ls(format) => {
            let (pools, extra) = listing(socket, "/v1/pools").await?;
            output::pools(&pools, format, &extra)
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
                block_prefixes: create.block_prefix,
                block_size: create.block_size,
                ipv6: create.ipv6,
                ranges: create.ip_range,
                aux: create.aux_address,
                ..wire::NetworkRequest::default()
            };
            let made: wire::Network = client::send(socket, Method::POST, "/v1/networks", &request).await?;
            output::line(&made.name)
        }
        NetworkCommand::Ls(format) => {
            let (networks, extra) = listing(socket, "/v1/networks").await?;
            output::networks(&networks, format, &extra)
        }
        NetworkCommand::Inspect { name } => {
            let (networks, _) = listing::<wire::Network>(socket, "/v1/networks").await?;
            let found = networks.into_iter().find(|network| network.name == name);
            output::json(&found.ok_or_else(|| missing(&name))?)
        }
        NetworkCommand::Rm { name } => {
            let path = format!("/v1/networks/{}", escaped(&name)?);
            client::send(socket, Method::DELETE, &path, &()).await
        }
    }
}

fn missing(name: &str) -> Problem {
    Problem::new(format!("there is no network {name}"), "margay network ls lists them")
}

/// A network's name has nothing that a path would have to escape.
fn escaped(name: &str) -> Result<&str> {
    let plain = name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
    if plain && !name.is_empty() { Ok(name) } else { Err(missing(name).into()) }
}
