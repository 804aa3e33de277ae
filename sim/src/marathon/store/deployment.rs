//! Deployments: what is under way, and the events that say so.

use uuid::Uuid;

use super::Store;
use crate::marathon::events::Event;
use crate::marathon::id::PathId;
use crate::marathon::model::run_spec::RunSpec;
use crate::marathon::time::Timestamp;

/// What a step does with the run spec.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "Marathon's own words")]
pub enum Action {
    Start,
    Scale,
    Restart,
    Stop,
}

/// A change that is under way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deployment {
    /// Its id.
    pub id: Uuid,
    /// What it changes.
    pub run_spec: PathId,
    /// Whether that is a pod.
    pub pod: bool,
    /// How, one after another.
    pub steps: Vec<Action>,
    /// The version that it leads to.
    pub version: Timestamp,
}

impl Store {
    /// Begins one; all of its steps but the last are done at once.
    pub(super) fn deploy(
        &mut self,
        run_spec: &RunSpec,
        steps: &[Action],
        version: Timestamp,
    ) -> Uuid {
        let deployment = Deployment {
            id: Uuid::new_v4(),
            run_spec: run_spec.id().clone(),
            pod: matches!(run_spec, RunSpec::Pod(_)),
            steps: steps.to_vec(),
            version,
        };
        for (index, step) in steps.iter().enumerate() {
            if let Some(before) = index.checked_sub(1).and_then(|before| steps.get(before)) {
                let done = Event::deployment_step("deployment_step_success", &deployment, before);
                self.events.push(done);
            }
            let event = Event::deployment_step("deployment_info", &deployment, step);
            self.events.push(event);
        }
        let id = deployment.id;
        self.under_way.insert(id, deployment);
        id
    }

    /// One has reached what it was for.
    pub(super) fn succeed(&mut self, id: Uuid) {
        if let Some(deployment) = self.under_way.remove(&id) {
            if let Some(last) = deployment.steps.last() {
                let done = Event::deployment_step("deployment_step_success", &deployment, last);
                self.events.push(done);
            }
            self.events.push(Event::deployment_success(&deployment));
        }
    }

    /// One is given up for another.
    pub(super) fn cancel(&mut self, id: Option<Uuid>) {
        if let Some(deployment) = id.and_then(|id| self.under_way.remove(&id)) {
            let reason = "The upgrade has been cancelled";
            let failed = Event::deployment_failed(&deployment, reason);
            self.events.push(failed);
        }
    }
}
