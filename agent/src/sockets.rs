//! Sockets that a service manager opened for us and keeps open while we
//! restart (`LISTEN_FDS`, sd_listen_fds(3)), known by their paths.

use std::{
    collections::BTreeMap,
    os::unix::net::UnixListener as Listener,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use listenfd::ListenFd;
use tokio::net::UnixListener;

/// The sockets that were handed over.
#[derive(Debug, Default)]
pub struct Sockets(BTreeMap<PathBuf, Listener>);

impl Sockets {
    /// Takes them over.
    pub fn from_env() -> Result<Self> {
        let mut handed = ListenFd::from_env();
        let mut sockets = BTreeMap::new();
        for i in 0..handed.len() {
            let socket = handed.take_unix_listener(i).context("LISTEN_FDS")?;
            let Some(socket) = socket else { continue };
            let addr = socket.local_addr().context("LISTEN_FDS")?;
            let Some(path) = addr.as_pathname() else { bail!("LISTEN_FDS: a socket has no path") };
            sockets.insert(path.to_owned(), socket);
        }
        Ok(Self(sockets))
    }

    /// The one at a path.
    pub fn take(&mut self, path: &Path) -> Result<Option<UnixListener>> {
        let Some(socket) = self.0.remove(path) else { return Ok(None) };
        socket.set_nonblocking(true)?;
        Ok(Some(UnixListener::from_std(socket)?))
    }

    /// Makes sure that none is left over.
    pub fn finish(self) -> Result<()> {
        match self.0.keys().next() {
            None => Ok(()),
            Some(path) => bail!(
                "the service manager handed over socket {}, which the agent does not serve; correct --run-dir or --docker-plugin",
                path.display()
            ),
        }
    }
}
