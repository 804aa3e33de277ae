//! The isolator `network/contrail`: prepare → isolate → status → cleanup, and recover. Knows no
//! netlink and no HTTP.
//!
//! # Guarantees
//! - Every step has a deadline: the agent itself would wait for ever.
//! - A step that was started comes to its end even if the agent no longer waits for it; a later
//!   step of the same container waits for it first. So a cleanup sees everything that was made.
//! - `status` answers from memory.
//! - `recover` never fails: what cannot be read is moved aside and reported.
//! - A container's trouble stays its own.
//!
//! Only containers with networks of their own are remembered. Those that join another's, or are
//! on the host's network, have nothing to clean up.

pub mod checkpoint;
mod cleanup;
mod container;
mod error;
mod etc_files;
mod hook;
mod isolate;
mod launch;
pub mod networks;
mod prepare;
mod recover;
mod target;

use std::collections::HashSet;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use futures::future::join_all;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use self::checkpoint::{Checkpoint, ExecutorKey};
use self::container::{Container, Containers, lock};
pub use self::error::IsolatorError;
use self::networks::Networks;
use crate::config::{ConfigError, ConfigProblem, Deadlines, Source};
use crate::proto::mesos::slave::ContainerLimitation;
use crate::proto::mesos::{ContainerStatus, ResourceStatistics, slave};
use crate::provider::{Lost, Statistics};
use contrail_mesos_api::container::ContainerId;

/// `TaskStatus.Reason` of a container whose network is lost: `REASON_CONTAINER_LIMITATION`.
const REASON_CONTAINER_LIMITATION: i32 = 19;

/// The isolator of one agent. All asynchronous calls need a tokio runtime.
pub struct Isolator {
    source: Source,
    deadlines: Deadlines,
    networks: Networks,
    containers: Mutex<Containers>,
}

impl Isolator {
    /// The isolator that the module's parameters describe. Blocks on the configuration file.
    ///
    /// Must be called inside a tokio runtime, where the lost interfaces will be waited for.
    pub fn new(parameters: &[(String, String)]) -> Result<Arc<Self>, ConfigError> {
        let source = Source::from_parameters(parameters);
        if !nix::unistd::geteuid().is_root() {
            let mut problems = source.err().map_or_else(Vec::new, |error| error.problems);
            problems.push(ConfigProblem {
                place: "network/contrail".to_owned(),
                key: String::new(),
                message: "needs root to make interfaces: run the agent as root, or take the \
                          isolator out of --isolation"
                    .to_owned(),
            });
            return Err(ConfigError { problems });
        }
        let source = source?;
        let config = source.load()?;
        for problem in &config.unusable {
            log::warn!("{problem}");
        }
        let (sender, lost) = unbounded_channel();
        let networks = Networks::new(&config, sender).map_err(|error| ConfigError {
            problems: vec![ConfigProblem {
                place: "network/contrail".to_owned(),
                key: String::new(),
                message: error.to_string(),
            }],
        })?;
        let isolator = Arc::new(Self {
            deadlines: config.deadlines,
            networks,
            source,
            containers: Mutex::default(),
        });
        tokio::spawn(limit_lost(Arc::downgrade(&isolator), lost));
        Ok(isolator)
    }

    fn container(&self, id: &ContainerId) -> Option<Arc<Container>> {
        lock(&self.containers).get(id).cloned()
    }

    /// The container itself, or the nearest of its parents, that has networks of its own: the one
    /// whose network namespace it is in.
    fn owner(&self, id: &ContainerId) -> Option<Arc<Container>> {
        let containers = lock(&self.containers);
        let mut next = Some(id.clone());
        while let Some(id) = next {
            if let Some(container) = containers.get(&id) {
                return Some(container.clone());
            }
            next = id.parent();
        }
        None
    }

    fn of_executor(&self, executor: &ExecutorKey) -> Option<Arc<Container>> {
        lock(&self.containers).of_executor(executor).cloned()
    }

    fn ids(&self) -> HashSet<ContainerId> {
        lock(&self.containers).ids().cloned().collect()
    }

    fn insert(&self, container: Arc<Container>) {
        lock(&self.containers).insert(container);
    }

    fn remove(&self, id: &ContainerId) {
        lock(&self.containers).remove(id);
    }

    /// The addresses of the container, or of the one whose network it shares.
    #[must_use]
    pub fn status(&self, id: &ContainerId) -> ContainerStatus {
        self.owner(id)
            .map_or_else(ContainerStatus::default, |owner| owner.status())
    }

    /// Completes when the container's network is lost, with the reason to end the container.
    pub async fn watch(&self, id: &ContainerId) -> ContainerLimitation {
        let Some(container) = self.container(id) else {
            return std::future::pending().await;
        };
        let mut lost = container.lost.subscribe();
        // Nobody else keeps the sender: the container may be forgotten while it is watched.
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

    /// The counters of all interfaces of the container; those that cannot be read count nothing.
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
            .and_then(|container| container.known().checkpoint.clone())
        else {
            return empty;
        };
        let read = join_all(checkpoint.networks.iter().map(|network| {
            self.networks
                .provider(&network.intent)
                .statistics(&network.intent)
        }));
        let counters: Vec<Statistics> = read.await.into_iter().filter_map(Result::ok).collect();
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

/// Ends the containers whose interfaces vanish, as long as the isolator is there.
async fn limit_lost(isolator: Weak<Isolator>, mut lost: UnboundedReceiver<Lost>) {
    while let Some(Lost { container, message }) = lost.recv().await {
        let Some(isolator) = isolator.upgrade() else {
            return;
        };
        if let Some(container) = isolator.container(&container) {
            log::error!(container:% = container.id; "network lost: {message}");
            container.lost.send_replace(Some(message));
        }
    }
}

/// Runs a step to its end, and waits for that no longer than its deadline.
async fn step<T, F>(name: &'static str, deadline: Duration, work: F) -> Result<T, IsolatorError>
where
    T: Send + 'static,
    F: Future<Output = Result<T, IsolatorError>> + Send + 'static,
{
    match tokio::time::timeout(deadline, tokio::spawn(work)).await {
        Ok(Ok(result)) => result,
        Ok(Err(_)) => Err(IsolatorError::Internal(name)),
        Err(_) => Err(IsolatorError::Deadline {
            step: name,
            after: deadline,
        }),
    }
}

/// The executor that a container was launched for, where the agent says.
fn executor_key(executor: Option<&crate::proto::mesos::ExecutorInfo>) -> Option<ExecutorKey> {
    let executor = executor?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Some(ExecutorKey {
        framework: text(&executor.framework_id.as_ref()?.value),
        executor: text(&executor.executor_id.value),
    })
}

/// One line for an outcome, whatever it is.
fn outcome<T>(step: &str, id: &ContainerId, result: &Result<T, IsolatorError>) {
    match result {
        Ok(_) => log::info!(container:% = id; "{step}"),
        Err(error) => log::error!(container:% = id, error:% = error; "{step} failed"),
    }
}

/// The container's networks and addresses on one line, for the log.
fn summary(checkpoint: &Checkpoint) -> String {
    let networks = checkpoint.networks.iter().map(|network| {
        let addresses = network.intent.addresses.iter().map(ToString::to_string);
        let addresses = addresses.collect::<Vec<_>>().join(",");
        format!(
            "{}={}[{addresses}]",
            network.intent.interface, network.intent.network
        )
    });
    networks.collect::<Vec<_>>().join(" ")
}

/// The state of a container as the agent found it when it started.
type State = slave::ContainerState;

#[cfg(test)]
mod tests;
