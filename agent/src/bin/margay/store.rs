//! `margay store`: adopting, and moving from one store to another.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use hyper::Method;
use margay::{
    api::{client, wire},
    config::{STATE_DIR, StoreSettings},
    store::transfer,
};

use crate::{cli::StoreCommand, output};

/// Runs the command.
pub async fn run(socket: &Path, command: StoreCommand) -> Result<()> {
    match command {
        StoreCommand::Adopt => client::send(socket, Method::POST, "/v1/store/adopt", &()).await,
        StoreCommand::Export { file, store } => export(socket, file, store).await,
        StoreCommand::Import { file, store } => import(&file, store).await,
    }
}

async fn export(socket: &Path, file: Option<PathBuf>, settings: StoreSettings) -> Result<()> {
    let dump: wire::Dump = if settings.store.is_some() {
        transfer::export(&*settings.check(Path::new(STATE_DIR))?.open()?).await?
    } else {
        client::get(socket, "/v1/store").await?
    };
    match file {
        None => output::json(&dump),
        Some(file) => {
            let text = serde_json::to_vec_pretty(&dump)?;
            fs::write(&file, text).with_context(|| file.display().to_string())?;
            output::line(&format!("exported {} keys to {}", dump.entries.len(), file.display()))
        }
    }
}

async fn import(file: &Path, settings: StoreSettings) -> Result<()> {
    if settings.store.is_none() {
        bail!("no store to import into; name it with --store etcd://HOST:PORT");
    }
    let name = || file.display().to_string();
    let text = fs::read(file).with_context(name)?;
    let dump: wire::Dump = serde_json::from_slice(&text).with_context(name)?;
    let at = settings.check(Path::new(STATE_DIR))?;
    let count = transfer::import(&*at.open()?, &dump).await?;
    output::line(&format!("imported {count} keys; start the agents with the new --store"))
}
