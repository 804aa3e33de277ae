//! What the hook needs of the isolator: labels for task status, and the cleanup of a container
//! whose executor is gone.

use std::sync::Arc;

use super::Isolator;
use super::checkpoint::ExecutorKey;
use super::container::{Container, EndedContainer, NamespaceOwner};
use crate::proto::mesos::{ContainerStatus, Label, TaskStatus};
use contrail_mesos_api::container::{ContainerId, Mac};

/// The prefix of the labels that we add to a task's status.
const LABEL_PREFIX: &str = "contrail-mesos/";

impl Isolator {
    /// What replaces parts of a task's status: the task's labels with ours added
    /// (`contrail-mesos/<interface>/mac`, `…/gateway` and `…/network`), and after the end of a nested
    /// container also the addresses that it had. `None` leaves the status as it is. Answers from memory.
    #[must_use]
    pub fn decorate_status(&self, framework: &str, status: &TaskStatus) -> Option<TaskStatus> {
        let owner = status
            .container_status
            .as_ref()
            .and_then(|status| status.container_id.as_ref())
            .and_then(|id| self.namespace_owner(&ContainerId::from(id)));
        let owner = owner.or_else(|| {
            let executor = status.executor_id.as_ref()?;
            self.executor_container(&ExecutorKey {
                framework: framework.to_owned(),
                executor: String::from_utf8_lossy(&executor.value).into_owned(),
            })
            .map(NamespaceOwner::Tracked)
        })?;
        let (own, container_status) = match owner {
            NamespaceOwner::Tracked(container) => (container.labels(), None),
            // The agent knows the container no more, and would report its own address.
            NamespaceOwner::Ended(ended) => (
                ended.labels.clone(),
                status
                    .container_status
                    .as_ref()
                    .filter(|status| status.network_infos.is_empty())
                    .map(|status| ContainerStatus {
                        network_infos: ended.network_infos.clone(),
                        ..status.clone()
                    }),
            ),
        };
        if own.is_empty() && container_status.is_none() {
            return None;
        }
        // The hook's labels replace those of the status, so they must include the task's own.
        let mut labels = status.labels.clone().unwrap_or_default();
        labels
            .labels
            .retain(|label| !label.key.starts_with(LABEL_PREFIX.as_bytes()));
        labels.labels.extend(own);
        Some(TaskStatus {
            task_id: status.task_id.clone(),
            labels: Some(labels),
            container_status,
            ..TaskStatus::default()
        })
    }

    /// The agent has removed an executor, long after it should have cleaned up the executor's
    /// container. Cleans up the container if the agent did not.
    pub async fn executor_removed(self: &Arc<Self>, executor: &ExecutorKey) {
        let Some(container) = self.executor_container(executor) else {
            return;
        };
        let id = container.id.clone();
        drop(container);
        // Leaves a cleanup that is under way to the agent.
        tokio::time::sleep(self.deadlines.cleanup).await;
        if self.container(&id).is_some() {
            log::warn!(container:% = id; "cleaning up: the executor was removed, but the agent did not clean up its container");
            // Logs its own outcome.
            let _ = self.cleanup(&id).await;
        }
    }
}

impl Container {
    /// What the last updates of its task show.
    pub(super) fn ended(&self) -> EndedContainer {
        EndedContainer {
            network_infos: self.status().network_infos,
            labels: self.labels(),
        }
    }

    fn labels(&self) -> Vec<Label> {
        let mut labels = Vec::new();
        for (network, attachment) in self.state().networks() {
            let intent = &network.intent;
            let mut add = |name: &str, value: String| {
                labels.push(Label {
                    key: format!("{LABEL_PREFIX}{}/{name}", intent.interface).into_bytes(),
                    value: Some(value.into_bytes()),
                });
            };
            let mac = attachment.map_or(intent.mac, |attachment| attachment.mac);
            let gateways: Vec<String> = attachment
                .map_or(&intent.gateways, |attachment| &attachment.gateways)
                .iter()
                .map(ToString::to_string)
                .collect();
            add("network", intent.network.clone());
            // A loopback interface has none.
            if mac != Mac([0; 6]) {
                add("mac", mac.to_string());
            }
            if !gateways.is_empty() {
                add("gateway", gateways.join(","));
            }
        }
        labels
    }
}
