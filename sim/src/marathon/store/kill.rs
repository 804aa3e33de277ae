//! Instances that somebody wants to be rid of, by name.

use std::sync::Arc;

use uuid::Uuid;

use super::deployment::Action;
use super::{Refusal, Store};
use crate::marathon::id::{InstanceId, PathId};
use crate::marathon::time::Timestamp;

impl Store {
    /// Has these killed; others take their place.
    pub fn kill(&mut self, chosen: &[InstanceId]) {
        for id in chosen {
            if let Some(instance) = self.instances.get_mut(id) {
                instance.kill_wanted = true;
            }
        }
    }

    /// Has these killed for good: the run spec wants so many fewer from now on.
    pub fn kill_and_scale(
        &mut self,
        id: &PathId,
        chosen: &[InstanceId],
        force: bool,
        now: Timestamp,
    ) -> Result<Uuid, Refusal> {
        self.check_lock(id, force)?;
        let version = self.next_version(now);
        let Some(entry) = self.run_specs.get_mut(id) else {
            return Err(Refusal::Unknown(id.clone()));
        };
        let fewer = entry.run_spec.instances().saturating_sub(chosen.len());
        let run_spec = Arc::new(entry.run_spec.with_instances(fewer));
        let before = entry.deployment.take();
        entry.run_spec = Arc::clone(&run_spec);
        entry.version = version;
        entry.last_scaling = version;
        entry.history.push((version, Arc::clone(&run_spec)));
        self.cancel(before);
        let deployment = self.deploy(&run_spec, &[Action::Scale], version);
        if let Some(entry) = self.run_specs.get_mut(id) {
            entry.deployment = Some(deployment);
        }
        self.decommission(id, |instance| chosen.contains(&instance.id));
        self.scale(id, now);
        Ok(deployment)
    }
}
