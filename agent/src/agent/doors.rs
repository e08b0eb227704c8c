//! The sockets of the agent: opened here, or handed over by a service manager
//! that keeps them open while the agent restarts.

use std::{os::fd::AsFd, path::PathBuf, sync::Arc};

use anyhow::Result;
use tokio::{
    net::{TcpListener, UnixListener},
    sync::watch,
    task::AbortHandle,
};
use tracing::warn;

use crate::{
    api::server::{self, Agent},
    config::{Config, DockerAt, SOCKET},
    docker::{self, Docker},
    endpoints::Endpoints,
    report::Report,
    sockets::Sockets,
};

/// Ends a task with itself.
pub(super) struct AbortOnDrop(AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// All of them.
pub(super) struct Doors {
    api: Option<UnixListener>,
    metrics: Option<TcpListener>,
    plugin: Option<(DockerAt, UnixListener)>,
    /// Those that are ours to remove in the end.
    own: Vec<PathBuf>,
}

impl Doors {
    /// Opens those that were not handed over.
    pub async fn open(config: &Config) -> Result<Self> {
        let mut handed = Sockets::from_env()?;
        let path = config.run_dir.join(SOCKET);
        let api = handed.take(&path)?;
        let plugin = match &config.docker {
            Some(at) => handed.take(&at.plugin)?,
            None => None,
        };
        handed.finish()?;
        let mut doors = Self { api, metrics: None, plugin: None, own: Vec::new() };
        if doors.api.is_none() {
            doors.api = Some(server::listen(&path, &config.access).await?);
            doors.own.push(path);
        }
        doors.plugin = match (&config.docker, plugin) {
            (Some(at), Some(listener)) => Some((at.clone(), listener)),
            (Some(at), None) => doors.listen_for_docker(at)?,
            (None, _) => None,
        };
        doors.metrics = server::listen_for_metrics(config.metrics).await?;
        Ok(doors)
    }

    /// Opens the socket that Docker calls. Where nobody asked for Docker, one
    /// that cannot be opened is told and no more.
    fn listen_for_docker(&mut self, at: &DockerAt) -> Result<Option<(DockerAt, UnixListener)>> {
        match docker::listen(&at.plugin) {
            Ok(listener) => {
                self.own.push(at.plugin.clone());
                Ok(Some((at.clone(), listener)))
            }
            Err(error) if at.asked => Err(error),
            Err(error) => {
                warn!("cannot open the plugin socket, so Docker on this host cannot use Margay: {error:#}");
                Ok(None)
            }
        }
    }

    /// Tells everybody who asks for something what the agent waits for, until what this
    /// gives is dropped. Docker's calls wait.
    ///
    /// # Errors
    ///
    /// The socket cannot be shared.
    pub fn lobby(&self, waits: watch::Receiver<String>) -> Result<Option<AbortOnDrop>> {
        let Some(api) = &self.api else { return Ok(None) };
        let copy = std::os::unix::net::UnixListener::from(api.as_fd().try_clone_to_owned()?);
        let lobby = server::lobby(UnixListener::from_std(copy)?, waits);
        Ok(Some(AbortOnDrop(tokio::spawn(lobby).abort_handle())))
    }

    /// Serves Docker and keeps in step with it.
    pub fn open_to_docker(
        &mut self,
        endpoints: &Arc<Endpoints>,
        report: &Arc<Report>,
        rounds: &watch::Receiver<u64>,
    ) -> Option<Arc<Docker>> {
        let (at, listener) = self.plugin.take()?;
        let docker = Arc::new(Docker::new(Arc::clone(endpoints), Arc::clone(report), at.patience));
        tokio::spawn(docker::serve(listener, Arc::clone(&docker)));
        tokio::spawn(docker::keep_in_step(Arc::clone(&docker), at.api, rounds.clone()));
        Some(docker)
    }

    /// Serves commands and metrics until the process ends.
    pub async fn serve(&mut self, agent: Arc<Agent>) -> Result<()> {
        // The service manager may now start the services that need the agent.
        if let Err(error) = sd_notify::notify(&[sd_notify::NotifyState::Ready]) {
            warn!("cannot tell the service manager that the agent is ready: {error}");
        }
        let Some(api) = self.api.take() else { return Ok(()) };
        tokio::select! {
            result = server::serve(api, Arc::clone(&agent)) => result,
            result = server::serve_metrics(self.metrics.take(), agent) => result,
        }
    }

    /// Removes what nobody else keeps.
    pub fn close(self) {
        self.own.into_iter().for_each(|path| drop(std::fs::remove_file(path)));
    }
}
