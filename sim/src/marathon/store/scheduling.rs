//! What the store exchanges with Mesos: offers, statuses and kills.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::failure::{Failure, MAX_FAILURES};
use super::health;
use super::{LaunchDelay, Store};
use crate::harness::clock::Timestamp;
use crate::marathon::events::Event;
use crate::marathon::id::InstanceId;
use crate::marathon::instance::{Agent, Condition, Goal, Instance, Task};
use crate::marathon::launch::offer::Offer;
use crate::marathon::launch::{Launch, Placement, place};
use crate::marathon::model::constraint;
use crate::marathon::status::TaskStatus;

/// `--kill_retry_timeout`: when to ask again to kill a task.
const KILL_RETRY_INTERVAL: Duration = Duration::from_secs(10);
/// `--minimum_viable_task_execution_duration`: a task that ran this long did start.
const MIN_VIABLE_RUNTIME: Duration = Duration::from_mins(1);

/// A task to kill, and its agent.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "named as in Mesos' Call.Kill")]
pub struct Kill {
    pub task_id: String,
    pub agent_id: Option<String>,
}

impl Store {
    /// How many instances wait for an offer and may be launched now.
    #[must_use]
    pub fn demand(&self, now: Timestamp) -> usize {
        let due = |instance: &&Instance| self.is_due(instance, now);
        self.instances.values().filter(due).count()
    }

    fn is_due(&self, instance: &Instance, now: Timestamp) -> bool {
        let delay = self.delays.get(instance.run_spec.id());
        instance.is_scheduled()
            && instance.goal == Goal::Running
            && delay.is_none_or(|delay| delay.is_over(now))
    }

    /// Launches as many instances on this offer as fit.
    pub fn launch(&mut self, offer: &mut Offer, now: Timestamp) -> Vec<Placement> {
        let mut due: Vec<(u64, InstanceId)> = self
            .instances
            .values()
            .filter(|instance| self.is_due(instance, now))
            .map(|instance| (instance.age, instance.id.clone()))
            .collect();
        due.sort();
        let mut placements = Vec::new();
        for (_, id) in due {
            if !self.is_admitted(&id, offer) {
                continue;
            }
            let Some(instance) = self.instances.get_mut(&id) else {
                continue;
            };
            let hostname = offer.hostname.clone();
            let launch = Launch {
                instance: &id,
                incarnation: instance.incarnation,
                version: instance.version,
                hostname: &hostname,
                bridge: &self.defaults.mesos_bridge_name,
                images: &self.images,
            };
            if let Some(placement) = place(&instance.run_spec, &launch, offer) {
                provision(instance, offer, &placement, now);
                self.events
                    .push(Event::instance_changed(instance, self.version));
                placements.push(placement);
            }
        }
        placements
    }

    /// Whether the constraints of an instance admit the agent of an offer.
    fn is_admitted(&self, id: &InstanceId, offer: &Offer) -> bool {
        let Some(instance) = self.instances.get(id) else {
            return false;
        };
        let constraints = instance.run_spec.constraints();
        let others = || {
            let path = instance.run_spec.id();
            let others = self.instances.values();
            others.filter(move |other| other.run_spec.id() == path && other.goal == Goal::Running)
        };
        constraints.iter().all(|constraint| {
            let field = constraint.first().map_or("", String::as_str);
            let agents = others().filter_map(|other| other.agent.as_ref());
            let used: Vec<Option<&str>> = agents.map(|agent| agent.value(field)).collect();
            let offered = offer.value(field);
            constraint::admits(constraint, offered.as_deref(), &used)
        })
    }

    /// Applies a task status. Returns the task to kill if it is unknown.
    pub fn apply(&mut self, status: TaskStatus, now: Timestamp) -> Option<Kill> {
        let instance = InstanceId::of_task(&status.task_id)
            .and_then(|id| self.instances.get_mut(&id))
            .filter(|own| own.tasks.iter().any(|task| task.id == status.task_id));
        let Some(instance) = instance else {
            let stranger = InstanceId::of_task(&status.task_id);
            if let Some(id) = stranger.filter(|_| status.condition.is_terminal()) {
                let event = Event::unknown_terminated(&id, status.condition, self.version);
                self.events.push(event);
            }
            return (!status.condition.is_terminal()).then_some(Kill {
                task_id: status.task_id,
                agent_id: status.agent_id,
            });
        };
        let before = instance.condition();
        let mut changed = None;
        for (index, task) in instance.tasks.iter_mut().enumerate() {
            if task.id == status.task_id && update(task, &status, now) {
                changed = Some(index);
            }
        }
        if instance.condition() != before {
            instance.since = now;
            self.events
                .push(Event::instance_changed(instance, self.version));
        }
        if let Some(task) = changed.and_then(|index| instance.tasks.get(index)) {
            self.events.push(Event::status_update(instance, task));
        }
        let index = instance
            .tasks
            .iter()
            .position(|task| task.id == status.task_id);
        if let (Some(index), Some(healthy)) = (index, status.healthy) {
            self.events
                .extend(health::add_status(instance, index, healthy, now));
        }
        if instance.has_ended() {
            let id = instance.id.clone();
            self.end(&id, now);
        }
        self.complete_deployments();
        None
    }

    /// Removes an instance that has ended, or schedules it again.
    fn end(&mut self, id: &InstanceId, now: Timestamp) {
        let Some(instance) = self.instances.get_mut(id) else {
            return;
        };
        if instance.goal == Goal::Decommissioned {
            self.instances.remove(id);
            return;
        }
        let path = instance.run_spec.id().clone();
        if let Some(failure) = Failure::of(instance, now) {
            let started = instance.tasks.iter().filter_map(|task| task.started_at);
            let viable = started
                .min()
                .is_some_and(|at| at.elapsed_until(now) >= MIN_VIABLE_RUNTIME);
            let previous = self.delays.remove(&path).filter(|_| !viable);
            if failure.condition.delays_launch() {
                let delay = LaunchDelay::after(previous, &instance.run_spec.backoff(), now);
                self.delays.insert(path.clone(), delay);
            }
            if let Some(entry) = self.run_specs.get_mut(&path) {
                entry.terminated.push(failure.clone());
                let surplus = entry.terminated.len().saturating_sub(MAX_FAILURES);
                entry.terminated.drain(..surplus);
                entry.last_failure = Some(failure);
            }
        }
        if !self.version.schedules_instances() {
            let (run_spec, version) = (Arc::clone(&instance.run_spec), instance.version);
            self.instances.remove(id);
            self.add_instance(&run_spec, version, now);
            return;
        }
        let Some(instance) = self.instances.get_mut(id) else {
            return;
        };
        instance.tasks.clear();
        instance.agent = None;
        instance.kill_wanted = false;
        instance.killed_at = None;
        instance.incarnation += 1;
        instance.since = now;
        self.events
            .push(Event::instance_changed(instance, self.version));
    }

    /// The tasks that Mesos should be asked to kill now.
    pub fn kills(&mut self, now: Timestamp) -> Vec<Kill> {
        let mut kills = Vec::new();
        for instance in self.instances.values_mut() {
            let asked = instance
                .killed_at
                .is_some_and(|at| at.elapsed_until(now) < KILL_RETRY_INTERVAL);
            let wanted = instance.goal == Goal::Decommissioned || instance.kill_wanted;
            if !wanted || asked {
                continue;
            }
            instance.killed_at = Some(now);
            let agent_id = instance.agent.as_ref().map(|agent| agent.id.clone());
            let alive = instance
                .tasks
                .iter()
                .filter(|task| !task.condition.is_terminal());
            kills.extend(alive.map(|task| Kill {
                task_id: task.id.clone(),
                agent_id: agent_id.clone(),
            }));
        }
        kills
    }

    /// The tasks that Mesos should know, for reconciliation.
    #[must_use]
    pub fn known_tasks(&self) -> Vec<Kill> {
        let launched = self.instances.values().flat_map(|instance| {
            let agent_id = instance.agent.as_ref().map(|agent| agent.id.clone());
            instance
                .tasks
                .iter()
                .map(move |task| (task, agent_id.clone()))
        });
        launched
            .filter(|(task, _)| !task.condition.is_terminal())
            .map(|(task, agent_id)| Kill {
                task_id: task.id.clone(),
                agent_id,
            })
            .collect()
    }
}

fn provision(instance: &mut Instance, offer: &Offer, placement: &Placement, now: Timestamp) {
    instance.agent = Some(Agent {
        id: offer.agent_id.clone(),
        host: offer.hostname.clone(),
        region: offer.region.clone(),
        zone: offer.zone.clone(),
        attributes: offer.attributes.clone(),
    });
    let launched = placement.tasks.iter();
    instance.tasks = launched
        .map(|launched| Task {
            id: launched.id.clone(),
            container: launched.container.clone(),
            condition: Condition::Provisioned,
            staged_at: now,
            started_at: None,
            since: now,
            updated: now,
            host_ports: launched.host_ports.clone(),
            addresses: Vec::new(),
            message: None,
            health: BTreeMap::new(),
            probes: BTreeMap::new(),
        })
        .collect();
    instance.since = now;
}

/// Applies a status to a task; returns whether the change is worth an event.
fn update(task: &mut Task, status: &TaskStatus, now: Timestamp) -> bool {
    // Mesos may repeat a status, and terminal conditions are final.
    if task.condition.is_terminal() {
        return false;
    }
    let mut changed = task.condition != status.condition;
    if changed {
        task.condition = status.condition;
        task.since = now;
    }
    task.updated = now;
    if status.condition == Condition::Running {
        task.started_at.get_or_insert(now);
    }
    if let Some(addresses) = &status.addresses {
        changed |= task.addresses != *addresses;
        task.addresses.clone_from(addresses);
    }
    if status.message.is_some() {
        task.message.clone_from(&status.message);
    }
    changed
}
