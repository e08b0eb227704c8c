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
use ethtool::{EthtoolAttr, EthtoolChannelAttr, EthtoolError, EthtoolFeatureAttr, EthtoolHandle};
use futures::TryStreamExt;
use nix::sys::utsname::uname;
use serde::{Deserialize, Serialize};
use tracing::warn;

use super::{link::Link, xdp::Refused};
use crate::files;

/// What a card does by itself. The library does not tell of the kernel's first
/// feature, tx-scatter-gather.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Offloads {
    /// Features that are on, by the names of `ethtool --show-features`.
    features: BTreeSet<String>,
    /// Queues that it receives with, if the driver says.
    queues: Option<u32>,
}

impl Offloads {
    async fn of(interface: &str) -> Result<Self> {
        let (connection, mut handle, _) = ethtool::new_connection()?;
        let connection = tokio::spawn(connection);
        let features = active_features(&mut handle, interface).await;
        let queues = receive_queues(&mut handle, interface).await;
        connection.abort();
        let words = || format!("what {interface} does by itself is not known");
        Ok(Self { features: features.with_context(words)?, queues: queues.with_context(words)? })
    }

    /// What is not in a later state, in words.
    fn lost_in(&self, later: &Self) -> BTreeSet<String> {
        let mut lost: BTreeSet<String> = self.features.difference(&later.features).cloned().collect();
        if let (Some(before), Some(after)) = (self.queues, later.queues)
            && after < before
        {
            lost.insert(format!("{} of {before} receive queues", before - after));
        }
        lost
    }
}

/// Whether the kernel merges segments that come in on an interface (GRO).
pub async fn merges(interface: &str) -> Result<bool> {
    Ok(Offloads::of(interface).await?.features.contains("rx-gro"))
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

async fn receive_queues(handle: &mut EthtoolHandle, interface: &str) -> Result<Option<u32>> {
    let answers = handle.channel().get(Some(interface)).execute().await?;
    let answers: Vec<_> = match answers.try_collect().await {
        Err(EthtoolError::NetlinkError(error)) if error.raw_code() == -libc::EOPNOTSUPP => return Ok(None),
        answers => answers?,
    };
    let attributes = answers.into_iter().flat_map(|answer| answer.payload.nlas);
    let counts = attributes.map(|attribute| match attribute {
        EthtoolAttr::Channel(EthtoolChannelAttr::RxCount(n) | EthtoolChannelAttr::CombinedCount(n)) => n,
        _ => 0,
    });
    Ok(Some(counts.sum()))
}

/// Trials of XDP in a driver. The last one is a file, since the next would reset the
/// link of many a card again.
#[derive(Clone, Debug)]
pub struct Trials {
    file: PathBuf,
    forwards: bool,
}

/// Its content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Trial {
    uplink: String,
    driver: String,
    /// The kernel's release: another one's driver is tried anew.
    kernel: String,
    /// What the card did before.
    before: Offloads,
    /// What it stopped doing; none while the trial has not ended.
    lost: Option<BTreeSet<String>>,
}

impl Trials {
    /// Those of a state folder. On a host that forwards, the kernel takes rx-lro off
    /// whatever XDP does, so that does not count.
    pub fn of(state_dir: &Path, forwards: bool) -> Self {
        Self { file: state_dir.join("xdp-trial.json"), forwards }
    }

    /// What an uplink lost in its trial, if it lost something.
    pub fn lost(&self, uplink: &Link) -> Option<String> {
        let lost = self.last(uplink)?.lost?;
        (!lost.is_empty()).then(|| words(&lost))
    }

    /// Whether an uplink lost nothing in its trial.
    pub fn has_shown_no_loss(&self, uplink: &Link) -> bool {
        self.last(uplink).and_then(|trial| trial.lost).is_some_and(|lost| lost.is_empty())
    }

    /// Attaches, and takes that back if the card stops doing something for it.
    ///
    /// # Errors
    ///
    /// [`Refused`] if the card gives something up, or does not say what it does.
    pub async fn hold(
        &self,
        uplink: &Link,
        attach: impl Future<Output = Result<()>> + Send,
        detach: impl Fn() -> Result<bool> + Send,
    ) -> Result<()> {
        if self.has_shown_no_loss(uplink) {
            return attach.await;
        }
        let before = match self.last(uplink) {
            // One that was cut off may have left the card with less.
            Some(Trial { before, lost: None, .. }) => before,
            _ => self.look(uplink).await.map_err(|error| Refused(format!("{error:#}")))?,
        };
        self.remember(uplink, &before, None)?;
        let tried = async {
            attach.await?;
            Ok::<_, anyhow::Error>(before.lost_in(&self.look(uplink).await?))
        };
        match tried.await {
            Ok(lost) if lost.is_empty() => self.remember(uplink, &before, Some(lost)),
            Ok(lost) => {
                detach()?;
                self.judge(uplink, &before, lost).await
            }
            Err(error) => {
                detach()?;
                self.forget()?;
                Err(error)
            }
        }
    }

    /// Remembers what comes back when the program has gone. What does not was
    /// somebody else's doing, or has to be told.
    async fn judge(&self, uplink: &Link, before: &Offloads, lost: BTreeSet<String>) -> Result<()> {
        let gone = before.lost_in(&self.look(uplink).await?);
        for what in &gone {
            warn!("{}: {what} went when XDP was tried, and has not come back (ethtool)", uplink.name);
        }
        let back: BTreeSet<String> = lost.difference(&gone).cloned().collect();
        if back.is_empty() {
            self.forget()?;
        } else {
            self.remember(uplink, before, Some(back))?;
        }
        bail!(Refused(would_lose(&uplink.name, &words(&lost))))
    }

    async fn look(&self, uplink: &Link) -> Result<Offloads> {
        let mut offloads = Offloads::of(&uplink.name).await?;
        if self.forwards {
            offloads.features.remove("rx-lro");
        }
        Ok(offloads)
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

    fn remember(&self, uplink: &Link, before: &Offloads, lost: Option<BTreeSet<String>>) -> Result<()> {
        let driver = driver(uplink).unwrap_or_default();
        let (uplink, before) = (uplink.name.clone(), before.clone());
        let trial = Trial { uplink, driver, kernel: release(), before, lost };
        files::replace(&self.file, &serde_json::to_vec(&trial)?)
    }

    /// The last trial, if it was of this uplink, driver and kernel.
    fn last(&self, uplink: &Link) -> Option<Trial> {
        let trial = self.read().unwrap_or_else(|error| {
            warn!("{error:#}: XDP is tried anew");
            None
        })?;
        let driver = driver(uplink).unwrap_or_default();
        let same = trial.uplink == uplink.name && trial.driver == driver && trial.kernel == release();
        same.then_some(trial)
    }

    fn read(&self) -> Result<Option<Trial>> {
        match fs::read(&self.file) {
            Ok(bytes) => serde_json::from_slice(&bytes).with_context(|| self.file.display().to_string()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| self.file.display().to_string()),
        }
    }
}

fn words(lost: &BTreeSet<String>) -> String {
    lost.iter().map(String::as_str).collect::<Vec<_>>().join(", ")
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
            *to = libc::c_char::from_ne_bytes([from]);
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

    fn card(features: &[&str], queues: Option<u32>) -> Offloads {
        Offloads { features: features.iter().map(|name| (*name).to_owned()).collect(), queues }
    }

    #[test]
    fn what_is_lost_is_named() {
        let before = card(&["rx-gro", "rx-lro"], Some(8));
        let lost = |features: &[&str], queues| words(&before.lost_in(&card(features, queues)));
        assert_eq!(lost(&["rx-gro", "rx-lro", "rx-all"], Some(16)), "");
        assert_eq!(lost(&["rx-gro", "rx-all"], Some(8)), "rx-lro");
        assert_eq!(lost(&["rx-gro"], Some(4)), "4 of 8 receive queues, rx-lro");
        assert_eq!(lost(&["rx-gro", "rx-lro"], None), "", "a driver that does not say");
    }

    #[test]
    fn a_trial_is_remembered_for_this_card_driver_and_kernel() {
        let dir = tempfile::tempdir().expect("a folder");
        let trials = Trials::of(dir.path(), false);
        let named = |name: &str| Link { name: name.into(), ..Link::default() };
        let (up0, before) = (named("up0"), card(&["rx-lro"], None));
        let told = || (trials.lost(&up0), trials.has_shown_no_loss(&up0));
        assert_eq!(told(), (None, false));
        trials.remember(&up0, &before, None).expect("written");
        assert_eq!(told(), (None, false), "not ended");
        trials.remember(&up0, &before, Some(BTreeSet::new())).expect("written");
        assert_eq!(told(), (None, true));
        trials.remember(&up0, &before, Some(["rx-lro".to_owned()].into())).expect("written");
        assert_eq!(told(), (Some("rx-lro".into()), false));
        assert_eq!(trials.lost(&named("up1")), None);
        let other = Link { device: Some(("none".into(), "none".into())), ..up0.clone() };
        assert_eq!(trials.lost(&other).as_deref(), Some("rx-lro"), "no driver either");
        let mut trial = trials.last(&up0).expect("there");
        for (kernel, driver) in [("2.6.32".to_owned(), String::new()), (release(), "another".into())] {
            (trial.kernel, trial.driver) = (kernel, driver);
            fs::write(&trials.file, serde_json::to_vec(&trial).expect("JSON")).expect("written");
            assert_eq!(told(), (None, false), "{trial:?}");
        }
        fs::write(&trials.file, "half of").expect("written");
        assert_eq!(told(), (None, false), "not readable");
        trials.forget().expect("removed");
        trials.forget().expect("again");
    }

    #[tokio::test]
    async fn nothing_is_left_attached_by_a_trial_that_fails() {
        use std::sync::atomic::{AtomicU32, Ordering};
        let dir = tempfile::tempdir().expect("a folder");
        let trials = Trials::of(dir.path(), false);
        let lo = Link { name: "lo".into(), ..Link::default() };
        let detached = AtomicU32::new(0);
        let detach = || Ok(detached.fetch_add(1, Ordering::Relaxed) == 0);
        let error = trials.hold(&lo, async { bail!("no memory") }, detach).await.expect_err("it fails");
        assert!(!error.is::<Refused>() && detached.load(Ordering::Relaxed) == 1, "{error:#}");
        assert_eq!(trials.last(&lo), None, "the next one begins anew");
        let nowhere = Link { name: "no-such-link".into(), ..Link::default() };
        let error = trials.hold(&nowhere, async { Ok(()) }, detach).await.expect_err("it is not there");
        assert!(error.is::<Refused>(), "{error:#}");
        trials.hold(&lo, async { Ok(()) }, detach).await.expect("lo loses nothing");
        assert!(trials.has_shown_no_loss(&lo) && detached.load(Ordering::Relaxed) == 1);
    }
}
