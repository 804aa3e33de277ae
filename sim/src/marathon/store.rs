//! The desired run specs and the existing instances, without input, output or a clock.
//!
//! Invariants: a deleted run spec is removed from `run_specs` at once, while its instances stay
//! until Mesos has reported the end of each of their tasks; nothing is launched for a path that has
//! instances of a deleted run spec.

use std::collections::BTreeMap;
use std::sync::Arc;

use uuid::Uuid;

use super::deployment::{Action, Deployment};
use super::events::Event;
use super::id::{IdFormat, InstanceId, PathId};
use super::instance::{Condition, Goal, Instance};
use super::launch::image::Images;
use super::model::Defaults;
use super::model::app::KillSelection;
use super::model::run_spec::RunSpec;
use super::version::Version;
use crate::harness::clock::Timestamp;
use delay::LaunchDelay;
pub use failure::Failure;

mod delay;
mod failure;
pub mod health;
pub mod scheduling;
#[cfg(test)]
mod tests;

/// The range of service ports.
const SERVICE_PORTS: std::ops::Range<u16> = 10_000..20_000;

/// Why a change is rejected.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum StoreError {
    #[error("An app with id [{0}] already exists.")]
    Exists(PathId),
    #[error("{0}")]
    Unknown(PathId),
    #[error(
        "App is locked by one or more deployments. Override with the option '?force=true'. \
         View details at '/v2/deployments/<DEPLOYMENT_ID>'."
    )]
    Locked(Uuid),
}

/// A desired run spec.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The run spec.
    pub run_spec: Arc<RunSpec>,
    /// The time of the last change, which is its version.
    pub version: Timestamp,
    /// The last change of only the number of instances.
    pub last_scaling: Timestamp,
    /// The last change of anything else.
    pub last_config_change: Timestamp,
    /// The deployment in progress.
    pub deployment: Option<Uuid>,
    /// All definitions so far, by version.
    pub history: Vec<(Timestamp, Arc<RunSpec>)>,
    /// The last task that failed.
    pub last_failure: Option<Failure>,
    /// The last instances that ended by themselves.
    pub terminated: Vec<Failure>,
}

/// The state of a Marathon.
#[derive(Debug)]
pub struct Store {
    /// Defaults of definitions.
    pub defaults: Defaults,
    /// The replacements of images.
    pub images: Images,
    /// The release, which determines ids and terms.
    pub version: Version,
    /// The framework's id, once the master has assigned one.
    pub framework_id: Option<String>,
    run_specs: BTreeMap<PathId, Entry>,
    instances: BTreeMap<InstanceId, Instance>,
    deletions: BTreeMap<PathId, Uuid>,
    under_way: BTreeMap<Uuid, Deployment>,
    delays: BTreeMap<PathId, LaunchDelay>,
    node: [u8; 6],
    next_age: u64,
    last_version: Option<Timestamp>,
    events: Vec<Event>,
}

impl Store {
    /// An empty store.
    #[must_use]
    pub fn new(defaults: Defaults, images: Images) -> Self {
        let mut node = [0; 6];
        node.copy_from_slice(&Uuid::new_v4().as_bytes()[..6]);
        // The multicast bit marks a node that is not a MAC address.
        node[0] |= 1;
        Self {
            defaults,
            images,
            version: Version::default(),
            framework_id: None,
            run_specs: BTreeMap::new(),
            instances: BTreeMap::new(),
            deletions: BTreeMap::new(),
            under_way: BTreeMap::new(),
            delays: BTreeMap::new(),
            node,
            next_age: 0,
            last_version: None,
            events: Vec::new(),
        }
    }

    /// The events since the last call.
    pub fn take_events(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.events)
    }

    /// Adds an event that is not the store's own.
    pub fn add_event(&mut self, event: Event) {
        self.events.push(event);
    }

    /// All run specs.
    pub fn entries(&self) -> impl Iterator<Item = (&PathId, &Entry)> {
        self.run_specs.iter()
    }

    /// One run spec.
    #[must_use]
    pub fn entry(&self, id: &PathId) -> Option<&Entry> {
        self.run_specs.get(id)
    }

    /// The instances of a run spec, oldest first.
    #[must_use]
    pub fn instances_of(&self, id: &PathId) -> Vec<&Instance> {
        let instances = self.instances.values();
        let mut own: Vec<&Instance> = instances
            .filter(|instance| instance.run_spec.id() == id)
            .collect();
        own.sort_by_key(|instance| instance.age);
        own
    }

    /// All instances, including those of deleted run specs.
    pub fn instances(&self) -> impl Iterator<Item = &Instance> {
        self.instances.values()
    }

    /// The deployments in progress and their run specs.
    #[must_use]
    pub fn deployments(&self) -> Vec<(Uuid, PathId)> {
        let changed = self
            .run_specs
            .iter()
            .filter_map(|(id, entry)| Some((entry.deployment?, id.clone())));
        let deleted = self
            .deletions
            .iter()
            .map(|(id, deployment)| (*deployment, id.clone()));
        changed.chain(deleted).collect()
    }

    /// Adds a run spec.
    pub fn create(&mut self, mut run_spec: RunSpec, now: Timestamp) -> Result<Uuid, StoreError> {
        let id = run_spec.id().clone();
        if self.run_specs.contains_key(&id) {
            return Err(StoreError::Exists(id));
        }
        self.check_lock(&id, false)?;
        self.assign_service_ports(&mut run_spec);
        let version = self.next_version(now);
        let steps = [Action::Start, Action::Scale];
        let deployment = self.deploy(&run_spec, &steps, version);
        let run_spec = Arc::new(run_spec);
        self.run_specs.insert(
            id.clone(),
            Entry {
                history: vec![(version, Arc::clone(&run_spec))],
                run_spec,
                version,
                last_scaling: version,
                last_config_change: version,
                deployment: Some(deployment),
                last_failure: None,
                terminated: Vec::new(),
            },
        );
        self.scale(&id, now);
        Ok(deployment)
    }

    /// Changes a run spec. If anything but the number of instances differs, all instances are
    /// replaced at once: upgrade strategies have no effect.
    pub fn update(
        &mut self,
        mut run_spec: RunSpec,
        force: bool,
        now: Timestamp,
    ) -> Result<Uuid, StoreError> {
        let id = run_spec.id().clone();
        self.check_lock(&id, force)?;
        self.assign_service_ports(&mut run_spec);
        let Some(entry) = self.run_specs.get(&id) else {
            return Err(StoreError::Unknown(id));
        };
        let only_scales = entry.run_spec.only_scales(&run_spec);
        let step = if only_scales {
            Action::Scale
        } else {
            Action::Restart
        };
        Ok(self.change(Arc::new(run_spec), step, now))
    }

    /// Replaces all instances of a run spec at once.
    pub fn restart(
        &mut self,
        id: &PathId,
        force: bool,
        now: Timestamp,
    ) -> Result<Uuid, StoreError> {
        self.check_lock(id, force)?;
        let Some(entry) = self.run_specs.get(id) else {
            return Err(StoreError::Unknown(id.clone()));
        };
        let run_spec = Arc::clone(&entry.run_spec);
        Ok(self.change(run_spec, Action::Restart, now))
    }

    /// Replaces an existing run spec.
    fn change(&mut self, run_spec: Arc<RunSpec>, step: Action, now: Timestamp) -> Uuid {
        let id = run_spec.id().clone();
        let version = self.next_version(now);
        let before = self
            .run_specs
            .get_mut(&id)
            .and_then(|entry| entry.deployment.take());
        self.cancel(before);
        let deployment = self.deploy(&run_spec, &[step], version);
        if let Some(entry) = self.run_specs.get_mut(&id) {
            entry.history.push((version, Arc::clone(&run_spec)));
            entry.run_spec = run_spec;
            entry.version = version;
            entry.deployment = Some(deployment);
            match step {
                Action::Scale => entry.last_scaling = version,
                Action::Start | Action::Restart | Action::Stop => {
                    entry.last_config_change = version;
                }
            }
        }
        if step != Action::Scale {
            self.delays.remove(&id);
            self.decommission(&id, |_| true);
        }
        self.scale(&id, now);
        deployment
    }

    /// Deletes a run spec and kills its instances.
    pub fn delete(&mut self, id: &PathId, force: bool) -> Result<Uuid, StoreError> {
        if !self.run_specs.contains_key(id) {
            return Err(StoreError::Unknown(id.clone()));
        }
        self.check_lock(id, force)?;
        let Some(entry) = self.run_specs.remove(id) else {
            return Err(StoreError::Unknown(id.clone()));
        };
        self.delays.remove(id);
        self.cancel(entry.deployment);
        let deployment = self.deploy(&entry.run_spec, &[Action::Stop], entry.version);
        self.decommission(id, |_| true);
        self.deletions.insert(id.clone(), deployment);
        self.complete_deployments();
        Ok(deployment)
    }

    /// Kills these instances, which are then launched again.
    pub fn kill(&mut self, chosen: &[InstanceId]) {
        for id in chosen {
            if let Some(instance) = self.instances.get_mut(id) {
                instance.kill_wanted = true;
            }
        }
    }

    /// Kills these instances and reduces the number of instances accordingly.
    pub fn kill_and_scale(
        &mut self,
        id: &PathId,
        chosen: &[InstanceId],
        force: bool,
        now: Timestamp,
    ) -> Result<Uuid, StoreError> {
        self.check_lock(id, force)?;
        let version = self.next_version(now);
        let Some(entry) = self.run_specs.get_mut(id) else {
            return Err(StoreError::Unknown(id.clone()));
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

    fn check_lock(&self, id: &PathId, force: bool) -> Result<(), StoreError> {
        let deployment = self.run_specs.get(id).and_then(|entry| entry.deployment);
        match self.deletions.get(id).copied().or(deployment) {
            Some(deployment) if !force => Err(StoreError::Locked(deployment)),
            _ => Ok(()),
        }
    }

    fn assign_service_ports(&self, run_spec: &mut RunSpec) {
        if let RunSpec::App(app) = run_spec {
            let apps = self.run_specs.values();
            let used: Vec<u16> = apps
                .filter_map(|entry| match &*entry.run_spec {
                    RunSpec::App(other) if other.id != app.id => Some(other.service_ports()),
                    _ => None,
                })
                .flatten()
                .chain(app.service_ports())
                .collect();
            app.assign_service_ports(&mut SERVICE_PORTS.filter(|port| !used.contains(port)));
        }
    }

    /// Versions are identified by their time, so no two are equal.
    fn next_version(&mut self, now: Timestamp) -> Timestamp {
        let least = self
            .last_version
            .map(|last| last.after(std::time::Duration::from_millis(1)));
        let version = least.map_or(now, |least| now.max(least));
        self.last_version = Some(version);
        version
    }

    /// Creates missing instances, or kills surplus ones.
    fn scale(&mut self, id: &PathId, now: Timestamp) {
        let Some(entry) = self.run_specs.get(id) else {
            return;
        };
        let (run_spec, version) = (Arc::clone(&entry.run_spec), entry.version);
        let wanted = run_spec.instances();
        let mut kept: Vec<(bool, u64, InstanceId)> = self
            .instances_of(id)
            .into_iter()
            .filter(|instance| instance.goal == Goal::Running)
            .map(|instance| {
                let launched = !instance.is_scheduled();
                (launched, instance.age, instance.id.clone())
            })
            .collect();
        // Instances that wait for an offer go first.
        kept.sort_by(|left, right| match run_spec.kill_selection() {
            KillSelection::YoungestFirst => (left.0, right.1).cmp(&(right.0, left.1)),
            KillSelection::OldestFirst => (left.0, left.1).cmp(&(right.0, right.1)),
        });
        let surplus = kept.len().saturating_sub(wanted);
        let victims: Vec<InstanceId> = kept
            .iter()
            .take(surplus)
            .map(|(_, _, id)| id.clone())
            .collect();
        self.decommission(id, |instance| victims.contains(&instance.id));
        for _ in kept.len()..wanted {
            self.add_instance(&run_spec, version, now);
        }
        self.complete_deployments();
    }

    /// Creates an instance that waits for an offer.
    fn add_instance(&mut self, run_spec: &Arc<RunSpec>, version: Timestamp, now: Timestamp) {
        let form = match &**run_spec {
            _ if self.version.schedules_instances() => IdFormat::Incarnated,
            RunSpec::App(_) => IdFormat::OldApp,
            RunSpec::Pod(_) => IdFormat::OldPod,
        };
        self.next_age += 1;
        let instance = Instance {
            id: InstanceId::new(run_spec.id(), form, self.node),
            run_spec: Arc::clone(run_spec),
            version,
            goal: Goal::Running,
            incarnation: 1,
            agent: None,
            tasks: Vec::new(),
            since: now,
            kill_wanted: false,
            killed_at: None,
            age: self.next_age,
        };
        if self.version.schedules_instances() {
            self.events
                .push(Event::instance_changed(&instance, self.version));
        }
        self.instances.insert(instance.id.clone(), instance);
    }

    /// Kills instances; those that were not launched yet are removed.
    fn decommission(&mut self, id: &PathId, chosen: impl Fn(&Instance) -> bool) {
        let (version, events) = (self.version, &mut self.events);
        self.instances.retain(|_, instance| {
            let meant = instance.run_spec.id() == id && chosen(instance);
            if !meant || instance.goal == Goal::Decommissioned {
                return true;
            }
            instance.goal = Goal::Decommissioned;
            if version.schedules_instances() {
                events.push(Event::instance_changed(instance, version));
            }
            !instance.is_scheduled()
        });
    }

    /// Completes the deployments that have reached their goal.
    fn complete_deployments(&mut self) {
        let instances = &self.instances;
        let of = |id: &PathId| {
            let id = id.clone();
            instances
                .values()
                .filter(move |instance| *instance.run_spec.id() == id)
        };
        let mut done = Vec::new();
        let events = &mut self.events;
        self.deletions.retain(|id, deployment| {
            let left = of(id).next().is_some();
            if !left {
                events.push(Event::app_terminated(id));
                done.push(*deployment);
            }
            left
        });
        for (id, entry) in &mut self.run_specs {
            let running = |instance: &Instance| {
                instance.goal == Goal::Running
                    && instance.condition() == Condition::Running
                    && instance.is_ready()
            };
            let complete = of(id).all(running) && of(id).count() == entry.run_spec.instances();
            done.extend(entry.deployment.take_if(|_| complete));
        }
        for deployment in done {
            self.succeed(deployment);
        }
    }

    /// Starts a deployment; all of its steps but the last complete at once.
    fn deploy(&mut self, run_spec: &RunSpec, steps: &[Action], version: Timestamp) -> Uuid {
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

    /// Completes a deployment.
    fn succeed(&mut self, id: Uuid) {
        if let Some(deployment) = self.under_way.remove(&id) {
            if let Some(last) = deployment.steps.last() {
                let done = Event::deployment_step("deployment_step_success", &deployment, last);
                self.events.push(done);
            }
            self.events.push(Event::deployment_success(&deployment));
        }
    }

    /// Cancels a deployment in favour of another.
    fn cancel(&mut self, id: Option<Uuid>) {
        if let Some(deployment) = id.and_then(|id| self.under_way.remove(&id)) {
            let reason = "The upgrade has been cancelled";
            let failed = Event::deployment_failed(&deployment, reason);
            self.events.push(failed);
        }
    }
}
