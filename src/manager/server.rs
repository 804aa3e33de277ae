//! A running manager: its listeners, its provisioning, and how it stops.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use backon::{BackoffBuilder as _, ExponentialBuilder};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::access::Gate;
use super::api::{self, Shared};
use super::config::Config;
use super::containers::Containers;
use super::legacy;
use super::listener::{Listener, Peer, server_config};
use super::provision::provision;
use super::reconcile::Reconciler;
use crate::http::TlsError;
use crate::marathon::MarathonClient;
use crate::master::MasterClient;
use crate::vnc::VncClient;

/// How long connections may take to end once the manager stops.
const FAREWELL: Duration = Duration::from_secs(5);

/// Why a manager cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An address is in use, or not this machine's.
    #[error(
        "cannot listen on {address}: {error}; see listen and legacy_listen in the configuration"
    )]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        error: io::Error,
    },
    /// A certificate or key is no use.
    #[error("{0}")]
    Tls(#[from] TlsError),
}

/// A running manager. It ends with its runtime, or when it is stopped.
#[derive(Debug)]
pub struct Manager {
    address: SocketAddr,
    legacy_address: Option<SocketAddr>,
    tls: bool,
    containers: Arc<Containers>,
    reconciler: Option<Arc<Reconciler>>,
    unready: watch::Receiver<Option<String>>,
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
        if let Some(follow) = &config.follow {
            MasterClient::new(follow.mesos.clone())?;
            if let Some(marathon) = &follow.marathon {
                MarathonClient::new(marathon.clone())?;
            }
        }
        Ok(())
    }

    /// Listens; provisioning goes on in the background. Port 0 is a free one.
    pub async fn start(config: Config) -> Result<Self, StartError> {
        let client = VncClient::new(config.vnc.clone())?;
        let tls = config.access.tls.as_ref().map(server_config).transpose()?;
        let bind = async |address, tls| {
            let listener = Listener::bind(address, tls).await;
            listener.map_err(|error| StartError::Listen { address, error })
        };
        let is_tls = tls.is_some();
        let listener = bind(config.listen, tls).await?;
        let legacy_listener = match config.legacy_listen {
            None => None,
            Some(address) => Some(bind(address, None).await?),
        };
        let address = local(&listener, config.listen)?;
        let legacy_address = match (&legacy_listener, config.legacy_listen) {
            (Some(listener), Some(asked)) => Some(local(listener, asked)?),
            _ => None,
        };
        warn(&config, address, legacy_address);

        let containers = Containers::new(client.clone(), &config);
        let (ready, unready) = watch::channel(Some("it has just started".to_owned()));
        let stop = CancellationToken::new();
        let requests = TaskTracker::new();
        let shared = Arc::new(Shared {
            containers: containers.clone(),
            gate: Gate::new(&config.access),
            unready: unready.clone(),
            tasks: requests.clone(),
        });
        let mut servers = JoinSet::new();
        serve(&mut servers, listener, api::router(shared.clone()), &stop);
        if let Some(listener) = legacy_listener {
            serve(&mut servers, listener, legacy::router(shared), &stop);
        }
        let mut background = JoinSet::new();
        let tidy = containers.clone();
        background.spawn(async move { tidy.tidy().await });
        let mut reconciler = None;
        if let Some(follow) = &config.follow {
            let mesos = MasterClient::new(follow.mesos.clone())?;
            let marathon = follow.marathon.clone().map(MarathonClient::new);
            let marathon = marathon.transpose()?;
            let (may_write, writes) = watch::channel(true);
            let new = Reconciler::new(containers.clone(), client.clone(), &config, follow, writes);
            reconciler = Some(new.clone());
            let mut unready = unready.clone();
            background.spawn(async move {
                // It may write as long as it runs.
                let _may_write = may_write;
                if unready.wait_for(Option::is_none).await.is_ok() {
                    new.run(mesos, marathon).await;
                }
            });
        }
        background.spawn(provision_until_done(client, config, ready));
        Ok(Self {
            address,
            legacy_address,
            tls: is_tls,
            containers,
            reconciler,
            unready,
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

    /// Where agents ask, as a URL.
    #[must_use]
    pub fn url(&self) -> String {
        let scheme = if self.tls { "https" } else { "http" };
        format!("{scheme}://{}", self.address)
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

    /// Waits until the API server is provisioned, and containers can be made.
    pub async fn ready(&self) {
        // An error is that the manager has ended; it is not getting any readier.
        let _ = self.unready.clone().wait_for(Option::is_none).await;
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
    }
}

fn local(listener: &Listener, asked: SocketAddr) -> Result<SocketAddr, StartError> {
    let local = axum::serve::Listener::local_addr(listener);
    local
        .map(|peer| peer.address)
        .map_err(|error| StartError::Listen {
            address: asked,
            error,
        })
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

async fn provision_until_done(
    client: VncClient,
    config: Config,
    ready: watch::Sender<Option<String>>,
) {
    let mut pauses = ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(500))
        .with_max_delay(Duration::from_secs(30))
        .with_jitter()
        .without_max_times()
        .build();
    loop {
        match provision(&client, &config).await {
            Ok(()) => {
                ready.send_replace(None);
                log::info!("ready");
                // Those who wait for it are told by the value; the channel stays open for them.
                return ready.closed().await;
            }
            Err(error) => {
                log::error!(error:%; "cannot provision; trying again");
                ready.send_replace(Some(format!("it cannot provision: {error}")));
                tokio::time::sleep(pauses.next().unwrap_or_default()).await;
            }
        }
    }
}
