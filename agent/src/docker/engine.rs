//! This host's Docker, by its API. Never asked from within a call of the
//! plugin: Docker holds locks while it waits for us.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    path::Path,
    pin::pin,
    time::Duration,
};

use anyhow::{Context, Result};
use bollard::{
    API_DEFAULT_VERSION, Docker,
    models::{
        ContainerSummaryStateEnum, EndpointSettings, EventMessage, Ipam, IpamConfig, NetworkConnectRequest,
        NetworkCreateRequest, NetworkDisconnectRequest,
    },
    query_parameters::{
        EventsOptions, InspectContainerOptions, InspectNetworkOptions, ListContainersOptions,
        ListNetworksOptions,
    },
};
use futures::{Stream, StreamExt, stream::FuturesUnordered};
use ipnet::IpNet;
use tokio::time::{sleep, timeout};

use super::{
    options,
    plan::{DRIVER, Seen},
    pool::{address, cidr},
};
use crate::model::network::{Network, NetworkRequest};

/// Seconds that a request may take. Making a network waits for our own answers.
const DEADLINE: u64 = 20;
/// How long an inspection takes at least of a container that dockerd works on. Others take
/// a few milliseconds.
const LOCKED: Duration = Duration::from_millis(40);
/// How long dockerd may take to answer anything, while it waits for us.
pub const ANSWER: Duration = Duration::from_secs(1);
/// How many containers one request asks for: their ids are in its address, of which dockerd
/// takes a megabyte and the client 64 KB.
const AT_ONCE: usize = 256;
/// What makes a difference to us, of all that happens in Docker.
const EVENTS: [&str; 7] = ["create", "destroy", "connect", "disconnect", "rename", "start", "die"];

/// The pools that Docker has built in: 172.17.0.0/16 to 172.31.0.0/16, and 192.168.0.0/16.
const BUILT_IN: [&str; 5] =
    ["172.17.0.0/16", "172.18.0.0/15", "172.20.0.0/14", "172.24.0.0/13", "192.168.0.0/16"];

/// The way to this host's Docker.
pub struct Engine {
    docker: Docker,
}

/// The containers of a Docker.
#[derive(Clone, Debug, Default)]
pub struct Containers {
    /// The ids of all.
    pub ids: BTreeSet<String>,
    /// Where they are.
    pub places: Vec<Place>,
}

impl Containers {
    /// Names and Docker's ids of the networks that they are on.
    pub fn networks(&self) -> BTreeSet<String> {
        self.places.iter().flat_map(|place| [place.network.clone(), place.on.clone()]).collect()
    }
}

/// A container's place on a network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The container's id.
    pub container: String,
    /// The container's name.
    pub name: String,
    /// Whether the container runs.
    pub running: bool,
    /// Docker's id of the network; empty if the container was connected while it did not
    /// run, and has not started since.
    pub network: String,
    /// What the container calls the network: its name, or its id.
    pub on: String,
    /// Docker's id of the endpoint; empty if there is none now.
    pub endpoint: String,
}

impl Place {
    /// Whether it is on the same network as another place of the container.
    pub fn shares_network(&self, other: &Self) -> bool {
        if self.network.is_empty() {
            self.on == other.on || self.on == other.network
        } else {
            self.network == other.network
        }
    }
}

/// A container that was taken off a network to be put there again.
#[derive(Clone, Debug)]
pub struct Cut {
    /// Where it was.
    pub place: Place,
    /// The addresses that it had.
    pub addresses: Vec<IpAddr>,
    /// What else a user asked for.
    pub settings: EndpointSettings,
}

impl Engine {
    /// Connects, in the version of the API that both sides know.
    pub async fn connect(socket: &Path) -> Result<Self> {
        let path = socket.display().to_string();
        let docker = Docker::connect_with_unix(&path, DEADLINE, API_DEFAULT_VERSION)?;
        Ok(Self { docker: docker.negotiate_version().await? })
    }

    /// Where Docker takes the subnets of its own networks from: `default-address-pools` of
    /// its settings, else what it has built in (libnetwork's `ipamutils`).
    ///
    /// # Errors
    ///
    /// Docker does not answer.
    pub async fn own_pools(&self) -> Result<Vec<IpNet>> {
        let pools = self.docker.info().await.context("docker info")?.default_address_pools;
        let pools = pools.unwrap_or_default().into_iter().filter_map(|pool| pool.base?.parse().ok());
        let pools: Vec<IpNet> = pools.map(|pool: IpNet| pool.trunc()).collect();
        if !pools.is_empty() {
            return Ok(pools);
        }
        Ok(BUILT_IN.iter().filter_map(|pool| pool.parse().ok()).collect())
    }

    /// Tells of everything that may concern us, from a time on in seconds since 1970: what
    /// happens until this is asked for is told, too.
    pub fn events(
        &self,
        since: u64,
    ) -> impl Stream<Item = Result<EventMessage, bollard::errors::Error>> + use<> {
        let filters = [
            ("type".to_owned(), vec!["network".to_owned(), "container".to_owned()]),
            ("event".to_owned(), EVENTS.map(str::to_owned).to_vec()),
        ];
        let filters = Some(filters.into_iter().collect());
        let since = Some(since.to_string());
        self.docker.events(Some(EventsOptions { since, filters, ..EventsOptions::default() }))
    }

    /// All networks.
    pub async fn networks(&self) -> Result<Vec<Seen>> {
        let found = self.docker.list_networks(None::<ListNetworksOptions>).await?;
        Ok(found
            .into_iter()
            .map(|network| {
                let options = network.options.unwrap_or_default();
                let mut seen = Seen {
                    id: network.id.unwrap_or_default(),
                    name: network.name.unwrap_or_default(),
                    driver: network.driver.unwrap_or_default(),
                    labels: network.labels.unwrap_or_default().into_iter().collect(),
                    request: NetworkRequest { unnamed: true, ..NetworkRequest::default() },
                    fault: None,
                };
                if seen.driver == DRIVER {
                    let options = options::from_docker(options, network.internal.unwrap_or_default());
                    let configs = network.ipam.and_then(|ipam| ipam.config).unwrap_or_default();
                    let mut read = options::apply(&options, &mut seen.request);
                    for config in configs {
                        read = read.and_then(|()| add_subnet(&config, &mut seen.request));
                    }
                    // One that an older or newer agent made says nothing of others.
                    seen.fault = read.err().map(|error| format!("{error:#}"));
                }
                seen
            })
            .collect())
    }

    /// All containers, and every container's place on every network.
    pub async fn containers(&self) -> Result<Containers> {
        self.listed(None).await
    }

    /// Some containers, without those that are gone, and their places.
    pub async fn containers_of(&self, ids: &BTreeSet<String>) -> Result<Containers> {
        let mut found = Containers::default();
        let ids: Vec<&String> = ids.iter().collect();
        for some in ids.chunks(AT_ONCE) {
            let Containers { ids, places } = self.listed(Some(some)).await?;
            found.ids.extend(ids);
            found.places.extend(places);
        }
        Ok(found)
    }

    async fn listed(&self, ids: Option<&[&String]>) -> Result<Containers> {
        let filters = ids.map(|ids| [("id".to_owned(), ids.iter().copied().cloned().collect())].into());
        let options = ListContainersOptions { all: true, filters, ..ListContainersOptions::default() };
        let (mut ids, mut places) = (BTreeSet::new(), Vec::new());
        for container in self.docker.list_containers(Some(options)).await? {
            let names = container.names.unwrap_or_default();
            let name = names.first().map(|name| name.trim_start_matches('/').to_owned()).unwrap_or_default();
            let running = container.state == Some(ContainerSummaryStateEnum::RUNNING);
            ids.extend(container.id.clone());
            let networks = container.network_settings.and_then(|settings| settings.networks);
            places.extend(networks.unwrap_or_default().into_iter().map(|(on, settings)| Place {
                on,
                container: container.id.clone().unwrap_or_default(),
                name: name.clone(),
                running,
                network: settings.network_id.unwrap_or_default(),
                endpoint: settings.endpoint_id.unwrap_or_default(),
            }));
        }
        Ok(Containers { ids, places })
    }

    /// Which of these containers dockerd works on: it holds their locks, and an inspection
    /// waits for the lock.
    pub async fn busy(&self, containers: &[String]) -> BTreeSet<String> {
        let mut busy: BTreeSet<String> = containers.iter().cloned().collect();
        let inspect = |id: String| async move {
            // Also one that is gone is not being started.
            drop(self.docker.inspect_container(&id, None::<InspectContainerOptions>).await);
            id
        };
        let mut answers: FuturesUnordered<_> = containers.iter().cloned().map(inspect).collect();
        // A dockerd that is slow is slow for everybody: what it says last it was asked last.
        let rest = async {
            sleep(LOCKED).await;
            self.docker.ping().await
        };
        let mut rest = pin!(timeout(ANSWER, rest));
        loop {
            tokio::select! {
                biased;
                answer = answers.next() => match answer {
                    Some(id) => drop(busy.remove(&id)),
                    None => return busy,
                },
                _ = &mut rest => return busy,
            }
        }
    }

    /// The container of an endpoint, by its id and name.
    pub async fn container_of(&self, network: &str, endpoint: &str) -> Result<Option<(String, String)>> {
        let found = self.docker.inspect_network(network, None::<InspectNetworkOptions>).await?;
        let mut all = found.containers.unwrap_or_default().into_iter();
        let Some((id, one)) = all.find(|(_, one)| one.endpoint_id.as_deref() == Some(endpoint)) else {
            return Ok(None);
        };
        // Before the container is known Docker says `ep-` and the endpoint's id.
        let name = one.name.unwrap_or_default();
        Ok((!id.starts_with("ep-")).then_some((id, name)))
    }

    /// Whether a network has an endpoint. This Docker knows while it starts a
    /// container, whose place it lists only afterwards.
    pub async fn has(&self, network: &str, endpoint: &str) -> Result<bool> {
        let found = match self.docker.inspect_network(network, None::<InspectNetworkOptions>).await {
            Err(bollard::errors::Error::DockerResponseServerError { status_code: 404, .. }) => {
                return Ok(false);
            }
            result => result?,
        };
        let mut all = found.containers.unwrap_or_default().into_values();
        Ok(all.any(|one| one.endpoint_id.as_deref() == Some(endpoint)))
    }

    /// Makes a network of the cluster known to Docker.
    pub async fn create(&self, network: &Network) -> Result<()> {
        let config = network.subnets.iter().map(|subnet| IpamConfig {
            subnet: Some(subnet.cidr.to_string()),
            gateway: Some(subnet.gateway.to_string()),
            ip_range: subnet.range.map(|range| range.to_string()),
            auxiliary_addresses: (!subnet.aux.is_empty())
                .then(|| subnet.aux.iter().map(|(name, addr)| (name.clone(), addr.to_string())).collect()),
        });
        let ipam = Ipam { driver: Some(DRIVER.into()), config: Some(config.collect()), options: None };
        let v6 = network.subnets.iter().any(|subnet| subnet.cidr.addr().is_ipv6());
        let request = NetworkCreateRequest {
            name: network.name.clone(),
            driver: Some(DRIVER.into()),
            internal: Some(network.internal),
            enable_ipv6: Some(v6),
            ipam: Some(ipam),
            options: Some(options::of(network).into_iter().collect()),
            labels: Some(network.runtime.labels.clone().into_iter().collect()),
            ..NetworkCreateRequest::default()
        };
        self.docker.create_network(request).await.map(drop).context("docker network create")
    }

    /// Removes a network. One that is not there is fine.
    pub async fn remove(&self, id: &str) -> Result<()> {
        match self.docker.remove_network(id).await {
            Err(bollard::errors::Error::DockerResponseServerError { status_code: 404, .. }) => Ok(()),
            result => result.context("docker network rm"),
        }
    }

    /// Takes a container off a network, to be put there again as it was.
    pub async fn disconnect(&self, place: &Place) -> Result<Cut> {
        let inspect = self.docker.inspect_container(&place.container, None::<InspectContainerOptions>);
        let networks = inspect.await?.network_settings.and_then(|settings| settings.networks);
        let mut networks = networks.unwrap_or_default().into_values();
        let settings = networks.find(|settings| settings.network_id.as_deref() == Some(&*place.network));
        let settings = settings.context("the container is no longer on the network")?;
        let disconnect = NetworkDisconnectRequest { container: place.container.clone(), force: Some(true) };
        self.docker.disconnect_network(&place.network, disconnect).await?;
        let had = [settings.ip_address, settings.global_ipv6_address];
        // Only what a user asked for is asked for again: Docker pins it, and
        // takes it on networks with a subnet of the user's choice alone.
        let endpoint = EndpointSettings {
            ipam_config: settings.ipam_config,
            aliases: settings.aliases,
            driver_opts: settings.driver_opts,
            ..EndpointSettings::default()
        };
        let addresses = had.into_iter().flatten().filter_map(|addr| addr.parse().ok()).collect();
        Ok(Cut { place: place.clone(), addresses, settings: endpoint })
    }

    /// Puts a container back on a network.
    pub async fn connect_again(&self, cut: &Cut) -> Result<()> {
        let connect = NetworkConnectRequest {
            container: cut.place.container.clone(),
            endpoint_config: Some(cut.settings.clone()),
        };
        Ok(self.docker.connect_network(&cut.place.network, connect).await?)
    }
}

fn add_subnet(config: &IpamConfig, request: &mut NetworkRequest) -> Result<()> {
    let Some(subnet) = config.subnet.as_deref().filter(|text| !text.is_empty()) else { return Ok(()) };
    request.subnets.push(cidr(subnet)?);
    request.gateways.extend(address(config.gateway.as_deref().unwrap_or_default())?);
    if let Some(range) = config.ip_range.as_deref().filter(|text| !text.is_empty()) {
        request.ranges.push(cidr(range)?.trunc());
    }
    let aux: BTreeMap<_, _> = config.auxiliary_addresses.clone().unwrap_or_default().into_iter().collect();
    for (name, addr) in aux {
        request.aux.extend(address(&addr)?.map(|addr| (name, addr)));
    }
    Ok(())
}

/// The next event; `None` where the stream has ended.
pub async fn next<S: Stream<Item = Result<EventMessage, bollard::errors::Error>> + Unpin>(
    events: &mut S,
) -> Option<EventMessage> {
    events.next().await?.ok()
}
