//! Network namespaces of containers.

use std::{
    fs::File,
    io::ErrorKind,
    os::{fd::AsFd, unix::fs::MetadataExt},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, anyhow, bail};
use nix::{
    sched::{CloneFlags, setns, unshare},
    sys::statfs::fstatfs,
};
use tokio::runtime;

use super::{Netlink, sysctl};

/// An open network namespace of somebody else.
#[derive(Debug)]
pub struct Netns {
    /// Where it was found.
    pub path: PathBuf,
    /// Its inode number, unique while it lives.
    pub inode: u32,
    file: File,
}

/// `NSFS_MAGIC` of linux/magic.h.
const NSFS_MAGIC: i64 = 0x6e73_6673;

impl Netns {
    /// Opens a namespace, which must be another than the agent's own.
    pub fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(|error| {
            let hint = match error.kind() {
                ErrorKind::PermissionDenied => {
                    "the agent lacks CAP_SYS_PTRACE, needed for other users' processes"
                }
                _ => "is the container gone?",
            };
            anyhow::Error::from(error).context(format!("network namespace {}: {hint}", path.display()))
        })?;
        let kind = fstatfs(&file)?.filesystem_type().0 as i64;
        if kind != NSFS_MAGIC {
            bail!("{} is no network namespace", path.display());
        }
        let inode = inode(&file)?;
        if inode == inode_of_own()? {
            bail!("{} is the host's own network namespace, which cannot be attached", path.display());
        }
        Ok(Self { path: path.to_owned(), inode, file })
    }

    /// Netlink inside the namespace: a socket stays where it was made.
    pub async fn netlink(&self) -> Result<Netlink> {
        let runtime = runtime::Handle::current();
        self.run(move || {
            let _guard = runtime.enter();
            Ok(super::netlink()?)
        })
        .await
    }

    /// Sets a switch of an interface inside.
    pub async fn sysctl(
        &self,
        family: &'static str,
        interface: &str,
        name: &'static str,
        value: &'static str,
    ) -> Result<()> {
        let interface = interface.to_owned();
        self.run(move || sysctl::set(family, &interface, name, value)).await
    }

    /// A descriptor of the namespace, for netlink to name it.
    pub fn fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// Runs something in the namespace.
    async fn run<T: Send + 'static>(&self, what: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
        let file = self.file.try_clone()?;
        aside(move || {
            setns(&file, CloneFlags::CLONE_NEWNET).context("setns")?;
            what()
        })
        .await
    }
}

/// Netlink in a new namespace, which ends with it.
pub async fn new_netlink() -> Result<Netlink> {
    let runtime = runtime::Handle::current();
    aside(move || {
        unshare(CloneFlags::CLONE_NEWNET).context("a new network namespace")?;
        let _guard = runtime.enter();
        Ok(super::netlink()?)
    })
    .await
}

/// Runs something in a thread of its own: those of the runtime never leave their
/// namespace.
async fn aside<T: Send + 'static>(what: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let (send, receive) = tokio::sync::oneshot::channel();
    std::thread::Builder::new().name("netns".into()).spawn(move || drop(send.send(what())))?;
    receive.await.map_err(|_| anyhow!("the thread in the namespace ended early"))?
}

/// The inode number of the agent's own namespace.
pub fn inode_of_own() -> Result<u32> {
    inode(&File::open("/proc/thread-self/ns/net")?)
}

fn inode(file: &File) -> Result<u32> {
    let inode = file.metadata()?.ino();
    u32::try_from(inode).with_context(|| format!("namespace inode {inode} is beyond 32 bits"))
}
