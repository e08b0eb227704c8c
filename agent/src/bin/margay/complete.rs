//! Completions, of names that the agent knows, too.

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result};
use clap::CommandFactory;
use clap_complete::{
    CompletionCandidate, Shell,
    env::{CompleteEnv, Shells},
};
use margay::{
    api::{client, wire},
    config::{RUN_DIR, SOCKET},
    words::acts,
};
use serde::de::DeserializeOwned;

use crate::{cli::Cli, output};

/// The variable by which a shell asks, and says which one it is.
const ASKED: &str = "COMPLETE";
/// How long somebody at a shell waits for an agent.
const PATIENCE: Duration = Duration::from_secs(1);

/// Answers a shell that asks for completions, and ends.
pub fn if_asked() {
    CompleteEnv::with_factory(Cli::command).var(ASKED).complete();
}

/// Prints what a shell runs to have completions.
pub fn print(shell: Shell) -> Result<()> {
    let shells = Shells::builtins();
    let name = shell.to_string();
    let shell = shells.completer(&name).with_context(|| format!("there are no completions for {name}"))?;
    let mut script = Vec::new();
    shell.write_registration(ASKED, "margay", "margay", "margay", &mut script)?;
    output::lines(&String::from_utf8_lossy(&script))
}

/// Names of networks.
pub fn networks(begin: &OsStr) -> Vec<CompletionCandidate> {
    let told = |network: wire::Network| vec![(network.name, subnets(&network.subnets))];
    candidates(begin, "/v1/networks", told)
}

/// Names of nodes.
pub fn nodes(begin: &OsStr) -> Vec<CompletionCandidate> {
    let addresses = |node: &wire::Node| join(node.addresses.iter().map(ToString::to_string));
    candidates(begin, "/v1/nodes", |node: wire::Node| vec![(node.name.clone(), addresses(&node))])
}

/// Names and ids of endpoints.
pub fn endpoints(begin: &OsStr) -> Vec<CompletionCandidate> {
    let told = |endpoint: wire::EndpointView| {
        let addresses = join(endpoint.addresses.iter().map(ToString::to_string));
        let help = format!("{} on {}", addresses, endpoint.network);
        endpoint.name.into_iter().chain([endpoint.id]).map(|text| (text, help.clone())).collect()
    };
    candidates(begin, "/v1/endpoints", told)
}

fn subnets(subnets: &[wire::Subnet]) -> String {
    join(subnets.iter().map(|subnet| subnet.cidr.to_string()))
}

fn join(all: impl Iterator<Item = String>) -> String {
    all.collect::<Vec<_>>().join(" ")
}

/// What the agent lists, as far as it begins so; nothing where none answers.
fn candidates<T: DeserializeOwned>(
    begin: &OsStr,
    path: &str,
    told: impl Fn(T) -> Vec<(String, String)>,
) -> Vec<CompletionCandidate> {
    let (Some(begin), Ok(runtime)) =
        (begin.to_str(), tokio::runtime::Builder::new_current_thread().enable_all().build())
    else {
        return Vec::new();
    };
    let socket = socket();
    let listed = runtime.block_on(async {
        tokio::time::timeout(PATIENCE, client::get::<Vec<T>>(&socket, path)).await.ok()?.ok()
    });
    let all = listed.into_iter().flatten().flat_map(told);
    // A shell would run what acts.
    let fitting = all.filter(|(text, _)| text.starts_with(begin) && !text.contains(acts));
    let fitting: BTreeMap<String, String> = fitting.collect();
    fitting.into_iter().map(|(text, help)| CompletionCandidate::new(text).help(Some(help.into()))).collect()
}

/// The socket that the words to be completed name.
fn socket() -> PathBuf {
    let words: Vec<_> = std::env::args_os().collect();
    let named = words.windows(2).find(|pair| pair[0] == "--socket").map(|pair| PathBuf::from(&pair[1]));
    let named = named.or_else(|| std::env::var_os("MARGAY_SOCKET").map(PathBuf::from));
    named.unwrap_or_else(|| Path::new(RUN_DIR).join(SOCKET))
}
