//! Starts and stops a manager: its listeners, APIs and background tasks.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use axum::Router;
use axum::middleware::from_fn_with_state;
use rustls::ServerConfig;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::admin::metrics::{MetricSources, Metrics, measure};
use super::admin::{self, AdminState};
use super::api::auth::Authenticator;
use super::api::{self, ApiState};
use super::cluster::Cluster;
use super::config::Config;
use super::contrail::Contrail;
use super::election::Election;
use super::fence::Fence;
use super::lead::{Readiness, lead};
use super::listener::{Allotment, AllowedHosts, Connections, Listener, Serving, server_config};
use super::log_gate::LogGate;
use super::provision::provision;
use super::reconcile::{Reconciler, Sources};
use super::reload::Reloadable;
use super::services::{self, ComputeServices, Services};
use crate::vnc::VncClient;
use contrail_mesos_api::agent_api;
use contrail_mesos_api::http::{Address, TlsError};

/// How long open connections may last once the manager stops.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(5);
/// How often refused requests of one address are logged.
const REFUSAL_LOG_INTERVAL: Duration = Duration::from_secs(30);
/// Time for the last responses to be sent after a slow shutdown.
const LAST_RESPONSES_DELAY: Duration = Duration::from_millis(100);

/// Why a manager cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An address is in use, or not an address of this machine.
    #[error(
        "cannot listen on {address}: {error}; see listen, legacy_listen and admin_listen in the \
         configuration"
    )]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        error: std::io::Error,
    },
    /// The listening address cannot be advertised to other managers.
    #[error("{0:?} is not a manager's URL; write advertise in [zookeeper]")]
    Advertise(String),
    /// A certificate or key is invalid.
    #[error("{0}")]
    Tls(#[from] TlsError),
}

/// A running manager. It ends with its runtime, or when it is stopped.
#[derive(Debug)]
pub struct Manager {
    address: SocketAddr,
    legacy_address: Option<SocketAddr>,
    admin_address: Option<SocketAddr>,
    tls: bool,
    contrail: Option<Contrail>,
    reloadable: Reloadable,
    fence: Fence,
    election: Option<Election>,
    ready: watch::Receiver<Readiness>,
    stop: CancellationToken,
    requests: TaskTracker,
    servers: JoinSet<()>,
    background: JoinSet<()>,
}

impl Manager {
    /// Checks what a start needs besides a valid configuration: certificates and keys. Reads files,
    /// which blocks.
    pub fn check(config: &Config) -> Result<(), TlsError> {
        config.vnc.clone().map(VncClient::new).transpose()?;
        if let Some(tls) = &config.access.tls {
            server_config(tls)?;
        }
        config.follow.as_ref().map(Sources::new).transpose()?;
        Ok(())
    }

    /// Listens and starts the background tasks; provisioning is one of them. Port 0 picks a free port.
    pub async fn start(config: Config) -> Result<Self, StartError> {
        Self::start_with(config, services::compute()).await
    }

    /// The same with another function that computes services.
    pub(crate) async fn start_with(
        config: Config,
        compute: ComputeServices,
    ) -> Result<Self, StartError> {
        let listeners = Listeners::bind(&config).await?;
        listeners.warn_if_insecure(&config);
        let address = listeners.agents.address;
        let legacy_address = listeners.legacy.as_ref().map(|bound| bound.address);
        let admin_address = listeners.admin.as_ref().map(|bound| bound.address);
        let tls = listeners.tls.clone();

        let (ready_sender, ready) = watch::channel(Readiness::none());
        let mut background = JoinSet::new();
        let (app, election) = App::new(&config, &listeners, ready, compute, &mut background)?;
        let stop = CancellationToken::new();
        let servers = app.serve(&config, listeners, &stop);

        let App {
            contrail,
            cluster,
            services,
            fence,
            authenticator,
            ready,
            requests,
            metrics,
            ..
        } = app;
        let reloadable = Reloadable {
            config: Arc::new(Mutex::new(config)),
            authenticator,
            tls: tls.clone(),
            connections: metrics.connections().clone(),
            contrail: contrail.clone(),
            cluster: cluster.clone(),
            services,
            provision: Arc::new(Notify::new()),
        };
        let current = reloadable.config.clone();
        let client = contrail.as_ref().map(|contrail| contrail.client.clone());
        let before_leading = move |term, is_regained: bool| {
            let config = current.lock().unwrap_or_else(PoisonError::into_inner);
            let (client, cluster, config) = (client.clone(), cluster.clone(), config.clone());
            async move {
                if let Some(client) = client.filter(|_| !is_regained) {
                    provision(&client, &config).await?;
                }
                if let Some(cluster) = cluster {
                    cluster.begin(term).await?;
                }
                Ok(())
            }
        };
        let again = reloadable.provision.clone();
        background.spawn(lead(fence.clone(), ready_sender, again, before_leading));
        Ok(Self {
            address,
            legacy_address,
            admin_address,
            tls: tls.is_some(),
            contrail,
            reloadable,
            fence,
            election,
            ready,
            stop,
            requests,
            servers,
            background,
        })
    }

    /// The address of the API for agents.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The address of the API for CNI plugins of Contrail's own manager.
    #[must_use]
    pub fn legacy_address(&self) -> Option<SocketAddr> {
        self.legacy_address
    }

    /// The address of the admin listener.
    #[must_use]
    pub fn admin_address(&self) -> Option<SocketAddr> {
        self.admin_address
    }

    /// Tells whether this manager leads, and guards its writes.
    #[must_use]
    pub fn fence(&self) -> &Fence {
        &self.fence
    }

    /// The URL of the API for agents.
    #[must_use]
    pub fn url(&self) -> String {
        url(self.address, self.tls)
    }

    /// What manages the objects of containers; none without a table `[vnc]`.
    #[must_use]
    pub fn contrail(&self) -> Option<&Contrail> {
        self.contrail.as_ref()
    }

    /// The reconciler; none without the tables `[vnc]` and `[mesos]`.
    #[must_use]
    pub fn reconciler(&self) -> Option<&Arc<Reconciler>> {
        self.contrail.as_ref()?.reconciler.as_ref()
    }

    /// Applies a new configuration as a whole or not at all. Returns the changed keys that need a
    /// restart. Reads files, which blocks.
    pub fn reload(&self, config: &Config) -> Result<Vec<&'static str>, TlsError> {
        config.vnc.clone().map(VncClient::new).transpose()?;
        self.reloadable.reload(config)
    }

    /// Waits until this manager serves requests: it leads and has provisioned the API server.
    pub async fn ready(&self) {
        let mut ready = self.ready.clone();
        // An error means that the manager has ended, so there is nothing to wait for.
        let _ = ready.wait_for(|ready| ready.unready.is_none()).await;
    }

    /// Stops accepting connections, and ends when all requests have been handled.
    pub async fn stop(mut self) {
        self.stop.cancel();
        // A connection ends with its request, but a client may never complete one.
        let servers = async { while self.servers.join_next().await.is_some() {} };
        let late = tokio::time::timeout(SHUTDOWN_TIMEOUT, servers)
            .await
            .is_err();
        self.requests.close();
        self.requests.wait().await;
        if late {
            tokio::time::sleep(LAST_RESPONSES_DELAY).await;
        }
        self.servers.shutdown().await;
        self.background.shutdown().await;
        // Last, because until here the manager may write.
        if let Some(election) = self.election {
            election.resign().await;
        }
    }
}

fn url(address: SocketAddr, tls: bool) -> String {
    let scheme = if tls { "https" } else { "http" };
    format!("{scheme}://{address}")
}

fn advertise(address: SocketAddr, tls: bool) -> Result<Address, StartError> {
    let url = url(address, tls);
    agent_api::manager_address(&url).map_err(|_| StartError::Advertise(url))
}

/// A listening socket and its address.
struct Bound {
    listener: Listener,
    address: SocketAddr,
}

impl Bound {
    async fn bind(
        address: SocketAddr,
        tls: Option<watch::Receiver<Arc<ServerConfig>>>,
    ) -> Result<Self, StartError> {
        let failed = |error| StartError::Listen { address, error };
        let listener = Listener::bind(address, tls).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        Ok(Self { listener, address })
    }

    async fn bind_plain(address: Option<SocketAddr>) -> Result<Option<Self>, StartError> {
        match address {
            Some(address) => Self::bind(address, None).await.map(Some),
            None => Ok(None),
        }
    }
}

/// The sockets of all APIs.
struct Listeners {
    agents: Bound,
    legacy: Option<Bound>,
    admin: Option<Bound>,
    /// Replaces the TLS configuration of the API for agents.
    tls: Option<watch::Sender<Arc<ServerConfig>>>,
    certificate_expiry: Option<i64>,
}

impl Listeners {
    async fn bind(config: &Config) -> Result<Self, StartError> {
        let tls = config.access.tls.as_ref().map(server_config).transpose()?;
        let certificate_expiry = tls.as_ref().and_then(|tls| tls.certificate_expiry);
        let tls = tls.map(|tls| watch::Sender::new(tls.config));
        let receiver = tls.as_ref().map(watch::Sender::subscribe);
        Ok(Self {
            agents: Bound::bind(config.listen, receiver).await?,
            legacy: Bound::bind_plain(config.legacy_listen).await?,
            admin: Bound::bind_plain(config.admin_listen).await?,
            tls,
            certificate_expiry,
        })
    }

    fn warn_if_insecure(&self, config: &Config) {
        let address = self.agents.address;
        let plain = self.tls.is_none();
        if plain && !config.access.tokens.is_empty() && !address.ip().is_loopback() {
            log::warn!(address:%; "agents send their token unencrypted; configure [tls]");
        }
        let legacy = self.legacy.as_ref().map(|bound| bound.address);
        if let Some(address) = legacy.filter(|address| !address.ip().is_loopback()) {
            log::warn!(address:%; "everyone who reaches legacy_listen can change every container");
        }
    }
}

/// What the APIs share.
struct App {
    contrail: Option<Contrail>,
    cluster: Option<Arc<Cluster>>,
    services: Option<Arc<Services>>,
    fence: Fence,
    /// The URL by which agents and other managers know this one.
    url: String,
    elected: bool,
    ready: watch::Receiver<Readiness>,
    authenticator: Arc<Authenticator>,
    requests: TaskTracker,
    metrics: Arc<Metrics>,
}

impl App {
    fn new(
        config: &Config,
        listeners: &Listeners,
        ready: watch::Receiver<Readiness>,
        compute: ComputeServices,
        background: &mut JoinSet<()>,
    ) -> Result<(Self, Option<Election>), StartError> {
        let (election, fence, url) =
            elect(config, listeners.agents.address, listeners.tls.is_some())?;
        let vnc = config.vnc.as_ref();
        let contrail = vnc
            .map(|vnc| Contrail::start(vnc, config, &fence, &ready, background))
            .transpose()?;
        let services = Services::start(config, contrail.as_ref(), compute, &ready, background)?;
        let cluster = Cluster::start(config, &fence, services.clone(), background);
        let metrics = Metrics::new(MetricSources {
            contrail: contrail.clone(),
            cluster: cluster.clone(),
            services: services.clone(),
            fence: fence.clone(),
            ready: ready.clone(),
        });
        metrics
            .connections()
            .set_certificate_expiry(listeners.certificate_expiry);
        let app = Self {
            contrail,
            cluster,
            services,
            fence,
            url,
            elected: election.is_some(),
            ready,
            authenticator: Arc::new(Authenticator::new(&config.access)),
            requests: TaskTracker::new(),
            metrics,
        };
        Ok((app, election))
    }

    /// Serves all APIs until `stop` is cancelled.
    fn serve(
        &self,
        config: &Config,
        listeners: Listeners,
        stop: &CancellationToken,
    ) -> JoinSet<()> {
        let measured = |router: Router, api| {
            router.layer(from_fn_with_state((self.metrics.clone(), api), measure))
        };
        let state = Arc::new(ApiState {
            authenticator: self.authenticator.clone(),
            ready: self.ready.clone(),
            leadership: self.fence.leadership(),
            tasks: self.requests.clone(),
            body_timeout: config.connections.body_timeout,
            refusals: LogGate::new(REFUSAL_LOG_INTERVAL),
            stop: stop.clone(),
        });
        let containers = self
            .contrail
            .as_ref()
            .map(|contrail| contrail.containers.clone());
        let allotment = Allotment::new(config);
        let hosts = AllowedHosts::new(&config.allowed_hosts, &self.url);
        let mut servers = JoinSet::new();
        let mut serve = |bound: Bound, api: &'static str, limits, router: Router| {
            let metrics = self.metrics.connections().clone();
            let serving = Serving {
                router,
                connections: Connections::new(api, limits, metrics),
                idle_timeout: config.connections.idle_timeout,
                stop: stop.clone(),
            };
            servers.spawn(bound.listener.serve(serving));
        };
        let agents = api::agents::router(
            state.clone(),
            containers.clone(),
            self.cluster.clone(),
            hosts.clone(),
        );
        let agents = measured(agents, "agents");
        serve(listeners.agents, "agents", allotment.agents, agents);
        // The configuration has it only together with [vnc].
        if let Some((bound, containers)) = listeners.legacy.zip(containers) {
            let legacy = api::legacy::router(state, containers, hosts.clone());
            let legacy = measured(legacy, "legacy");
            serve(bound, "legacy", allotment.legacy, legacy);
        }
        if let Some(bound) = listeners.admin {
            let state = Arc::new(AdminState {
                fence: self.fence.clone(),
                ready: self.ready.clone(),
                metrics: self.metrics.clone(),
                contrail: self.contrail.clone(),
                cluster: self.cluster.clone(),
                services: self.services.clone(),
                cluster_name: config.defaults.cluster.clone(),
                url: self.url.clone(),
                address: bound.address,
                elected: self.elected,
                started: SystemTime::now(),
            });
            let admin = admin::router(state, hosts, config.connections.body_timeout);
            serve(bound, "admin", allotment.admin, admin);
        }
        servers
    }
}

/// Becomes a candidate if ZooKeeper is configured; otherwise this manager always leads. Returns also
/// the URL by which this manager is known.
fn elect(
    config: &Config,
    address: SocketAddr,
    is_tls: bool,
) -> Result<(Option<Election>, Fence, String), StartError> {
    let Some(zookeeper) = config.zookeeper.clone() else {
        return Ok((None, Fence::alone(), url(address, is_tls)));
    };
    let advertised = match zookeeper.advertise.clone() {
        Some(url) => url,
        None => advertise(address, is_tls)?,
    };
    let url = advertised.to_string();
    let (election, fence) = Election::start(zookeeper, advertised);
    Ok((Some(election), fence, url))
}
