//! What an agent that does not run has left: its journal and the pinned maps, by
//! which packets go on.

use std::{
    collections::BTreeMap,
    fs,
    net::IpAddr,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::remembered;
use crate::{
    api::{
        server::views,
        wire::{self, Counter},
    },
    config::{BPFFS_DIR, RUN_DIR, SOCKET, STATE_DIR},
    control::State,
    desired::{LocalFacts, Uplink, Xdp},
    files,
    journal::Journal,
    kernel::{
        self, Netlink,
        attach::{self, TcMode},
        counters,
        facts::is_own,
        link,
        maps::Maps,
        pins::Pins,
    },
    model::endpoint::Device,
    problem::Problem,
    tables::{Attachment, Tables},
};

/// The file beside the socket that says where an agent keeps what it has.
const PLACES: &str = "agent.json";

/// Where an agent keeps what it has, and what it was.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Places {
    pub bpffs: PathBuf,
    pub state_dir: PathBuf,
    pub node: String,
    pub addresses: Vec<IpAddr>,
    pub uplink: String,
    pub store: String,
    #[serde(default)]
    pub container_device: Device,
}

impl Places {
    /// Writes them beside the socket, for commands that run while the agent does not.
    pub fn write(&self, run_dir: &Path) -> Result<()> {
        files::replace(&run_dir.join(PLACES), &serde_json::to_vec(self)?)
    }

    /// Those of the agent with that socket, or the usual ones. Only root or who asks
    /// may have written them.
    fn of(socket: &Path) -> Option<Self> {
        let read = || {
            let path = socket.parent()?.join(PLACES);
            let owner = fs::metadata(&path).ok()?.uid();
            let trusted = owner == 0 || owner == nix::unistd::geteuid().as_raw();
            serde_json::from_slice(&fs::read(&path).ok().filter(|_| trusted)?).ok()
        };
        let usual = || Self {
            bpffs: BPFFS_DIR.into(),
            state_dir: STATE_DIR.into(),
            node: String::new(),
            addresses: Vec::new(),
            uplink: String::new(),
            store: "unknown".into(),
            container_device: Device::default(),
        };
        // Another agent's would be taken for that of this socket.
        let is_usual = socket == Path::new(RUN_DIR).join(SOCKET);
        read().or_else(|| is_usual.then(usual))
    }
}

/// Forgets where an agent kept what it had.
pub fn forget(run_dir: &Path) {
    drop(fs::remove_file(run_dir.join(PLACES)));
}

/// What an agent has left.
pub struct Left {
    state: State,
    journal: Journal,
    pins: Pins,
    maps: Maps,
    store: String,
    /// How programs are attached, and what interfaces containers get.
    how: (TcMode, Device),
}

impl Left {
    /// Reads what the agent with that socket left. Fails where it left nothing, or
    /// where it may not be read.
    pub async fn of(socket: &Path) -> Result<Self> {
        let places = Places::of(socket).context("agent.json does not say where that agent kept its state")?;
        let pins = Pins::at(&places.bpffs);
        let maps = Maps::open(&pins)?;
        let journal = Journal::peek(&places.state_dir)?;
        let mut state = State {
            snapshot: remembered(&journal, &journal.networks())?,
            known: journal.known()?.map(Into::into),
            ..State::default()
        };
        let netlink = kernel::netlink().context("netlink")?;
        let links = link::list(&netlink).await?;
        let own = links.iter().filter(|link| is_own(&link.name));
        state.facts.interfaces = own.map(|link| (link.name.clone(), link.index)).collect();
        state.facts.uplink = Uplink { name: places.uplink.clone(), ..Uplink::default() };
        if let Some(uplink) = links.iter().find(|link| link.name == places.uplink) {
            state.facts.uplink.ifindex = uplink.index;
        }
        (state.facts.node, state.facts.addresses) = (places.node, places.addresses);
        state.facts.endpoints = journal.endpoints().into();
        let mode = TcMode::probe();
        let attached = attachments(&netlink, &pins, mode, &state.facts).await?;
        let mut tables = Tables { attachments: attached.into(), ..Tables::default() };
        maps.read(&mut tables)?;
        state.actual = Some(tables);
        let has_xdp = pins.xdp_interfaces()?.contains(&state.facts.uplink.name);
        let xdp = if has_xdp { "attached; the mode is unknown while no agent runs" } else { "off" };
        state.facts.xdp = Xdp::Off(xdp.into());
        let how = (mode, places.container_device);
        Ok(Self { state, journal, pins, maps, store: places.store, how })
    }

    /// The endpoints of the host.
    pub fn endpoints(&self) -> Vec<wire::EndpointView> {
        views::endpoints(&self.state, self.journal.endpoints())
    }

    /// What the datapath holds.
    pub fn routes(&self) -> Vec<wire::Route> {
        views::routes(&self.state)
    }

    /// What the programs count.
    pub fn counters(&self) -> Result<Vec<Counter>> {
        counters::read(&self.maps.counters)
    }

    /// How it stands: that no agent runs, in the first place.
    pub fn status(&self) -> Result<wire::Status> {
        let mut status = views::status(&self.state, self.how, &self.pins, &self.store)?;
        status.problems = vec![Problem::new(
            "no agent runs: packets go on, but this host learns of no change and attaches no container",
            "start it: systemctl start margay, or margay agent",
        )];
        status.problems.extend(self.journal.problems());
        Ok(status)
    }
}

/// The programs at their hooks. Whether they are of this object, only an agent needs to know.
async fn attachments(
    netlink: &Netlink,
    pins: &Pins,
    mode: TcMode,
    facts: &LocalFacts,
) -> Result<BTreeMap<String, Attachment>> {
    let uplink = &facts.uplink.name;
    let mut found = BTreeMap::new();
    for name in facts.interfaces.keys().chain([uplink]).filter(|name| !name.is_empty()) {
        if let Some((hook, _)) = attach::attached(mode, pins, netlink, name).await? {
            let program = attach::program_at(hook, name, uplink);
            found.insert(name.clone(), Attachment { program, current: true });
        }
    }
    Ok(found)
}
