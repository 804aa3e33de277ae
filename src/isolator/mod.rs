//! The isolator `network/contrail`: recover, then prepare → isolate → status → cleanup for each
//! container. Knows no netlink and no HTTP.
//!
//! # Guarantees
//! - Every step has a deadline, because the agent itself waits forever.
//! - A step that has started runs to its end even if the agent no longer waits for it, and a later
//!   step of the same container waits for it. A cleanup therefore sees everything that was created.
//! - `status` answers from memory.
//! - `recover` never fails: a checkpoint that cannot be read is moved aside and reported.
//! - A failure affects one container only.
//!
//! Only containers with networks of their own are tracked. Containers that join another's network
//! or use the host's have nothing to clean up.

mod attached;
pub mod attacher;
pub mod checkpoint;
mod container;
mod error;
mod etc_files;
mod etc_storage;
mod hook;
mod host_ports;
pub mod host_resolver;
mod launch;
mod recover;
mod target;
mod unknown;

use std::borrow::Borrow as _;
use std::path::Path;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use futures::future::join_all;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

pub use self::attached::AttachedContainers;
use self::attacher::{Attacher, Target};
use self::checkpoint::{Checkpoint, ExecutorKey, Owner};
use self::container::{Container, Containers, NamespaceOwner, NetworkState, lock};
pub use self::error::IsolatorError;
use crate::config::{Config, ConfigError, ConfigProblem, Deadlines, Source};
use crate::network_request;
use crate::preflight::{self, Report};
use crate::proto::mesos::slave::{
    ContainerClass, ContainerConfig, ContainerLaunchInfo, ContainerLimitation,
};
use crate::proto::mesos::{ContainerInfo, ContainerStatus, ExecutorInfo, ResourceStatistics};
use crate::provider::{LostInterface, Statistics};
use contrail_mesos_api::container::ContainerId;

/// `TaskStatus.Reason` of a container that lost its network: `REASON_CONTAINER_LIMITATION`.
const REASON_CONTAINER_LIMITATION: i32 = 19;

/// The isolator of one agent. All asynchronous calls need a tokio runtime.
pub struct Isolator {
    source: Source,
    deadlines: Deadlines,
    attacher: Attacher,
    containers: Mutex<Containers>,
}

impl Isolator {
    /// Creates the isolator from the module's parameters. Blocks on the configuration file.
    ///
    /// Must be called inside a tokio runtime: it spawns the task that waits for lost interfaces.
    pub fn new(parameters: &[(String, String)]) -> Result<Arc<Self>, ConfigError> {
        let source = Source::from_parameters(parameters);
        if !nix::unistd::geteuid().is_root() {
            let mut problems = source.err().map_or_else(Vec::new, |error| error.problems);
            problems.push(isolator_problem(
                "needs root to create interfaces: run the agent as root, or remove \
                 network/contrail from --isolation"
                    .to_owned(),
            ));
            return Err(problems.into());
        }
        let source = source?;
        let Report {
            config,
            refusals,
            warnings,
            notes: _,
        } = preflight::check(&source, preflight::Scope::Agent);
        let config = config?;
        for problem in &refusals {
            log::error!("launches on this network are refused: {problem}");
        }
        let warnings = warnings.iter().chain(&config.cni_problems);
        for problem in warnings.chain(&config.cni_ignored) {
            log::warn!("{problem}");
        }
        report_start(&config, &source);
        let (sender, lost) = unbounded_channel();
        let attacher = Attacher::new(&config, sender)
            .map_err(|error| ConfigError::from(isolator_problem(error.to_string())))?;
        let isolator = Arc::new(Self {
            deadlines: config.deadlines,
            attacher,
            source,
            containers: Mutex::default(),
        });
        tokio::spawn(limit_lost(Arc::downgrade(&isolator), lost));
        Ok(isolator)
    }

    fn container(&self, id: &ContainerId) -> Option<Arc<Container>> {
        lock(&self.containers).get(id.borrow()).cloned()
    }

    fn namespace_owner(&self, id: &ContainerId) -> Option<NamespaceOwner> {
        lock(&self.containers).namespace_owner(id)
    }

    fn executor_container(&self, executor: &ExecutorKey) -> Option<Arc<Container>> {
        lock(&self.containers).by_executor(executor).cloned()
    }

    fn insert(&self, container: Arc<Container>) {
        lock(&self.containers).insert(container);
    }

    fn remove(&self, id: &ContainerId) {
        lock(&self.containers).remove(id);
    }

    /// How to launch the container; `None` if it needs nothing from us.
    ///
    /// A container that requests networks is reserved addresses, and its intent is on its way to
    /// the disk when this returns.
    pub async fn prepare(
        self: &Arc<Self>,
        id: &ContainerId,
        config: ContainerConfig,
    ) -> Result<Option<ContainerLaunchInfo>, IsolatorError> {
        if let Some(parent) = id.parent() {
            let is_debug = config.container_class() == ContainerClass::Debug;
            if is_debug || !requests_networks(&config) {
                return self.prepare_joining(&parent, &config, is_debug);
            }
        } else if !requests_networks(&config) {
            return prepare_host_network(&config);
        }
        let isolator = self.clone();
        let container = id.clone();
        let prepared = step("prepare", self.deadlines.prepare, async move {
            isolator.prepare_own_networks(container, config).await
        })
        .await;
        if let Err(error) = &prepared {
            log::error!(container:% = id, error:% = error; "prepare failed");
        }
        prepared.map(Some)
    }

    async fn prepare_own_networks(
        &self,
        id: ContainerId,
        config: ContainerConfig,
    ) -> Result<ContainerLaunchInfo, IsolatorError> {
        if self.container(&id).is_some() {
            return Err(IsolatorError::AlreadyAttached(id.to_string()));
        }
        let executor = executor_key(config.executor_info.as_ref());
        let container = Arc::new(Container::new(
            id.clone(),
            executor,
            NetworkState::default(),
        ));
        let _guard = container.lock.lock().await;
        self.insert(container.clone());
        let prepared = self.reserve(&container, &config).await;
        if prepared.is_err() && container.state().checkpoint.is_none() {
            self.remove(&id);
        }
        prepared
    }

    async fn reserve(
        &self,
        container: &Container,
        container_config: &ContainerConfig,
    ) -> Result<ContainerLaunchInfo, IsolatorError> {
        let source = self.source.clone();
        let config = tokio::task::spawn_blocking(move || source.load()).await??;
        let request = match &container_config.container_info {
            Some(info) => network_request::parse(&container.id, info, &config)?,
            None => network_request::parse(&container.id, &ContainerInfo::default(), &config)?,
        };
        host_ports::check(&request, &container_config.resources, &config.allowed_ports)?;
        let executor = container.executor.clone();
        let checkpoint = self
            .attacher
            .reserve(&request, &container.id, Owner::Agent, executor)
            .await?;
        container.state().checkpoint = Some(checkpoint.clone());
        self.attacher.write_etc_files(&checkpoint, None).await?;
        warn_without_ipv4(&container.id, &checkpoint);
        let rootfs = launch::rootfs(container_config);
        let mounts = self.attacher.etc_mounts(&container.id, rootfs.as_deref())?;
        log::info!(container:% = container.id; "prepared: {}", summary(&checkpoint));
        Ok(launch::own_networks(mounts))
    }

    /// A nested container that shares its parent's network, be it the host's.
    fn prepare_joining(
        &self,
        parent: &ContainerId,
        config: &ContainerConfig,
        is_debug: bool,
    ) -> Result<Option<ContainerLaunchInfo>, IsolatorError> {
        let Some(owner) = self.namespace_owner(parent) else {
            return prepare_host_network(config);
        };
        // A DEBUG container also shares its parent's mounts, where the files already are.
        let mounts = match owner {
            NamespaceOwner::Tracked(owner) if !is_debug => {
                let rootfs = launch::rootfs(config);
                self.attacher.etc_mounts(&owner.id, rootfs.as_deref())?
            }
            NamespaceOwner::Tracked(_) | NamespaceOwner::Ended(_) => vec![],
        };
        Ok(Some(launch::joining(mounts)))
    }

    /// Attaches the container whose first process is `pid`, before that process executes its
    /// first instruction. Does nothing for a container without networks of its own.
    pub async fn isolate(
        self: &Arc<Self>,
        id: &ContainerId,
        pid: u32,
    ) -> Result<(), IsolatorError> {
        let Some(container) = self.container(id) else {
            return Ok(());
        };
        let isolator = self.clone();
        let isolated = step("isolate", self.deadlines.isolate, async move {
            let _guard = container.lock.lock().await;
            let Some(checkpoint) = container.state().checkpoint.clone() else {
                // A cleanup came first.
                return Ok(());
            };
            let attachments = isolator
                .attacher
                .attach(&checkpoint, Target::Process(pid))
                .await?;
            container.state().attachments = Some(attachments);
            Ok(())
        })
        .await;
        log_outcome("attach", id, &isolated);
        isolated
    }

    /// Detaches the container's networks and stops tracking it. Idempotent.
    ///
    /// The agent calls it once, also for containers that we do not track. What fails here is
    /// retried when the agent starts next.
    pub async fn cleanup(self: &Arc<Self>, id: &ContainerId) -> Result<(), IsolatorError> {
        let Some(container) = self.container(id) else {
            return Ok(());
        };
        let isolator = self.clone();
        let cleaned = step("cleanup", self.deadlines.cleanup, async move {
            // Waits for a prepare or isolate that the agent no longer waits for.
            let _guard = container.lock.lock().await;
            let checkpoint = container.state().checkpoint.clone();
            if let Some(checkpoint) = checkpoint {
                isolator.attacher.detach(&checkpoint).await?;
            } else {
                isolator
                    .attacher
                    .detach_without_checkpoint(&container.id, true)
                    .await?;
            }
            let ended = container.ended();
            *container.state() = NetworkState::default();
            isolator.remove(&container.id);
            if container.id.depth() > 0 {
                lock(&isolator.containers).insert_ended(container.id.clone(), ended);
            }
            Ok(())
        })
        .await;
        log_outcome("detach", id, &cleaned);
        cleaned
    }

    /// The addresses of the container, or of the one whose network it shares.
    #[must_use]
    pub fn status(&self, id: &ContainerId) -> ContainerStatus {
        match self.namespace_owner(id) {
            Some(NamespaceOwner::Tracked(owner)) => owner.status(),
            // The hook adds what it had.
            Some(NamespaceOwner::Ended(_)) | None => ContainerStatus::default(),
        }
    }

    /// Completes when the container loses its network, with the reason to end the container.
    pub async fn watch(&self, id: &ContainerId) -> ContainerLimitation {
        let Some(container) = self.container(id) else {
            return std::future::pending().await;
        };
        let mut lost = container.lost.subscribe();
        // Holds no reference: the container may be removed while it is watched.
        drop(container);
        let Ok(Some(message)) = lost
            .wait_for(Option::is_some)
            .await
            .map(|lost| lost.clone())
        else {
            return std::future::pending().await;
        };
        ContainerLimitation {
            message: Some(message),
            reason: Some(REASON_CONTAINER_LIMITATION),
        }
    }

    /// The sum of the counters of the container's interfaces; an interface whose counters cannot
    /// be read is left out.
    pub async fn usage(&self, id: &ContainerId) -> ResourceStatistics {
        let timestamp = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .map_or(0.0, |time| time.as_secs_f64());
        let empty = ResourceStatistics {
            timestamp,
            ..ResourceStatistics::default()
        };
        let Some(checkpoint) = self
            .container(id)
            .and_then(|container| container.state().checkpoint.clone())
        else {
            return empty;
        };
        let counters: Vec<Statistics> = join_all(
            checkpoint
                .networks
                .iter()
                .map(|network| self.attacher.statistics(&network.intent)),
        )
        .await
        .into_iter()
        .filter_map(Result::ok)
        .collect();
        if counters.is_empty() {
            return empty;
        }
        let sum = |counter: fn(&Statistics) -> u64| Some(counters.iter().map(counter).sum());
        ResourceStatistics {
            timestamp,
            net_rx_packets: sum(|statistics| statistics.rx_packets),
            net_rx_bytes: sum(|statistics| statistics.rx_bytes),
            net_rx_errors: sum(|statistics| statistics.rx_errors),
            net_rx_dropped: sum(|statistics| statistics.rx_dropped),
            net_tx_packets: sum(|statistics| statistics.tx_packets),
            net_tx_bytes: sum(|statistics| statistics.tx_bytes),
            net_tx_errors: sum(|statistics| statistics.tx_errors),
            net_tx_dropped: sum(|statistics| statistics.tx_dropped),
        }
    }
}

fn isolator_problem(message: String) -> ConfigProblem {
    ConfigProblem {
        place: "network/contrail".to_owned(),
        key: String::new(),
        message,
    }
}

fn requests_networks(config: &ContainerConfig) -> bool {
    config
        .container_info
        .as_ref()
        .is_some_and(network_request::requests_networks)
}

/// On the host's network only a container with an image needs us, to bind the host's files below
/// /etc: `network/cni`, which would do it, is not loaded.
fn prepare_host_network(
    config: &ContainerConfig,
) -> Result<Option<ContainerLaunchInfo>, IsolatorError> {
    let Some(rootfs) = launch::rootfs(config) else {
        return Ok(None);
    };
    let mounts = etc_files::host_mounts(Path::new(&rootfs))?;
    Ok(Some(launch::host_network(mounts)))
}

/// Ends the containers that lose an interface, until the isolator is dropped.
async fn limit_lost(isolator: Weak<Isolator>, mut lost: UnboundedReceiver<LostInterface>) {
    while let Some(LostInterface { container, message }) = lost.recv().await {
        let Some(isolator) = isolator.upgrade() else {
            return;
        };
        if let Some(container) = isolator.container(&container) {
            log::error!(container:% = container.id; "network lost: {message}");
            container.lost.send_replace(Some(message));
        }
    }
}

/// Logs one line on what the agent runs with.
fn report_start(config: &Config, source: &Source) {
    let names: Vec<&str> = config
        .networks
        .iter()
        .map(|network| network.name.as_str())
        .collect();
    log::info!(
        "contrail-mesos {} starts with the state directory {}, the configuration {} and {} network{}: {}",
        env!("CARGO_PKG_VERSION"),
        config.state_dir.display(),
        source.path().display(),
        names.len(),
        if names.len() == 1 { "" } else { "s" },
        names.join(", ")
    );
}

/// Runs a step to its end, and waits for it until its deadline.
async fn step<T, F>(name: &'static str, deadline: Duration, work: F) -> Result<T, IsolatorError>
where
    T: Send + 'static,
    F: Future<Output = Result<T, IsolatorError>> + Send + 'static,
{
    tokio::time::timeout(deadline, tokio::spawn(work))
        .await
        .map_err(|_| IsolatorError::Deadline {
            step: name,
            after: deadline,
        })??
}

/// The executor that a container was launched for, if the agent names one.
fn executor_key(executor: Option<&ExecutorInfo>) -> Option<ExecutorKey> {
    let executor = executor?;
    let string = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Some(ExecutorKey {
        framework: string(&executor.framework_id.as_ref()?.value),
        executor: string(&executor.executor_id.value),
    })
}

/// Logs one line for the outcome of an action.
fn log_outcome<T>(action: &str, id: &ContainerId, result: &Result<T, IsolatorError>) {
    match result {
        Ok(_) => log::info!(container:% = id; "{action} succeeded"),
        Err(error) => log::error!(container:% = id, error:% = error; "{action} failed"),
    }
}

/// The container's networks and addresses on one line, for the log.
/// Says why the executor of a container may end at once. Addresses that come later are not known here.
fn warn_without_ipv4(id: &ContainerId, checkpoint: &Checkpoint) {
    let mut networks = checkpoint.networks.iter();
    let has_only_ipv6 = networks.clone().any(|own| !own.intent.addresses.is_empty())
        && networks.all(|own| {
            let mut addresses = own.intent.addresses.iter();
            !own.intent.addresses.is_empty() && addresses.all(|own| own.addr().is_ipv6())
        });
    if has_only_ipv6 {
        log::warn!(container:% = id; "{}", preflight::WITHOUT_IPV4);
    }
}

fn summary(checkpoint: &Checkpoint) -> String {
    let describe = |network: &checkpoint::CheckpointedNetwork| {
        let intent = &network.intent;
        let addresses: Vec<String> = intent.addresses.iter().map(ToString::to_string).collect();
        format!(
            "{}={}[{}]",
            intent.interface,
            intent.network,
            addresses.join(",")
        )
    };
    let networks: Vec<String> = checkpoint.networks.iter().map(describe).collect();
    networks.join(" ")
}

#[cfg(test)]
mod root_tests;
