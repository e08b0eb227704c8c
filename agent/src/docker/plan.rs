//! What is to be done for a host's Docker and the cluster to show the same
//! networks. Pure.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;

use crate::{
    journal::RuntimeNetwork,
    model::network::{Network, NetworkRequest},
};

/// The name of our driver, as users write it behind `-d`.
pub const DRIVER: &str = "margay";
/// How long Docker may take from our answer to showing a network, in seconds.
pub const SETTLING: u64 = 10;
/// For how many seconds nothing must have happened in Docker before a network is created again.
/// The network is missing for a moment then, and a script that has just created it may use it
/// after some other steps.
const QUIET: u64 = 10;
/// For how many seconds Docker may hide a network that its user removes: it stops listing the
/// network first, gives up the addresses, and only then tells the driver.
const REMOVING: u64 = 10;
/// After how many seconds it is made again also in a Docker that is never quiet.
const RESTLESS: u64 = 60;

/// A network as Docker lists it.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// Docker's id.
    pub id: String,
    /// Docker's name of it.
    pub name: String,
    /// Its driver.
    pub driver: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// What it would be created with.
    pub request: NetworkRequest,
    /// Why that cannot be told.
    pub fault: Option<String>,
}

/// What a plan rests on.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    /// All networks of this host's Docker.
    pub docker: &'a [Seen],
    /// Names and Docker's ids of those that containers are on, stopped ones too.
    pub used: &'a BTreeSet<String>,
    /// The register of Docker's networks, by Docker's id.
    pub register: &'a BTreeMap<String, RuntimeNetwork>,
    /// The networks of the cluster.
    pub cluster: &'a BTreeMap<u32, Network>,
    /// Since when Docker does not list networks of the register, in seconds since 1970, as
    /// [`note_unlisted`] keeps it.
    pub unlisted: &'a BTreeMap<String, u64>,
    /// Subnets that Docker has asked for and not made networks of.
    pub making: &'a BTreeSet<IpNet>,
    /// Seconds since 1970.
    pub now: u64,
    /// For how many seconds nothing has happened in Docker.
    pub quiet: u64,
}

/// One thing to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Give a network of the cluster the name that Docker knows.
    Name { docker: String, network: u32, name: String },
    /// Find out which network of the cluster Docker's is, or make it.
    Adopt { docker: String },
    /// Take it off this host's Docker, and say why if a user would wonder.
    Drop { docker: String, name: String, why: Option<String> },
    /// Docker does not have it, and nobody removed it.
    Forget { docker: String, network: u32 },
    /// Docker's user removed it: it is to go everywhere.
    Remove { docker: String, network: u32 },
    /// Have Docker make it.
    Make { network: u32 },
    /// Have Docker make it again, with the subnet named: without, Docker refuses `--ip`.
    Remake { docker: String, network: u32 },
    /// Docker has a network of that name by another driver.
    NameTaken { name: String, driver: String },
}

/// Everything that is to be done now, and whether to look again soon.
pub fn plan(view: &View<'_>) -> (Vec<Step>, bool) {
    // First what is to go: its name and subnet may be wanted again.
    let removed = view.register.values().filter(|entry| entry.removed);
    let remove = |entry: &RuntimeNetwork| Step::Remove { docker: entry.id.clone(), network: entry.network };
    let mut steps: Vec<Step> = removed.map(remove).collect();
    let ours = || view.docker.iter().filter(|seen| seen.driver == DRIVER);
    for seen in ours() {
        steps.extend(known(view, seen));
    }
    steps.extend(doubles(view));
    let mut coming = !view.making.is_empty();
    let mut hidden = false;
    for entry in view.register.values() {
        let (docker, network) = (entry.id.clone(), entry.network);
        if !entry.removed && !ours().any(|seen| seen.id == entry.id) {
            let is_gone = view.unlisted.get(&docker).is_some_and(|since| since + REMOVING < view.now);
            match entry.since + SETTLING < view.now {
                true if is_gone => steps.push(Step::Forget { docker, network }),
                true => hidden = true,
                false => coming = true,
            }
        }
    }
    let has = |id: u32| view.register.values().any(|entry| entry.network == id);
    for network in view.cluster.values().filter(|n| !n.unnamed && !has(n.id)) {
        match view.docker.iter().find(|seen| seen.name == network.name) {
            // It is about to find out that the name is taken.
            Some(seen) if seen.driver == DRIVER => coming = true,
            Some(seen) => {
                steps.push(Step::NameTaken { name: network.name.clone(), driver: seen.driver.clone() });
            }
            // A user may be making the very same.
            None if coming => {}
            None => steps.push(Step::Make { network: network.id }),
        }
    }
    let waiting = view.register.values().any(|entry| waits(view, entry));
    (steps, coming || hidden || waiting)
}

/// Notes since when Docker does not list networks of the register, and forgets those that it lists.
pub fn note_unlisted(
    unlisted: &mut BTreeMap<String, u64>,
    docker: &[Seen],
    register: &BTreeMap<String, RuntimeNetwork>,
    now: u64,
) {
    let lacks = |id: &String| register.contains_key(id) && !docker.iter().any(|seen| seen.id == *id);
    unlisted.retain(|id, _| lacks(id));
    for id in register.keys().filter(|id| lacks(id)) {
        unlisted.entry(id.clone()).or_insert(now);
    }
}

/// What is to be done about a network of ours that Docker has.
fn known(view: &View<'_>, seen: &Seen) -> Option<Step> {
    let docker = seen.id.clone();
    let Some(entry) = view.register.get(&seen.id) else { return Some(Step::Adopt { docker }) };
    if entry.removed {
        return None;
    }
    let drop = |why: Option<String>| Step::Drop { docker: docker.clone(), name: seen.name.clone(), why };
    match view.cluster.get(&entry.network) {
        None => Some(drop(None)),
        Some(network) if network.unnamed => {
            let name = entry.wanted.clone().unwrap_or_else(|| seen.name.clone());
            Some(Step::Name { docker, network: network.id, name })
        }
        Some(network) if entry.wanted.is_none() && network.name != seen.name => {
            let subnets: Vec<String> = network.subnets.iter().map(|s| s.cidr.to_string()).collect();
            Some(drop(Some(format!("{} is network {}'s", subnets.join(" and "), network.name))))
        }
        // By the user's options it may have another name here.
        Some(network) if waits(view, entry) && network.name == seen.name => {
            let age = view.now.saturating_sub(entry.since);
            let due = age > QUIET && view.quiet >= QUIET && view.making.is_empty() || age > RESTLESS;
            due.then(|| Step::Remake { docker: docker.clone(), network: network.id })
        }
        Some(_) => None,
    }
}

/// Whether a network is to be made again once it has been quiet for a while.
fn waits(view: &View<'_>, entry: &RuntimeNetwork) -> bool {
    let seen = view.docker.iter().find(|seen| seen.id == entry.id);
    entry.chosen
        && seen.is_some_and(|seen| ![&seen.id, &seen.name].into_iter().any(|name| view.used.contains(name)))
}

/// Networks of one name that are one network: the older ones stay.
fn doubles(view: &View<'_>) -> Vec<Step> {
    let mut by_name: BTreeMap<(&str, u32), Vec<&RuntimeNetwork>> = BTreeMap::new();
    for seen in view.docker.iter().filter(|seen| seen.driver == DRIVER) {
        if let Some(entry) = view.register.get(&seen.id) {
            by_name.entry((&seen.name, entry.network)).or_default().push(entry);
        }
    }
    let mut steps = Vec::new();
    for ((name, _), mut entries) in by_name {
        entries.sort_by_key(|entry| (entry.since, &entry.id));
        let more = entries.iter().skip(1);
        steps.extend(more.map(|entry| Step::Drop { docker: entry.id.clone(), name: name.into(), why: None }));
    }
    steps
}

#[cfg(test)]
mod tests;
