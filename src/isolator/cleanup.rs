//! cleanup: give everything back. Idempotent; the agent calls it for containers that we never
//! saw, and calls it once only, so what fails here is tried again when the agent starts next.

use std::sync::Arc;

use super::{Isolator, IsolatorError, outcome, step};
use contrail_mesos_api::container::ContainerId;

impl Isolator {
    /// Detaches the container's networks, and forgets it.
    pub async fn cleanup(self: &Arc<Self>, id: &ContainerId) -> Result<(), IsolatorError> {
        let Some(container) = self.container(id) else {
            return Ok(());
        };
        let isolator = self.clone();
        let cleaned = step("cleanup", self.deadlines.cleanup, async move {
            // Waits for a prepare or isolate that the agent no longer waits for.
            let _gate = container.gate.lock().await;
            let checkpoint = container.known().checkpoint.clone();
            if let Some(checkpoint) = checkpoint {
                isolator.networks.detach(&checkpoint).await?;
            } else {
                let mut keep = isolator.ids();
                keep.remove(&container.id);
                isolator
                    .networks
                    .detach_unknown(&container.id, &keep)
                    .await?;
            }
            *container.known() = super::container::Known::default();
            isolator.remove(&container.id);
            Ok(())
        })
        .await;
        outcome("detached", id, &cleaned);
        cleaned
    }
}
