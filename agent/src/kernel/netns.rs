//! Network namespaces of containers.

use std::{
    fs::File,
    io::ErrorKind,
    os::{
        fd::{AsFd, AsRawFd},
        unix::fs::{MetadataExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, anyhow, bail};
use nix::{
    sched::{CloneFlags, setns, unshare},
    sys::statfs::fstatfs,
};
use rtnetlink::MulticastGroup;
use tokio::{runtime, sync::Semaphore, time::timeout};

use super::{Netlink, ready::Events, sysctl};
use crate::{
    problem::{Problem, Rejection},
    words,
};

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
/// `NS_GET_NSTYPE` of linux/nsfs.h, `_IO(0xb7, 3)`: what kind of namespace a file
/// is. Since Linux 4.11.
const NS_GET_NSTYPE: libc::Ioctl = 0xb703;
/// How long a file system may take.
const PATIENCE: Duration = Duration::from_secs(3);
/// How many namespaces are opened at a time. Threads that a file system keeps for
/// ever are no more than these.
static OPENING: Semaphore = Semaphore::const_new(16);

/// Where network namespaces are.
const NAMESPACE: &str = "use a path like /proc/PID/ns/net";

impl Netns {
    /// Opens a namespace, which must be another than the agent's own. Whatever the
    /// path leads to, this comes to an end: nothing but a network namespace is
    /// opened, and a file system that does not answer is left to a thread.
    pub async fn open(path: &Path) -> Result<Self> {
        let shown = path.display();
        if path.to_str().is_none_or(|path| path.contains(words::acts)) {
            let what = format!("network namespace {shown}: the path has control characters");
            bail!(Rejection::invalid(what, "use a path without control characters"));
        }
        let busy = || {
            Problem::new(
                format!("network namespace {shown}: the file system does not answer"),
                "check the file system that is mounted there",
            )
        };
        let Ok(Ok(place)) = timeout(PATIENCE, OPENING.acquire()).await else { bail!(busy()) };
        let named = path.to_owned();
        let opening = aside(move || {
            let _place = place;
            open(&named)
        });
        let (file, inode) = timeout(PATIENCE, opening).await.map_err(|_| busy())??;
        if inode == inode_of_own()? {
            let what = format!("{shown} is the host's own network namespace, which cannot be attached");
            bail!(Rejection::invalid(what, "name the container's namespace"));
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

    /// The kernel's word of changes inside, from now on.
    pub async fn events(&self, group: MulticastGroup) -> Result<Events> {
        let runtime = runtime::Handle::current();
        self.run(move || {
            let _guard = runtime.enter();
            Events::listen(group)
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

/// Opens a network namespace and nothing else; a FIFO or a device cannot block this. Also returns
/// its inode number.
fn open(path: &Path) -> Result<(File, u32)> {
    let look = |flags: i32, path: &Path| File::options().read(true).custom_flags(flags).open(path);
    let found = look(libc::O_PATH, path).map_err(|error| {
        let what = format!("network namespace {}: {error}", path.display());
        match error.kind() {
            ErrorKind::PermissionDenied => {
                let mend = "give the agent CAP_SYS_PTRACE, needed for other users' processes";
                anyhow::Error::from(Problem::new(what, mend))
            }
            _ => Rejection::missing(what, "check that the container still exists").into(),
        }
    })?;
    let shown = path.display();
    if fstatfs(&found)?.filesystem_type().0 as i64 != NSFS_MAGIC {
        bail!(Rejection::invalid(format!("{shown} is no network namespace"), NAMESPACE));
    }
    // The very file that was looked at, whatever the path leads to by now.
    let again = PathBuf::from(format!("/proc/self/fd/{}", found.as_raw_fd()));
    let file = look(libc::O_NONBLOCK, &again).with_context(|| format!("network namespace {shown}"))?;
    // SAFETY: the descriptor is open for the length of the call, which takes no
    // argument and writes to no memory of ours.
    let kind = unsafe { libc::ioctl(file.as_raw_fd(), NS_GET_NSTYPE) };
    if kind != libc::CLONE_NEWNET {
        let what = format!("{shown} is a namespace of another kind, not of the network");
        bail!(Rejection::invalid(what, NAMESPACE));
    }
    let inode = inode(&file)?;
    Ok((file, inode))
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
