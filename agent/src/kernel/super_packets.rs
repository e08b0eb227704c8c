//! BIG TCP: super-packets above 64 KiB. The uplink is raised only when asked,
//! and what it was is written down; a container never has more than the uplink,
//! which would have to cut every super-packet in software.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use rtnetlink::Handle;
use serde::{Deserialize, Serialize};
use tracing::{info, warn};

use super::{
    link::{self, Link},
    netns::Netns,
    pins,
};
use crate::{files, model::endpoint::Endpoint};

/// The size that is aimed at, bytes: larger ones bring nothing more.
const WANTED: u32 = 196_608;
/// What every interface takes (`GSO_LEGACY_MAX_SIZE`).
pub const USUAL: u32 = 65_536;

/// What an uplink took before it was raised: a file, so that `margay cleanup` can restore it.
#[derive(Clone, Debug)]
pub struct SuperPackets {
    file: PathBuf,
}

/// Its content.
#[derive(Serialize, Deserialize)]
struct Before {
    uplink: String,
    size: u32,
}

impl SuperPackets {
    /// The one of a state folder.
    pub fn of(state_dir: &Path) -> Self {
        Self { file: state_dir.join("big-tcp.json") }
    }

    /// Raises the uplink as far as it goes, and says how far that is.
    pub async fn raise(&self, netlink: &Handle, uplink: &str) -> Result<u32> {
        let link = link::find(netlink, uplink).await?;
        let link = link.with_context(|| format!("uplink {uplink} is not there"))?;
        let size = reachable(&link);
        if size <= USUAL {
            warn!("--big-tcp has no effect: uplink {uplink} takes no super-packets above {USUAL} bytes");
            return Ok(USUAL);
        }
        if self.before()?.is_none_or(|before| before.uplink != uplink) {
            // Another uplink may still be raised.
            self.restore(netlink).await?;
            let before = Before { uplink: uplink.into(), size: link.super_packet };
            files::replace(&self.file, &serde_json::to_vec(&before)?)?;
        }
        link::set_super_packets(netlink, link.index, size)
            .await
            .with_context(|| format!("--big-tcp on {uplink}"))?;
        info!(uplink, size, "raised the uplink's super-packets");
        Ok(size)
    }

    /// Whether an uplink is raised.
    pub fn is_raised(&self) -> bool {
        self.file.exists()
    }

    /// Lowers the uplink again, and says which one that was. One that is gone
    /// is fine.
    pub async fn restore(&self, netlink: &Handle) -> Result<Option<String>> {
        let Some(before) = self.before()? else { return Ok(None) };
        if let Some(link) = link::find(netlink, &before.uplink).await? {
            link::set_super_packets(netlink, link.index, before.size).await?;
        }
        pins::unlink(&self.file)?;
        Ok(Some(before.uplink))
    }

    fn before(&self) -> Result<Option<Before>> {
        match fs::read(&self.file) {
            Ok(bytes) => serde_json::from_slice(&bytes).with_context(|| self.file.display().to_string()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| self.file.display().to_string()),
        }
    }
}

/// How large super-packets on an uplink may become.
pub fn reachable(uplink: &Link) -> u32 {
    WANTED.min(uplink.super_packet_max).max(USUAL)
}

/// Gives the containers that are there another size, both ends of each interface.
/// One whose namespace is gone needs none.
pub async fn fit(netlink: &Handle, endpoints: impl Iterator<Item = &Endpoint> + Send, size: u32) {
    for endpoint in endpoints {
        let inside = async {
            let netns = Netns::open(&endpoint.netns).await?;
            let inside = netns.netlink().await?;
            set(&inside, &endpoint.ifname, size).await?;
            set(netlink, &endpoint.host_interface, size).await
        };
        if let Err(error) = inside.await {
            warn!(
                endpoint = endpoint.id,
                "cannot change the size of the endpoint's super-packets: {error:#}"
            );
        }
    }
}

async fn set(netlink: &Handle, name: &str, size: u32) -> Result<()> {
    match link::find(netlink, name).await? {
        Some(link) if link.super_packet != size => link::set_super_packets(netlink, link.index, size).await,
        _ => Ok(()),
    }
}
