//! isolate: attach the container's networks before its first instruction runs.

use std::sync::Arc;

use super::networks::Target;
use super::{Isolator, IsolatorError, outcome, step};
use contrail_mesos_api::container::ContainerId;

impl Isolator {
    /// Attaches the container whose first process is `pid`. Nothing to do for a container without
    /// networks of its own.
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
            let _gate = container.gate.lock().await;
            let Some(checkpoint) = container.known().checkpoint.clone() else {
                // A cleanup was faster.
                return Ok(());
            };
            let made = isolator
                .networks
                .attach(&checkpoint, Target::Process(pid))
                .await?;
            container.known().made = Some(made);
            Ok(())
        })
        .await;
        outcome("attached", id, &isolated);
        isolated
    }
}
