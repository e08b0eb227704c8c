//! Receive packet steering (Documentation/networking/scaling.rst of the kernel) at
//! the host side of containers' veths: which processors may carry what a
//! container sends, so that its own has less to do.

use std::{fs, path::Path, str::FromStr};

use anyhow::{Context, Result, anyhow, bail};
use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
};
use serde::{Deserialize, Serialize};

/// Which processors: hexadecimal digits, the lowest bit is processor 0, groups of
/// eight digits with commas between, as the kernel writes `rps_cpus`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Mask(String);

impl Mask {
    /// No steering: the processor that a packet comes on carries it.
    pub fn off() -> Self {
        Self("0".into())
    }
}

impl FromStr for Mask {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let group =
            |group: &str| (1..=8).contains(&group.len()) && group.bytes().all(|b| b.is_ascii_hexdigit());
        if !text.split(',').all(group) {
            bail!(
                "{text:?} is no mask of processors: use hexadecimal digits, as in 2 for processor 1, f for 0 to 3"
            );
        }
        Ok(Self(text.to_owned()))
    }
}

impl TryFrom<String> for Mask {
    type Error = anyhow::Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<Mask> for String {
    fn from(mask: Mask) -> Self {
        mask.0
    }
}

/// Sets the mask of interfaces of ours. Only sysfs takes it, and shows the
/// interfaces of the network namespace that it was mounted in: so a thread of its
/// own mounts one that nobody else sees, and ends with it.
pub async fn set(interfaces: Vec<String>, mask: Mask) -> Result<()> {
    let (send, receive) = tokio::sync::oneshot::channel();
    std::thread::Builder::new().name("steering".into()).spawn(move || {
        let set = || {
            mount_sysfs().context("sysfs, for receive steering")?;
            // One that is gone keeps the others from nothing.
            let results: Vec<Result<()>> = interfaces.iter().map(|name| set_one(name, &mask)).collect();
            results.into_iter().collect()
        };
        drop(send.send(set()));
    })?;
    receive.await.map_err(|_| anyhow!("the thread that steers ended early"))?
}

fn mount_sysfs() -> Result<()> {
    const NONE: Option<&str> = None;
    unshare(CloneFlags::CLONE_NEWNS)?;
    mount(NONE, "/", NONE, MsFlags::MS_REC | MsFlags::MS_SLAVE, NONE)?;
    Ok(mount(Some("sysfs"), "/sys", Some("sysfs"), MsFlags::empty(), NONE)?)
}

fn set_one(interface: &str, mask: &Mask) -> Result<()> {
    let queues = Path::new("/sys/class/net").join(interface).join("queues");
    let mut any = false;
    for queue in fs::read_dir(&queues).with_context(|| queues.display().to_string())? {
        let file = queue?.path().join("rps_cpus");
        // Sending queues have none.
        if file.exists() {
            fs::write(&file, &mask.0).with_context(|| format!("{}: {}", file.display(), mask.0))?;
            any = true;
        }
    }
    if any { Ok(()) } else { bail!("this kernel steers nothing: {} has no rps_cpus", queues.display()) }
}

#[cfg(test)]
mod tests {
    use super::Mask;

    #[test]
    fn a_mask_is_what_the_kernel_takes() {
        for good in ["0", "2", "ff", "1,00000000", "FFFFFFFF,ffffffff"] {
            assert!(good.parse::<Mask>().is_ok(), "{good}");
        }
        for bad in ["", "0-3", "0x3", "g", "123456789", "1,", "1 2"] {
            let error = format!("{:#}", bad.parse::<Mask>().expect_err(bad));
            assert!(error.contains("hexadecimal"), "{error}");
        }
    }
}
