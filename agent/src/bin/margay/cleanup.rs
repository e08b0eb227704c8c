//! `margay cleanup`.

use std::{fs, path::Path, time::Duration};

use anyhow::{Context, Result, bail};
use hyper::Method;
use margay::{agent::left, api::client, config::SOCKET, journal::Journal, kernel, store::embedded};

use crate::{cli::Cleanup, output};

/// How often a stopping agent is looked at, and how many times.
const LOOK: Duration = Duration::from_millis(100);
const LOOKS: usize = 100;

/// Takes everything off this host.
pub async fn run(options: &Cleanup) -> Result<()> {
    let socket = options.run_dir.join(SOCKET);
    if client::answers(&socket).await {
        if !options.stop {
            bail!(
                "the agent on {} is running and would restore everything; stop it first, or use --stop",
                socket.display()
            );
        }
        stop(&socket).await?;
    }
    let netlink = kernel::netlink().context("netlink")?;
    let done = kernel::cleanup::everything(&netlink, &options.bpffs, &options.state_dir).await?;
    for removed in done.removed {
        output::line(&format!("removed {removed}"))?;
    }
    Journal::erase(&options.state_dir)?;
    let store = options.state_dir.join("store");
    if options.store {
        remove_file(&embedded::file(&store))?;
        drop(fs::remove_dir(&store));
    } else if embedded::file(&store).exists() {
        output::line(&format!("kept the store in {}; --store removes it", store.display()))?;
    }
    for dir in [&options.state_dir, &options.run_dir] {
        remove_file(&socket)?;
        left::forget(&options.run_dir);
        // Others' files keep the folder.
        if fs::remove_dir(dir).is_ok() {
            output::line(&format!("removed {}", dir.display()))?;
        }
    }
    match done.left {
        Some(error) => Err(error).context(
            "everything else is removed, but BIG TCP stays on: set the uplink's sizes yourself (ip link set DEV \
             gso_max_size 65536 gro_max_size 65536), remove big-tcp.json, and repeat",
        ),
        None => Ok(()),
    }
}

async fn stop(socket: &Path) -> Result<()> {
    let _: () = client::send(socket, Method::POST, "/v1/stop", &()).await?;
    for _ in 0..LOOKS {
        if !client::answers(socket).await {
            return output::line("stopped the agent");
        }
        tokio::time::sleep(LOOK).await;
    }
    bail!("the agent on {} does not stop; see its log", socket.display())
}

fn remove_file(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| path.display().to_string())
        }
        _ => Ok(()),
    }
}
