//! What a card does by itself, and whether it goes on doing it with an XDP program
//! in its driver: some stop merging segments, or use fewer queues.

use std::{
    collections::BTreeSet,
    fs, io,
    net::UdpSocket,
    os::fd::AsRawFd,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use ethtool::{EthtoolAttr, EthtoolChannelAttr, EthtoolFeatureAttr, EthtoolHandle};
use futures::TryStreamExt;
use nix::sys::utsname::uname;
use serde::{Deserialize, Serialize};
use tracing::warn;

use super::link::Link;
use crate::files;

/// What a card does by itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Offloads {
    /// Features that are on, by the names of `ethtool --show-features`.
    features: BTreeSet<String>,
    /// Queues that it receives with; 0 if the driver does not say.
    queues: u32,
}

impl Offloads {
    async fn of(interface: &str) -> Result<Self> {
        let (connection, mut handle, _) = ethtool::new_connection()?;
        let connection = tokio::spawn(connection);
        let features = active_features(&mut handle, interface).await;
        // A driver may not know the question.
        let queues = receive_queues(&mut handle, interface).await.unwrap_or(0);
        connection.abort();
        let features = features.with_context(|| format!("what {interface} does by itself is not known"))?;
        Ok(Self { features, queues })
    }

    /// What is not in a later state, in words.
    fn lost_in(&self, later: &Self) -> Vec<String> {
        let mut lost: Vec<String> = self.features.difference(&later.features).cloned().collect();
        if later.queues < self.queues {
            lost.push(format!("{} of {} receive queues", self.queues - later.queues, self.queues));
        }
        lost
    }
}

async fn active_features(handle: &mut EthtoolHandle, interface: &str) -> Result<BTreeSet<String>> {
    let answers = handle.feature().get(Some(interface)).execute().await?;
    let answers: Vec<_> = answers.try_collect().await?;
    let attributes = answers.into_iter().flat_map(|answer| answer.payload.nlas);
    let active = attributes.filter_map(|attribute| match attribute {
        EthtoolAttr::Feature(EthtoolFeatureAttr::Active(bits)) => Some(bits),
        _ => None,
    });
    Ok(active.flatten().filter(|bit| bit.value).map(|bit| bit.name).collect())
}

async fn receive_queues(handle: &mut EthtoolHandle, interface: &str) -> Result<u32> {
    let answers = handle.channel().get(Some(interface)).execute().await?;
    let answers: Vec<_> = answers.try_collect().await?;
    let attributes = answers.into_iter().flat_map(|answer| answer.payload.nlas);
    let counts = attributes.map(|attribute| match attribute {
        EthtoolAttr::Channel(EthtoolChannelAttr::RxCount(n) | EthtoolChannelAttr::CombinedCount(n)) => n,
        _ => 0,
    });
    Ok(counts.sum())
}

/// Tries of XDP in a driver. What a try has shown is a file, since the next one
/// would reset the link of many a card again.
#[derive(Clone, Debug)]
pub struct Trials {
    file: PathBuf,
}

/// Its content.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Shown {
    uplink: String,
    driver: String,
    /// The kernel's release: another one's driver is tried anew.
    kernel: String,
    lost: Vec<String>,
}

impl Trials {
    /// Those of a state folder.
    pub fn of(state_dir: &Path) -> Self {
        Self { file: state_dir.join("xdp-trial.json") }
    }

    /// What an uplink lost in an earlier try.
    pub fn lost(&self, uplink: &str, driver: &str) -> Option<String> {
        let shown = self.shown().unwrap_or_else(|error| {
            warn!("{error:#}: XDP is tried anew");
            None
        })?;
        let same = shown.uplink == uplink && shown.driver == driver && shown.kernel == release();
        same.then(|| shown.lost.join(", "))
    }

    /// Attaches, and takes that back if the card stops doing something for it.
    pub async fn hold(
        &self,
        uplink: &Link,
        attach: impl Future<Output = Result<()>> + Send,
        detach: impl FnOnce() -> Result<bool> + Send,
    ) -> Result<()> {
        let interface = uplink.name.as_str();
        let before = Offloads::of(interface).await?;
        attach.await?;
        let lost = before.lost_in(&Offloads::of(interface).await?);
        if lost.is_empty() {
            return Ok(());
        }
        detach()?;
        let words = lost.join(", ");
        self.remember(uplink, lost)?;
        bail!("{}", would_lose(interface, &words))
    }

    /// Forgets what was tried.
    pub fn forget(&self) -> Result<()> {
        match fs::remove_file(&self.file) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(error).with_context(|| self.file.display().to_string())
            }
            _ => Ok(()),
        }
    }

    fn remember(&self, uplink: &Link, lost: Vec<String>) -> Result<()> {
        let driver = driver(uplink).unwrap_or_default();
        let shown = Shown { uplink: uplink.name.clone(), driver, kernel: release(), lost };
        files::replace(&self.file, &serde_json::to_vec(&shown)?)
    }

    fn shown(&self) -> Result<Option<Shown>> {
        match fs::read(&self.file) {
            Ok(bytes) => serde_json::from_slice(&bytes).with_context(|| self.file.display().to_string()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| self.file.display().to_string()),
        }
    }
}

/// Has the kernel look anew at which of the wanted features a card can have: not
/// every driver asks for that when its XDP program goes.
pub fn take_up_again(interface: &str) -> Result<()> {
    const GET_FLAGS: u32 = 0x25;
    const SET_FLAGS: u32 = 0x26;
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    let mut flags = Flags { command: GET_FLAGS, flags: 0 };
    // Setting the flags that are set changes no wish, and has all of them looked at.
    for command in [GET_FLAGS, SET_FLAGS] {
        flags.command = command;
        // SAFETY: all zeros is a request with an empty name.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        let room = request.ifr_name.len() - 1;
        for (to, from) in request.ifr_name[..room].iter_mut().zip(interface.bytes()) {
            *to = from.cast_signed();
        }
        request.ifr_ifru.ifru_data = (&raw mut flags).cast();
        // SAFETY: the request is named with a terminating zero and points to eight
        // bytes that live through the call, which is what both commands take.
        let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCETHTOOL, &raw mut request) };
        if result != 0 {
            return Err(io::Error::last_os_error()).with_context(|| format!("features of {interface}"));
        }
    }
    Ok(())
}

/// `struct ethtool_value` of <linux/ethtool.h>.
#[repr(C)]
struct Flags {
    command: u32,
    flags: u32,
}

/// Why an uplink has no XDP program.
pub fn would_lose(uplink: &str, what: &str) -> String {
    format!("{uplink} would lose {what}")
}

/// The driver of a card; none of a virtual interface. The list of interfaces in
/// sysfs may be another network namespace's, the list of buses is nobody's.
pub fn driver(interface: &Link) -> Option<String> {
    let device = match &interface.device {
        Some((bus, place)) => Path::new("/sys/bus").join(bus).join("devices").join(place),
        None => Path::new("/sys/class/net").join(&interface.name).join("device"),
    };
    let link = device.join("driver");
    Some(fs::read_link(link).ok()?.file_name()?.to_string_lossy().into_owned())
}

fn release() -> String {
    uname().map(|names| names.release().to_string_lossy().into_owned()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_lost_is_named() {
        let of = |features: &[&str], queues| Offloads {
            features: features.iter().map(|name| (*name).to_owned()).collect(),
            queues,
        };
        let before = of(&["rx-lro", "rx-gro", "tx-tcp-segmentation"], 8);
        assert_eq!(before.lost_in(&before), Vec::<String>::new());
        assert_eq!(before.lost_in(&of(&["rx-gro", "tx-tcp-segmentation", "rx-all"], 8)), ["rx-lro"]);
        assert_eq!(before.lost_in(&Offloads { queues: 4, ..before.clone() }), ["4 of 8 receive queues"]);
        assert_eq!(before.lost_in(&Offloads { queues: 16, ..before.clone() }), Vec::<String>::new());
    }

    #[test]
    fn a_trial_is_remembered_for_this_card_driver_and_kernel() {
        let dir = tempfile::tempdir().expect("a folder");
        let trials = Trials::of(dir.path());
        assert_eq!(trials.lost("up0", ""), None);
        let up0 = Link { name: "up0".into(), ..Link::default() };
        trials.remember(&up0, vec!["rx-lro".into(), "rx-gro-hw".into()]).expect("written");
        assert_eq!(trials.lost("up0", "").as_deref(), Some("rx-lro, rx-gro-hw"));
        assert_eq!(trials.lost("up1", ""), None);
        assert_eq!(trials.lost("up0", "another"), None);
        let mut shown = trials.shown().expect("readable").expect("there");
        shown.kernel = "2.6.32".into();
        fs::write(&trials.file, serde_json::to_vec(&shown).expect("JSON")).expect("written");
        assert_eq!(trials.lost("up0", ""), None, "of another kernel");
        fs::write(&trials.file, "half of").expect("written");
        assert_eq!(trials.lost("up0", ""), None, "not readable");
        trials.forget().expect("removed");
        trials.forget().expect("again");
    }
}
