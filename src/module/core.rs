//! What the module drives: the one seam between the border and everything that knows networks.

use std::error::Error;
use std::sync::{Arc, OnceLock};

use async_trait::async_trait;

use crate::container::ContainerId;
use crate::proto::mesos::slave::{
    ContainerConfig, ContainerLaunchInfo, ContainerLimitation, ContainerState,
};
use crate::proto::mesos::{self, ContainerStatus, ExecutorInfo, Labels, ResourceStatistics};

/// Why a call failed. Its text reaches the framework, in the task's status.
pub(super) type Failure = Box<dyn Error + Send + Sync>;

/// The calls of the agent, decoded. Any of the async ones may be dropped at any await, when the
/// agent discards its future; `cleanup` of the container follows.
#[async_trait]
pub(super) trait Core: Send + Sync + 'static {
    /// Adopts what runs and cleans up after what does not. A failure ends the agent's start.
    async fn recover(
        &self,
        states: Vec<ContainerState>,
        orphans: Vec<mesos::ContainerId>,
    ) -> Result<(), Failure>;

    /// Before the container is forked. `None` leaves its launch as it is.
    async fn prepare(
        &self,
        id: &ContainerId,
        config: ContainerConfig,
    ) -> Result<Option<ContainerLaunchInfo>, Failure>;

    /// The container is forked and waits; its namespaces exist.
    async fn isolate(&self, id: &ContainerId, pid: u32) -> Result<(), Failure>;

    /// Returns when the container must end. Dropped at `cleanup`.
    async fn watch(&self, id: &ContainerId) -> ContainerLimitation;

    /// The container's counters.
    async fn usage(&self, id: &ContainerId) -> ResourceStatistics;

    /// What is known of the container, from memory: called on a thread of the agent.
    fn status(&self, id: &ContainerId) -> ContainerStatus;

    /// Gives everything back. Comes for unknown containers too, and must be idempotent.
    async fn cleanup(&self, id: &ContainerId) -> Result<(), Failure>;

    /// Labels that replace those of a task's status; `None` leaves them. Called on a thread of
    /// the agent, under a lock of its hooks: from memory only.
    fn status_labels(&self, framework: &str, status: &mesos::TaskStatus) -> Option<Labels> {
        let _ = (framework, status);
        None
    }

    /// An executor is gone for good. Called like `status_labels`.
    fn executor_removed(&self, framework: &str, executor: &ExecutorInfo) {
        let _ = (framework, executor);
    }
}

/// The core of this process: the hook finds here what the isolator module made. The agent makes
/// at most one of each.
static CORE: OnceLock<Arc<dyn Core>> = OnceLock::new();

/// Makes the core from the module's parameters. The error lists everything that is wrong.
pub(super) fn create(parameters: &[(String, String)]) -> Result<Arc<dyn Core>, String> {
    let core = make(parameters)?;
    Ok(Arc::clone(CORE.get_or_init(|| core)))
}

/// The core, when there is an isolator.
pub(super) fn get() -> Option<&'static Arc<dyn Core>> {
    CORE.get()
}

#[cfg(any(test, feature = "module-fake"))]
#[allow(clippy::unnecessary_wraps, reason = "the real one can fail")]
fn make(parameters: &[(String, String)]) -> Result<Arc<dyn Core>, String> {
    super::fake::Fake::new(parameters).map(|fake| Arc::new(fake) as Arc<dyn Core>)
}

#[cfg(not(any(test, feature = "module-fake")))]
use super::contrail::make;
