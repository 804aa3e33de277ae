//! A running manager: its listeners, its provisioning, and how it stops.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use axum::middleware::from_fn_with_state;
use rustls::ServerConfig;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::access::Gate;
use super::admin::metrics::{MetricSources, Metrics, measure};
use super::admin::{self, AdminState};
use super::api::{self, Shared};
use super::config::Config;
use super::containers::Containers;
use super::election::Election;
use super::fence::Fence;
use super::lead::{Readiness, lead};
use super::legacy;
use super::listener::{Listener, Peer, server_config};
use super::provision::provision;
use super::reconcile::{Reconciler, Sources};
use super::reload::Live;
use crate::vnc::VncClient;
use contrail_mesos_api::agent_api;
use contrail_mesos_api::http::{Address, TlsError};

/// How long connections may take to end once the manager stops.
const FAREWELL: Duration = Duration::from_secs(5);

/// Why a manager cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An address is in use, or not this machine's.
    #[error(
        "cannot listen on {address}: {error}; see listen, legacy_listen and admin_listen in the \
         configuration"
    )]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        error: io::Error,
    },
    /// Other managers cannot be told where this one is.
    #[error("{0:?} is no manager's address; write advertise in [zookeeper]")]
    Advertise(String),
    /// A certificate or key is no use.
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
    containers: Arc<Containers>,
    reconciler: Option<Arc<Reconciler>>,
    live: Live,
    fence: Fence,
    election: Option<Election>,
    ready: watch::Receiver<Readiness>,
    stop: CancellationToken,
    requests: TaskTracker,
    servers: JoinSet<io::Result<()>>,
    background: JoinSet<()>,
}

impl Manager {
    /// Checks what a start would need besides the configuration: certificates and keys. Blocks
    /// on the file system.
    pub fn check(config: &Config) -> Result<(), TlsError> {
        VncClient::new(config.vnc.clone())?;
        if let Some(tls) = &config.access.tls {
            server_config(tls)?;
        }
        config.follow.as_ref().map(Sources::new).transpose()?;
        Ok(())
    }

    /// Listens; provisioning goes on in the background. Port 0 is a free one.
    pub async fn start(config: Config) -> Result<Self, StartError> {
        let client = VncClient::new(config.vnc.clone())?;
        let tls = config.access.tls.as_ref().map(server_config).transpose()?;
        let is_tls = tls.is_some();
        let tls = tls.map(watch::Sender::new);
        let (listener, address) =
            bind(config.listen, tls.as_ref().map(watch::Sender::subscribe)).await?;
        let (legacy_listener, legacy_address) = bind_plain(config.legacy_listen).await?;
        let (admin_listener, admin_address) = bind_plain(config.admin_listen).await?;
        warn(&config, address, legacy_address);

        let (election, fence, own_url) = elect(&config, address, is_tls)?;
        let containers = Containers::fenced(client.clone(), &config, fence.clone());
        let (sender, ready) = watch::channel(Readiness::none());
        let stop = CancellationToken::new();
        let requests = TaskTracker::new();
        let mut background = JoinSet::new();
        let reconciler = reconcile(&mut background, &containers, &client, &config, &ready)?;
        let metrics = Metrics::new(MetricSources {
            client: client.clone(),
            containers: containers.clone(),
            fence: fence.clone(),
            ready: ready.clone(),
            reconciler: reconciler.clone(),
        });
        let gate = Arc::new(Gate::new(&config.access));
        let shared = Arc::new(Shared {
            containers: containers.clone(),
            gate: gate.clone(),
            ready: ready.clone(),
            leadership: fence.leadership(),
            tasks: requests.clone(),
        });
        let mut servers = JoinSet::new();
        let measured = |router: axum::Router, api| {
            router.layer(from_fn_with_state((metrics.clone(), api), measure))
        };
        let agents = measured(api::router(shared.clone()), "agents");
        serve(&mut servers, listener, agents, &stop);
        if let Some(listener) = legacy_listener {
            let legacy = measured(legacy::router(shared), "legacy");
            serve(&mut servers, listener, legacy, &stop);
        }
        if let Some(listener) = admin_listener {
            let state = AdminState {
                fence: fence.clone(),
                ready: ready.clone(),
                metrics,
                containers: containers.clone(),
                reconciler: reconciler.clone(),
                client: client.clone(),
                cluster: config.defaults.cluster.clone(),
                url: own_url,
                elected: election.is_some(),
                started: SystemTime::now(),
            };
            serve(
                &mut servers,
                listener,
                admin::router(Arc::new(state)),
                &stop,
            );
        }
        let rollbacks = containers.clone();
        background.spawn(async move { rollbacks.run_rollbacks().await });
        let live = Live {
            config: Arc::new(Mutex::new(config)),
            gate,
            tls,
            reconciler: reconciler.clone(),
            provision: Arc::new(Notify::new()),
        };
        let in_force = live.config.clone();
        let before_leading = move |_term| {
            let config = in_force.lock().unwrap_or_else(PoisonError::into_inner);
            let (client, config) = (client.clone(), config.clone());
            async move { Ok(provision(&client, &config).await?) }
        };
        let again = live.provision.clone();
        background.spawn(lead(fence.clone(), sender, again, before_leading));
        Ok(Self {
            address,
            legacy_address,
            admin_address,
            tls: is_tls,
            containers,
            reconciler,
            live,
            fence,
            election,
            ready,
            stop,
            requests,
            servers,
            background,
        })
    }

    /// Where agents ask.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where CNI plugins of Contrail's own manager ask.
    #[must_use]
    pub fn legacy_address(&self) -> Option<SocketAddr> {
        self.legacy_address
    }

    /// Where operators and what watches over the manager ask.
    #[must_use]
    pub fn admin_address(&self) -> Option<SocketAddr> {
        self.admin_address
    }

    /// Whether this manager writes, and what keeps everything else from it.
    #[must_use]
    pub fn fence(&self) -> &Fence {
        &self.fence
    }

    /// Where agents ask, as a URL.
    #[must_use]
    pub fn url(&self) -> String {
        url(self.address, self.tls)
    }

    /// The writer behind the API.
    #[must_use]
    pub fn containers(&self) -> &Arc<Containers> {
        &self.containers
    }

    /// What keeps the VNC API true, where something is followed.
    #[must_use]
    pub fn reconciler(&self) -> Option<&Arc<Reconciler>> {
        self.reconciler.as_ref()
    }

    /// Takes over what of a new configuration can change while the manager runs, or nothing of it.
    /// Says of which keys the new values need a restart. Blocks on the file system.
    pub fn reload(&self, config: &Config) -> Result<Vec<&'static str>, TlsError> {
        VncClient::new(config.vnc.clone())?;
        self.live.reload(config)
    }

    /// Waits until this manager leads, the API server is provisioned, and containers can be made.
    pub async fn ready(&self) {
        let mut ready = self.ready.clone();
        // An error is that the manager has ended; it is not getting any readier.
        let _ = ready.wait_for(|ready| ready.unready.is_none()).await;
    }

    /// Accepts nothing more, and ends when what is under way is done.
    pub async fn stop(mut self) {
        self.stop.cancel();
        // Connections end as soon as their requests do; one that sends half a request does not.
        let servers = async { while self.servers.join_next().await.is_some() {} };
        let late = tokio::time::timeout(FAREWELL, servers).await.is_err();
        self.requests.close();
        self.requests.wait().await;
        if late {
            // Time for the last answers to leave.
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        self.servers.shutdown().await;
        self.background.shutdown().await;
        // Last, for until now it writes.
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

async fn bind(
    address: SocketAddr,
    tls: Option<watch::Receiver<Arc<ServerConfig>>>,
) -> Result<(Listener, SocketAddr), StartError> {
    let failed = |error| StartError::Listen { address, error };
    let listener = Listener::bind(address, tls).await.map_err(failed)?;
    let local = axum::serve::Listener::local_addr(&listener).map_err(failed)?;
    Ok((listener, local.address))
}

async fn bind_plain(
    address: Option<SocketAddr>,
) -> Result<(Option<Listener>, Option<SocketAddr>), StartError> {
    let Some(address) = address else {
        return Ok((None, None));
    };
    let (listener, local) = bind(address, None).await?;
    Ok((Some(listener), Some(local)))
}

fn warn(config: &Config, address: SocketAddr, legacy: Option<SocketAddr>) {
    let plain = config.access.tls.is_none();
    if plain && !config.access.tokens.is_empty() && !address.ip().is_loopback() {
        log::warn!(address:%; "agents' tokens travel unencrypted; [tls] in the configuration mends that");
    }
    if let Some(address) = legacy.filter(|address| !address.ip().is_loopback()) {
        log::warn!(address:%; "whoever reaches legacy_listen may touch every container");
    }
}

fn serve(
    servers: &mut JoinSet<io::Result<()>>,
    listener: Listener,
    router: axum::Router,
    stop: &CancellationToken,
) {
    let service = router.into_make_service_with_connect_info::<Peer>();
    let stopped = stop.clone().cancelled_owned();
    servers.spawn(async move {
        axum::serve(listener, service)
            .with_graceful_shutdown(stopped)
            .await
    });
}

/// A candidate for the lead where a ZooKeeper is configured, and by what URL this manager is
/// known; without one it leads alone.
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
    let known_as = advertised.to_string();
    let (election, fence) = Election::start(zookeeper, advertised);
    Ok((Some(election), fence, known_as))
}

/// Begins to keep the VNC API true, where something is followed.
fn reconcile(
    background: &mut JoinSet<()>,
    containers: &Arc<Containers>,
    client: &VncClient,
    config: &Config,
    ready: &watch::Receiver<Readiness>,
) -> Result<Option<Arc<Reconciler>>, TlsError> {
    let Some(follow) = &config.follow else {
        return Ok(None);
    };
    let sources = Sources::new(follow)?;
    let (may_write, writes) = watch::channel(false);
    let reconciler = Reconciler::new(containers.clone(), client.clone(), config, follow, writes);
    let running = reconciler.clone();
    let mut readiness = ready.clone();
    background.spawn(async move {
        // A standby follows nothing: whoever comes to lead lists before it writes.
        let is_ready = |ready: &Readiness| ready.unready.is_none();
        if readiness.wait_for(is_ready).await.is_err() {
            return;
        }
        let allow = async {
            loop {
                may_write.send_replace(readiness.borrow_and_update().unready.is_none());
                if readiness.changed().await.is_err() {
                    return;
                }
            }
        };
        tokio::join!(running.run(sources), allow);
    });
    Ok(Some(reconciler))
}
