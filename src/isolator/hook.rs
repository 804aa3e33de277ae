//! The hook's half: what task status lacks, and the safety net when an executor is gone.

use std::sync::Arc;

use super::Isolator;
use super::checkpoint::ExecutorKey;
use super::container::Container;
use crate::proto::mesos::{Label, Labels, TaskStatus};
use contrail_mesos_api::container::ContainerId;

/// What the labels that we add to a task's status begin with.
const LABEL_PREFIX: &str = "contrail-mesos/";

impl Isolator {
    /// The task's labels with ours added: `contrail-mesos/<interface>/mac`, `…/gateway` and
    /// `…/network`. `None` leaves the status as it is. Answers from memory.
    #[must_use]
    pub fn status_labels(&self, framework: &str, status: &TaskStatus) -> Option<Labels> {
        let nested = status
            .container_status
            .as_ref()
            .and_then(|status| status.container_id.as_ref())
            .and_then(|id| self.owner(&ContainerId::from(id)));
        let container = nested.or_else(|| {
            let executor = status.executor_id.as_ref()?;
            self.of_executor(&ExecutorKey {
                framework: framework.to_owned(),
                executor: String::from_utf8_lossy(&executor.value).into_owned(),
            })
        })?;
        let ours = labels(&container);
        if ours.is_empty() {
            return None;
        }
        // What the hook returns replaces the status' labels, so the task's own go along.
        let mut labels = status.labels.clone().unwrap_or_default();
        labels
            .labels
            .retain(|label| !label.key.starts_with(LABEL_PREFIX.as_bytes()));
        labels.labels.extend(ours);
        Some(labels)
    }

    /// The agent removed an executor, long after it cleaned up the executor's container. If it
    /// did not, we do.
    pub async fn executor_removed(self: &Arc<Self>, executor: &ExecutorKey) {
        let Some(container) = self.of_executor(executor) else {
            return;
        };
        let id = container.id.clone();
        drop(container);
        // A cleanup that is under way is the agent's; only what outlives it is ours.
        tokio::time::sleep(self.deadlines.cleanup).await;
        if self.container(&id).is_some() {
            log::warn!(container:% = id; "its executor is gone, and the agent never cleaned it up");
            // The outcome is logged there.
            let _ = self.cleanup(&id).await;
        }
    }
}

fn labels(container: &Container) -> Vec<Label> {
    let known = container.known();
    let mut labels = Vec::new();
    let networks = known
        .checkpoint
        .iter()
        .flat_map(|checkpoint| &checkpoint.networks);
    for (index, network) in networks.enumerate() {
        let intent = &network.intent;
        let made = known.made.as_ref().and_then(|made| made.get(index));
        let mut label = |name: &str, value: String| {
            labels.push(Label {
                key: format!("{LABEL_PREFIX}{}/{name}", intent.interface).into_bytes(),
                value: Some(value.into_bytes()),
            });
        };
        let mac = made.map_or(intent.mac, |made| made.mac);
        let gateways = made.map_or(&intent.gateways, |made| &made.gateways);
        let gateways: Vec<String> = gateways.iter().map(ToString::to_string).collect();
        label("network", intent.network.clone());
        label("mac", mac.to_string());
        if !gateways.is_empty() {
            label("gateway", gateways.join(","));
        }
    }
    labels
}
