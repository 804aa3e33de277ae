//! The daemon: everything that runs, and in which order it starts and stops.
//!
//! Invariants: one daemon runs on a state directory. What an earlier run knew is applied before any
//! manager has answered. A stop changes nothing on this host.

use std::fs::{File, TryLockError};
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use contrail_mesos::config::{Config, Node};
use contrail_mesos::net::netlink::NetlinkError;
use contrail_mesos_api::agent_api::ManagerSetupError;
use contrail_mesos_api::cluster::{ClusterClient, Versions};
use contrail_mesos_api::http::AllowedHosts;
use nix::errno::Errno;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};

use crate::api::{self, ApiSocket, ApiSocketError, ApiSources, HostFiles};
use crate::blocks::BlockReports;
use crate::cluster_state::ClusterState;
use crate::dns::DnsSubsystem;
use crate::docker::{ConfiguredBridges, DockerRulesSubsystem, DockerSubsystem};
use crate::endpoint_report::{EndpointReporter, Reports};
use crate::engine::Engine;
use crate::groups::{GroupsSetupError, GroupsSubsystem};
use crate::host_side::{HostSideError, HostSideSubsystem};
use crate::local_state::LocalStateSubsystem;
use crate::overlay::OverlaySubsystem;
use crate::report::{ReportOptions, ReportStatus, Reporter};
use crate::service_manager::{self, ServiceManager};
use crate::services::{ServicesSetupError, ServicesSubsystem};
use crate::stored_state::{self, StoredStateError};
use crate::subsystem::Subsystem;
use crate::watch::{Connection, Follower};

/// How long a stop waits for the comparisons in progress.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a dry run waits for the managers.
const DRY_RUN_TIMEOUT: Duration = Duration::from_secs(20);

/// Why the daemon cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Another one runs on the same state directory.
    #[error("another contrail-mesos-node runs with the state directory {}; stop it first", .0.display())]
    Running(PathBuf),
    /// The state directory cannot be used.
    #[error("cannot use the state directory: {}: {error}", path.display())]
    StateDirectory {
        /// The file or directory.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// The client of the managers cannot be set up.
    #[error(transparent)]
    Client(#[from] ManagerSetupError),
    /// The API cannot be served by its unix socket.
    #[error(transparent)]
    Socket(#[from] ApiSocketError),
    /// The API cannot be served by TCP.
    #[error("cannot listen at {address}: {error}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        error: io::Error,
    },
    /// The threads of the subsystems cannot be started.
    #[error("cannot start the threads of the subsystems: {0}")]
    Threads(io::Error),
}

/// Why there is no state to compare with.
#[derive(Debug, thiserror::Error)]
pub enum NoStateError {
    /// The client of the managers cannot be set up.
    #[error(transparent)]
    Client(#[from] ManagerSetupError),
    /// No manager answers, and no earlier run has left a state.
    #[error("no manager sends the cluster's state ({problem}), and no earlier run has left one")]
    NoManager {
        /// What is wrong with the managers.
        problem: String,
    },
}

/// Why the subsystems cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum SubsystemsError {
    /// The subsystem `node-state`.
    #[error("cannot watch the leases of addresses: {0}")]
    Leases(#[from] Errno),
    /// The subsystem `overlay` or one for Docker.
    #[error(transparent)]
    Overlay(#[from] NetlinkError),
    /// The subsystem `host-side`.
    #[error(transparent)]
    HostSide(#[from] HostSideError),
    /// The subsystem `groups`.
    #[error(transparent)]
    Groups(#[from] GroupsSetupError),
    /// The subsystem `services`.
    #[error(transparent)]
    Services(#[from] ServicesSetupError),
}

/// The subsystems of this host, in the network namespace of the calling thread.
pub fn subsystems(config: &Config) -> Result<Vec<Box<dyn Subsystem>>, SubsystemsError> {
    let state_dir = &config.state_dir;
    let mut subsystems: Vec<Box<dyn Subsystem>> = vec![
        Box::new(LocalStateSubsystem::new(state_dir.clone())?),
        Box::new(OverlaySubsystem::new(state_dir)?),
        Box::new(HostSideSubsystem::new(state_dir)?),
        Box::new(GroupsSubsystem::new(
            state_dir,
            &config.node.name,
            !config.node.managers.is_empty(),
        )?),
        Box::new(ServicesSubsystem::new()?),
        Box::new(DockerRulesSubsystem::new(config)?),
        Box::new(DnsSubsystem::new(config)),
    ];
    if let Some(socket) = &config.node.docker {
        subsystems.push(Box::new(DockerSubsystem::new(socket.clone())?));
    }
    Ok(subsystems)
}

/// What the tasks that talk to the managers publish. The channels stay open without them.
#[derive(Clone, Debug)]
struct Publishers {
    states: watch::Sender<Option<Arc<ClusterState>>>,
    connection: watch::Sender<Connection>,
    reports: watch::Sender<ReportStatus>,
}

/// Starts a part of the daemon.
fn spawn(
    tasks: &mut JoinSet<&'static str>,
    name: &'static str,
    part: impl Future<Output = ()> + Send + 'static,
) -> AbortHandle {
    tasks.spawn(async move {
        part.await;
        name
    })
}

/// The running daemon.
#[derive(Debug)]
pub struct Daemon {
    state_dir: PathBuf,
    /// The configuration in force.
    node: Node,
    /// The hash of the file that the whole of it is from.
    configuration: String,
    /// The bridges of its networks.
    bridges: ConfiguredBridges,
    engine: Engine,
    /// The containers of this host on overlays, for the managers.
    endpoint_reports: Reports,
    /// What this host wants of overlays that lend blocks.
    blocks: BlockReports,
    states: watch::Receiver<Option<Arc<ClusterState>>>,
    publishers: Publishers,
    /// Each ends with its name.
    tasks: JoinSet<&'static str>,
    /// Those of the tasks that talk to the managers.
    manager_tasks: Vec<AbortHandle>,
    listen: Option<SocketAddr>,
    /// Whether this process is the service of the daemon alone.
    is_service: bool,
    /// Held for as long as the daemon runs.
    _lock: File,
}

impl Daemon {
    /// Starts the daemon. `configuration` is the hash of the configuration file. Reads files: blocks.
    pub async fn start(
        config: &Config,
        configuration: String,
        subsystems: Vec<Box<dyn Subsystem>>,
    ) -> Result<Self, StartError> {
        Self::start_in(config, configuration, subsystems, true).await
    }

    /// As [`Self::start`], inside a mesos-agent: systemd is not notified, because the state of the
    /// service is that of the agent.
    pub async fn start_in_agent(
        config: &Config,
        configuration: String,
        subsystems: Vec<Box<dyn Subsystem>>,
    ) -> Result<Self, StartError> {
        Self::start_in(config, configuration, subsystems, false).await
    }

    async fn start_in(
        config: &Config,
        configuration: String,
        subsystems: Vec<Box<dyn Subsystem>>,
        is_service: bool,
    ) -> Result<Self, StartError> {
        let started = Instant::now();
        let node = &config.node;
        let lock = lock(&config.state_dir)?;
        let client = node.cluster_client()?;
        let socket = ApiSocket::bind(&node.socket)?;
        let listener = match node.listen {
            Some(address) => Some(listen(address).await?),
            None => None,
        };
        let stored = load(&config.state_dir, &node.name);
        if let Some(state) = &stored {
            let revision = state.revision;
            log::info!(revision:%; "applying the state of the last run until a manager answers");
        }
        let (states_sender, states) = watch::channel(stored.map(Arc::new));
        let groups = subsystems.iter().find_map(|subsystem| subsystem.groups());
        let groups = groups.unwrap_or_default();
        let service_status = subsystems.iter().find_map(|part| part.service_status());
        // Without the subsystem there are no services, and never will be.
        let service_status = service_status.unwrap_or_else(|| watch::channel(Arc::default()).1);
        let services = subsystems.iter().find_map(|subsystem| subsystem.services());
        let dns = subsystems.iter().find_map(|subsystem| subsystem.dns());
        let blocks = subsystems.iter().find_map(|subsystem| subsystem.blocks());
        let blocks = blocks.unwrap_or_else(|| watch::Sender::default().subscribe());
        let engine = Engine::start(subsystems, &states).map_err(StartError::Threads)?;
        let (connection_sender, connection) = watch::channel(Connection::default());
        let (reports_sender, reports) = watch::channel(ReportStatus::default());
        let mut tasks = JoinSet::new();
        spawn(
            &mut tasks,
            "cluster.json",
            stored_state::keep(config.state_dir.clone(), states.clone()),
        );
        let sources = ApiSources {
            node: node.name.clone(),
            states: states.clone(),
            engine: engine.status(),
            connection: connection.clone(),
            reports,
            groups: groups.clone(),
            services: service_status,
            dns: dns.clone(),
            blocks: blocks.clone(),
            host_files: HostFiles::new(config),
            started,
        };
        if let Some(dns) = dns {
            spawn(&mut tasks, "DNS", dns.follow(states.clone(), services));
        }
        let router = api::router(sources);
        let address = listener
            .as_ref()
            .and_then(|listener| listener.local_addr().ok());
        if let Some(listener) = listener {
            let hosts = AllowedHosts::new(&node.allowed_hosts, "");
            let router = api::with_host_check(router.clone(), hosts);
            spawn(&mut tasks, "API by TCP", api::serve_tcp(listener, router));
        }
        spawn(&mut tasks, "API", api::serve_unix(socket, router));
        let service_manager = ServiceManager {
            states: states.clone(),
            engine: engine.status(),
            connection,
        };
        if is_service {
            spawn(&mut tasks, "systemd", service_manager.run());
        }
        let mut daemon = Self {
            state_dir: config.state_dir.clone(),
            node: node.clone(),
            configuration: configuration.clone(),
            bridges: ConfiguredBridges::new(config),
            engine,
            endpoint_reports: groups.report,
            blocks,
            states,
            publishers: Publishers {
                states: states_sender,
                connection: connection_sender,
                reports: reports_sender,
            },
            tasks,
            manager_tasks: vec![],
            listen: address,
            is_service,
            _lock: lock,
        };
        daemon.follow(client, configuration);
        Ok(daemon)
    }

    /// Starts the tasks that talk to the managers, if there are any.
    fn follow(&mut self, client: Option<ClusterClient>, configuration: String) {
        let Some(client) = client else {
            log::warn!("[node] has no managers: what is known stays as it is");
            return;
        };
        let options = ReportOptions {
            address: self.node.address,
            interval: self.node.report_interval,
            versions: versions(),
            configuration,
        };
        let Publishers {
            states,
            connection,
            reports,
        } = self.publishers.clone();
        let endpoints = EndpointReporter::new(client.clone(), self.endpoint_reports.clone());
        let reporter = Reporter::new(
            client.clone(),
            options,
            self.engine.status(),
            endpoints.requests(),
            self.blocks.clone(),
            reports,
        );
        let follower = Follower::new(client, &self.node.name, states, connection);
        let tasks = &mut self.tasks;
        self.manager_tasks = vec![
            spawn(tasks, "reports", reporter.run()),
            spawn(tasks, "reports of endpoints", endpoints.run()),
            spawn(tasks, "watch", follower.run()),
        ];
    }

    /// Applies another configuration, as a whole or not at all: connects to its managers, with the
    /// token and certificates that their files have now. `configuration` is the hash of the file.
    /// Returns the keys that need a restart, which keep their old values. Reads files: blocks.
    pub fn reload(
        &mut self,
        config: &Config,
        configuration: String,
    ) -> Result<Vec<&'static str>, ManagerSetupError> {
        let new = &config.node;
        let old = &self.node;
        let mut restart = vec![];
        for (key, is_changed) in [
            ("state_dir", config.state_dir != self.state_dir),
            ("node.name", new.name != old.name),
            ("node.socket", new.socket != old.socket),
            ("node.listen", new.listen != old.listen),
            ("node.docker", new.docker != old.docker),
            ("node.dns", new.dns != old.dns),
            ("node.allowed_hosts", new.allowed_hosts != old.allowed_hosts),
            // Docker's filter accepts those of the start.
            ("network", ConfiguredBridges::new(config) != self.bridges),
        ] {
            if is_changed {
                restart.push(key);
            }
        }
        let node = Node {
            name: old.name.clone(),
            socket: old.socket.clone(),
            listen: old.listen,
            docker: old.docker.clone(),
            dns: old.dns.clone(),
            allowed_hosts: old.allowed_hosts.clone(),
            ..new.clone()
        };
        let client = node.cluster_client()?;
        self.node = node;
        // The managers know by the hash which file is in force.
        if restart.is_empty() {
            self.configuration = configuration;
        }
        for task in self.manager_tasks.drain(..) {
            task.abort();
        }
        self.publishers.connection.send_modify(|connection| {
            connection.manager = None;
            connection.problem = None;
        });
        self.follow(client, self.configuration.clone());
        Ok(restart)
    }

    /// The address of the API by TCP, if it is served.
    #[must_use]
    pub fn listen(&self) -> Option<SocketAddr> {
        self.listen
    }

    /// Returns when a part of the daemon has ended, which none should: with what has happened.
    pub async fn failed(&mut self) -> String {
        loop {
            return match self.tasks.join_next().await {
                Some(Ok(name)) => format!("the part {name} has ended"),
                // By a reload.
                Some(Err(error)) if error.is_cancelled() => continue,
                Some(Err(error)) => format!("a part has failed: {error}"),
                None => "all parts have ended".to_owned(),
            };
        }
    }

    /// Stops. What the daemon has set up stays.
    pub async fn stop(mut self) {
        if self.is_service {
            service_manager::notify_stopping();
        }
        self.tasks.shutdown().await;
        let Self {
            engine,
            states,
            state_dir,
            ..
        } = self;
        let last = states.borrow().clone();
        let stop = move || {
            engine.stop(STOP_TIMEOUT);
            if let Some(state) = last
                && let Err(error) = stored_state::save(&state_dir, &state)
            {
                let path = stored_state::path(&state_dir);
                log::error!("cannot write {}: {error}", path.display());
            }
        };
        // A panic in it is logged by the runtime; there is nothing left to do.
        let _ = tokio::task::spawn_blocking(stop).await;
    }
}

/// The cluster's state, from a manager or, if none answers, from an earlier run. Reads files: blocks.
pub async fn state_now(config: &Config) -> Result<ClusterState, NoStateError> {
    let stored = load(&config.state_dir, &config.node.name);
    let problem = match config.node.cluster_client()? {
        None => "none is configured".to_owned(),
        Some(client) => match fetch(client, &config.node.name).await {
            Ok(state) => return Ok(state),
            Err(problem) => problem,
        },
    };
    match stored {
        Some(state) => {
            let revision = state.revision;
            log::warn!(revision:%; "no manager sends the cluster's state ({problem}): comparing with that of the last run");
            Ok(state)
        }
        None => Err(NoStateError::NoManager { problem }),
    }
}

async fn fetch(client: ClusterClient, node: &str) -> Result<ClusterState, String> {
    let (sender, mut states) = watch::channel(None);
    let (connection_sender, connection) = watch::channel(Connection::default());
    let follower = Follower::new(client, node, sender, connection_sender);
    tokio::select! {
        () = follower.run() => {}
        () = tokio::time::sleep(DRY_RUN_TIMEOUT) => {}
        _ = states.wait_for(Option::is_some) => {}
    }
    let state = states.borrow().clone();
    if let Some(state) = state {
        return Ok(Arc::unwrap_or_clone(state));
    }
    let problem = connection.borrow().problem.clone();
    Err(problem.unwrap_or_else(|| format!("no answer within {DRY_RUN_TIMEOUT:?}")))
}

fn load(state_dir: &Path, node: &str) -> Option<ClusterState> {
    match stored_state::load(state_dir, node) {
        Ok(state) => Some(state),
        Err(StoredStateError::Missing(_)) => None,
        Err(error) => {
            log::warn!("{error}");
            None
        }
    }
}

/// Locks the state directory.
fn lock(state_dir: &Path) -> Result<File, StartError> {
    let directory = state_dir.join("node");
    let failed = |path: &Path, error| StartError::StateDirectory {
        path: path.to_owned(),
        error,
    };
    std::fs::create_dir_all(&directory).map_err(|error| failed(&directory, error))?;
    let path = directory.join("lock");
    let file = File::options()
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .map_err(|error| failed(&path, error))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(StartError::Running(state_dir.to_owned())),
        Err(TryLockError::Error(error)) => Err(failed(&path, error)),
    }
}

async fn listen(address: SocketAddr) -> Result<TcpListener, StartError> {
    TcpListener::bind(address)
        .await
        .map_err(|error| StartError::Listen { address, error })
}

fn versions() -> Versions {
    let kernel = nix::sys::utsname::uname().ok();
    let kernel = kernel.map(|names| names.release().to_string_lossy().into_owned());
    Versions {
        node: env!("CARGO_PKG_VERSION").to_owned(),
        kernel: kernel.unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use contrail_mesos::config::Source;

    use super::*;
    use crate::testing::cluster;

    fn config(directory: &Path) -> Config {
        let mut config = Config {
            state_dir: directory.to_owned(),
            ..Config::default()
        };
        config.node.name = "node-1".to_owned();
        config.node.socket = directory.join("api.sock");
        config.node.listen = Some(([127, 0, 0, 1], 0).into());
        config
    }

    async fn start(config: &Config) -> Result<Daemon, StartError> {
        let subsystem = LocalStateSubsystem::new(config.state_dir.clone()).unwrap();
        Daemon::start(config, String::new(), vec![Box::new(subsystem)]).await
    }

    #[tokio::test]
    async fn second_daemon_on_a_state_directory_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let config = config(directory.path());
        let first = start(&config).await.unwrap();
        assert!(first.listen().is_some());
        let error = start(&config).await.unwrap_err();
        assert!(matches!(error, StartError::Running(_)), "{error}");
        first.stop().await;
        start(&config).await.unwrap().stop().await;
    }

    #[tokio::test]
    async fn state_of_the_last_run_is_applied_without_managers() {
        let directory = tempfile::tempdir().unwrap();
        let config = config(directory.path());
        let mut state = cluster("3.1");
        // The loopback interface has the address.
        state.nodes.get_mut("node-1").unwrap().address = [127, 0, 0, 1].into();
        stored_state::save(directory.path(), &state).unwrap();
        let daemon = start(&config).await.unwrap();
        let mut status = daemon.engine.status();
        let is_applied =
            |status: &crate::engine::EngineStatus| status.applied() == Some(state.revision);
        status.wait_for(is_applied).await.unwrap();
        daemon.stop().await;
        let written = contrail_mesos::node_state::NodeState::read(directory.path()).unwrap();
        assert_eq!(written.overlay("dcos").unwrap().problem, None);
        assert_eq!(
            stored_state::load(directory.path(), "node-1").unwrap(),
            state
        );
        assert_eq!(state_now(&config).await.unwrap(), state);
    }

    #[tokio::test]
    async fn reload_connects_to_other_managers_or_changes_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let mut config = config(directory.path());
        let mut daemon = start(&config).await.unwrap();
        let mut connection = daemon.publishers.connection.subscribe();
        // Nobody listens there.
        let manager = |text| contrail_mesos_api::http::Address::parse(text, 6990).unwrap();
        config.node.managers = vec![manager("127.0.0.1:1")];
        let restart = daemon.reload(&config, "first".to_owned()).unwrap();
        assert_eq!(restart, [""; 0]);
        assert_eq!(daemon.configuration, "first");
        connection
            .wait_for(|connection| connection.problem.is_some())
            .await
            .unwrap();
        let valid = config.clone();
        config.node.token_file = Some(directory.path().join("missing"));
        config.node.name = "another".to_owned();
        config.node.managers = vec![manager("127.0.0.1:2")];
        assert!(daemon.reload(&config, String::new()).is_err());
        assert_eq!(daemon.node, valid.node);
        config.node.token_file = None;
        config.state_dir = directory.path().join("other");
        config.node.listen = None;
        let file = directory.path().join("agent.toml");
        let network = "[[network]]\nname = \"blue\"\nprovider = \"bridge\"\n\
                       subnet = \"10.1.0.0/24\"\nbridge = \"blue0\"\n";
        std::fs::write(&file, network).unwrap();
        config.networks = Source::file(&file).read().config.unwrap().networks;
        let restart = daemon.reload(&config, "second".to_owned()).unwrap();
        let expected = ["state_dir", "node.name", "node.listen", "network"];
        assert_eq!(restart, expected);
        // Not all of that file is in force.
        assert_eq!(daemon.configuration, "first");
        assert_eq!(daemon.node.name, "node-1");
        assert_eq!(daemon.node.managers, config.node.managers);
        // The tasks that were replaced are no failure.
        let failed = tokio::time::timeout(Duration::ZERO, daemon.failed()).await;
        assert!(failed.is_err(), "{failed:?}");
        config.node.managers.clear();
        daemon.reload(&config, String::new()).unwrap();
        assert_eq!(connection.borrow().manager, None);
        daemon.stop().await;
    }

    #[tokio::test]
    async fn damaged_state_of_the_last_run_is_ignored() {
        let directory = tempfile::tempdir().unwrap();
        let config = config(directory.path());
        stored_state::save(directory.path(), &cluster("3.1")).unwrap();
        std::fs::write(stored_state::path(directory.path()), "{").unwrap();
        let daemon = start(&config).await.unwrap();
        assert_eq!(*daemon.states.borrow(), None);
        daemon.stop().await;
        let error = state_now(&config).await.unwrap_err();
        assert!(matches!(error, NoStateError::NoManager { .. }), "{error}");
    }
}
