//! The real core: the isolator `network/contrail`, on the module's runtime.

use std::sync::Arc;

use async_trait::async_trait;

use super::core::{Core, Failure};
use super::runtime;
use crate::container::ContainerId;
use crate::isolator::Isolator;
use crate::proto::mesos::slave::{
    ContainerConfig, ContainerLaunchInfo, ContainerLimitation, ContainerState,
};
use crate::proto::mesos::{self, ContainerStatus, ExecutorInfo, Labels, ResourceStatistics};

/// Makes the isolator that the module's parameters describe.
pub(super) fn make(parameters: &[(String, String)]) -> Result<Arc<dyn Core>, String> {
    let runtime = runtime::handle()?;
    // It waits for lost interfaces on the runtime from its first moment.
    let _inside = runtime.enter();
    let isolator = Isolator::new(parameters).map_err(|error| error.to_string())?;
    Ok(Arc::new(Contrail(isolator)))
}

struct Contrail(Arc<Isolator>);

#[async_trait]
impl Core for Contrail {
    async fn recover(
        &self,
        states: Vec<ContainerState>,
        orphans: Vec<mesos::ContainerId>,
    ) -> Result<(), Failure> {
        Ok(self.0.recover(states, orphans).await?)
    }

    async fn prepare(
        &self,
        id: &ContainerId,
        config: ContainerConfig,
    ) -> Result<Option<ContainerLaunchInfo>, Failure> {
        Ok(self.0.prepare(id, config).await?)
    }

    async fn isolate(&self, id: &ContainerId, pid: u32) -> Result<(), Failure> {
        Ok(self.0.isolate(id, pid).await?)
    }

    async fn watch(&self, id: &ContainerId) -> ContainerLimitation {
        self.0.watch(id).await
    }

    async fn usage(&self, id: &ContainerId) -> ResourceStatistics {
        self.0.usage(id).await
    }

    fn status(&self, id: &ContainerId) -> ContainerStatus {
        self.0.status(id)
    }

    async fn cleanup(&self, id: &ContainerId) -> Result<(), Failure> {
        Ok(self.0.cleanup(id).await?)
    }

    fn status_labels(&self, framework: &str, status: &mesos::TaskStatus) -> Option<Labels> {
        self.0.status_labels(framework, status)
    }

    fn executor_removed(&self, framework: &str, executor: &ExecutorInfo) {
        let executor = crate::isolator::checkpoint::ExecutorKey {
            framework: framework.to_owned(),
            executor: String::from_utf8_lossy(&executor.executor_id.value).into_owned(),
        };
        let isolator = self.0.clone();
        if let Ok(runtime) = runtime::handle() {
            runtime.spawn(async move { isolator.executor_removed(&executor).await });
        }
    }
}
