//! What should run, and the instances that there are: no input or output, and no clock of its own.
//!
//! Invariants: a run spec that was deleted is gone from `run_specs` at once, while its instances
//! stay until Mesos has said that each of their tasks has ended; nothing is launched for a path
//! that has instances of a deleted run spec.

use std::collections::BTreeMap;
use std::sync::Arc;

use uuid::Uuid;

use super::id::{InstanceId, PathId};
use super::instance::{Condition, Goal, Instance};
use super::launch::image::Images;
use super::model::Defaults;
use super::model::app::KillSelection;
use super::model::run_spec::RunSpec;
use super::time::Timestamp;
use delay::Delay;
pub use failure::Failure;

mod delay;
mod failure;
pub mod scheduling;
#[cfg(test)]
mod tests;

/// Service ports are given out from here.
const SERVICE_PORTS: std::ops::Range<u16> = 10_000..20_000;

/// Why a change was not made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum Refusal {
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

/// A run spec that should run.
#[derive(Clone, Debug)]
pub struct Entry {
    /// It.
    pub run_spec: Arc<RunSpec>,
    /// When it was last changed in any way: its version.
    pub version: Timestamp,
    /// When only the number of instances was last changed.
    pub last_scaling: Timestamp,
    /// When anything else was last changed.
    pub last_config_change: Timestamp,
    /// The deployment that is under way.
    pub deployment: Option<Uuid>,
    /// The last task that failed.
    pub last_failure: Option<Failure>,
    /// The last instances that ended by themselves.
    pub terminated: Vec<Failure>,
}

/// Everything.
#[derive(Debug)]
pub struct Store {
    /// What definitions leave open.
    pub defaults: Defaults,
    /// What stands in for images.
    pub images: Images,
    /// The framework's id, once the master has given one.
    pub framework_id: Option<String>,
    run_specs: BTreeMap<PathId, Entry>,
    instances: BTreeMap<InstanceId, Instance>,
    deletions: BTreeMap<PathId, Uuid>,
    delays: BTreeMap<PathId, Delay>,
    node: [u8; 6],
    next_age: u64,
    last_version: Option<Timestamp>,
}

impl Store {
    /// An empty one.
    #[must_use]
    pub fn new(defaults: Defaults, images: Images) -> Self {
        let mut node = [0; 6];
        node.copy_from_slice(&Uuid::new_v4().as_bytes()[..6]);
        // The multicast bit marks a station that is no network card.
        node[0] |= 1;
        Self {
            defaults,
            images,
            framework_id: None,
            run_specs: BTreeMap::new(),
            instances: BTreeMap::new(),
            deletions: BTreeMap::new(),
            delays: BTreeMap::new(),
            node,
            next_age: 0,
            last_version: None,
        }
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

    /// The instances of a run spec that is not deleted, oldest first.
    #[must_use]
    pub fn instances_of(&self, id: &PathId) -> Vec<&Instance> {
        let instances = self.instances.values();
        let mut own: Vec<&Instance> = instances
            .filter(|instance| instance.run_spec.id() == id)
            .collect();
        own.sort_by_key(|instance| instance.age);
        own
    }

    /// Every instance there is, those of deleted run specs included.
    pub fn instances(&self) -> impl Iterator<Item = &Instance> {
        self.instances.values()
    }

    /// The deployments that are under way, each with what it is about.
    #[must_use]
    pub fn deployments(&self) -> Vec<(Uuid, PathId)> {
        let changed = self.run_specs.iter();
        let changed = changed.filter_map(|(id, entry)| Some((entry.deployment?, id.clone())));
        let deleted = self.deletions.iter();
        let deleted = deleted.map(|(id, deployment)| (*deployment, id.clone()));
        changed.chain(deleted).collect()
    }

    /// Adds a run spec.
    pub fn create(&mut self, mut run_spec: RunSpec, now: Timestamp) -> Result<Uuid, Refusal> {
        let id = run_spec.id().clone();
        if self.run_specs.contains_key(&id) {
            return Err(Refusal::Exists(id));
        }
        self.check_lock(&id, false)?;
        self.assign_service_ports(&mut run_spec);
        let (version, deployment) = (self.next_version(now), Uuid::new_v4());
        self.run_specs.insert(
            id.clone(),
            Entry {
                run_spec: Arc::new(run_spec),
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

    /// Changes a run spec. If anything but the number of instances is different, all instances
    /// are replaced at once: the upgrade strategy is not heeded.
    pub fn update(
        &mut self,
        mut run_spec: RunSpec,
        force: bool,
        now: Timestamp,
    ) -> Result<Uuid, Refusal> {
        let id = run_spec.id().clone();
        self.check_lock(&id, force)?;
        self.assign_service_ports(&mut run_spec);
        let (version, deployment) = (self.next_version(now), Uuid::new_v4());
        let Some(entry) = self.run_specs.get_mut(&id) else {
            return Err(Refusal::Unknown(id));
        };
        let only_scales = entry.run_spec.only_scales(&run_spec);
        entry.run_spec = Arc::new(run_spec);
        entry.version = version;
        entry.deployment = Some(deployment);
        if only_scales {
            entry.last_scaling = version;
        } else {
            entry.last_config_change = version;
            self.delays.remove(&id);
            self.decommission(&id, |_| true);
        }
        self.scale(&id, now);
        Ok(deployment)
    }

    /// Replaces all instances of a run spec, at once.
    pub fn restart(&mut self, id: &PathId, force: bool, now: Timestamp) -> Result<Uuid, Refusal> {
        self.check_lock(id, force)?;
        let (version, deployment) = (self.next_version(now), Uuid::new_v4());
        let Some(entry) = self.run_specs.get_mut(id) else {
            return Err(Refusal::Unknown(id.clone()));
        };
        entry.version = version;
        entry.last_config_change = version;
        entry.deployment = Some(deployment);
        self.delays.remove(id);
        self.decommission(id, |_| true);
        self.scale(id, now);
        Ok(deployment)
    }

    /// Takes a run spec away, and has its instances killed.
    pub fn delete(&mut self, id: &PathId, force: bool) -> Result<Uuid, Refusal> {
        if !self.run_specs.contains_key(id) {
            return Err(Refusal::Unknown(id.clone()));
        }
        self.check_lock(id, force)?;
        self.run_specs.remove(id);
        self.delays.remove(id);
        self.decommission(id, |_| true);
        let deployment = Uuid::new_v4();
        self.deletions.insert(id.clone(), deployment);
        self.settle();
        Ok(deployment)
    }

    fn check_lock(&self, id: &PathId, force: bool) -> Result<(), Refusal> {
        let deployment = self.run_specs.get(id).and_then(|entry| entry.deployment);
        match self.deletions.get(id).copied().or(deployment) {
            Some(deployment) if !force => Err(Refusal::Locked(deployment)),
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

    /// Versions are told apart by their time, so none is given twice.
    fn next_version(&mut self, now: Timestamp) -> Timestamp {
        let least = self
            .last_version
            .map(|last| last.after(std::time::Duration::from_millis(1)));
        let version = least.map_or(now, |least| now.max(least));
        self.last_version = Some(version);
        version
    }

    /// Makes as many instances as there should be, or has some killed.
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
        // What waits for an offer goes first: it costs nothing.
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
            let instance = InstanceId::new(id, self.node);
            self.next_age += 1;
            let fresh = Instance {
                id: instance.clone(),
                run_spec: Arc::clone(&run_spec),
                version,
                goal: Goal::Running,
                incarnation: 1,
                agent: None,
                tasks: Vec::new(),
                since: now,
                killed_at: None,
                age: self.next_age,
            };
            self.instances.insert(instance, fresh);
        }
        self.settle();
    }

    /// Has instances killed; those that were not launched yet are forgotten.
    fn decommission(&mut self, id: &PathId, chosen: impl Fn(&Instance) -> bool) {
        self.instances.retain(|_, instance| {
            if instance.run_spec.id() == id && chosen(instance) {
                instance.goal = Goal::Decommissioned;
                return !instance.is_scheduled();
            }
            true
        });
    }

    /// Ends the deployments that have reached what they were for.
    fn settle(&mut self) {
        let instances = &self.instances;
        let of = |id: &PathId| {
            let id = id.clone();
            instances
                .values()
                .filter(move |instance| *instance.run_spec.id() == id)
        };
        self.deletions.retain(|id, _| of(id).next().is_some());
        for (id, entry) in &mut self.run_specs {
            let running = |instance: &Instance| {
                instance.goal == Goal::Running && instance.condition() == Condition::Running
            };
            if of(id).all(running) && of(id).count() == entry.run_spec.instances() {
                entry.deployment = None;
            }
        }
    }
}
