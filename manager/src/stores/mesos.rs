//! What Mesos says: which container each task is, and which agents there are.
//!
//! Invariant: a container is forgotten only when every task of it has ended or is listed no more;
//! when that was, is remembered until the next list.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use arcstr::ArcStr;
use tokio::time::Instant;
use uuid::Uuid;

use super::source::Source;
use crate::intern::Interner;
use crate::mesos_master::{Agent, Change, Executor, Framework, Skipped, State, Task, TaskKey};
use contrail_mesos_api::agent_api;
use contrail_mesos_api::container::ContainerId;

/// How long an agent that is gone is remembered; longer than anybody waits for it.
const REMEMBERED: Duration = Duration::from_hours(48);

/// What Mesos says.
#[derive(Clone, Debug, Default)]
pub(crate) struct MesosView {
    pub source: Source,
    state: State,
    /// The tasks of each machine: of the container itself, and of those inside it.
    machines: HashMap<Uuid, Claims>,
    /// Since when each agent has been connected.
    connected: HashMap<ArcStr, Instant>,
    /// Agents by host name, lower case.
    hosts: HashMap<Box<str>, ArcStr>,
    addresses: HashMap<IpAddr, ArcStr>,
    /// Since when agents that were there are not.
    gone: HashMap<ArcStr, Instant>,
    /// Machines that have lost their last task, and when, until that is forgotten.
    vanished: HashMap<Uuid, Instant>,
    /// The executors of each agent.
    executors: HashMap<ArcStr, Vec<Executor>>,
    /// Tasks of each agent that have not said what their container is.
    unplaced: HashMap<ArcStr, u32>,
}

/// The tasks of one container: one but in pods.
#[derive(Clone, Debug)]
enum Claims {
    One(TaskKey),
    Many(Vec<TaskKey>),
}

impl Claims {
    fn as_slice(&self) -> &[TaskKey] {
        match self {
            Self::One(key) => std::slice::from_ref(key),
            Self::Many(keys) => keys,
        }
    }
}

/// The machines that a container and those around it would have, were they on a network.
fn machines_of(container: &str) -> impl Iterator<Item = Uuid> {
    let mut id: Option<ContainerId> = None;
    container.split('.').map(move |value| {
        let next = match &id {
            None => ContainerId::top_level(value),
            Some(parent) => parent.nested(value),
        };
        let machine = agent_api::vm_uuid(&next);
        id = Some(next);
        machine
    })
}

impl MesosView {
    /// The list is lost.
    pub(crate) fn lost(&mut self, now: Instant, why: &str) {
        self.source.lost(now, why);
    }

    /// Takes over a new list.
    pub(crate) fn listed(&mut self, mut state: State, now: Instant, settle: Duration) {
        for task in state.tasks.values_mut() {
            slim(task);
        }
        let old = std::mem::take(&mut self.machines);
        let agents_before: Vec<ArcStr> = self.state.agents.keys().cloned().collect();
        self.executors.clear();
        for executor in std::mem::take(&mut state.executors) {
            let on_it = self.executors.entry(executor.agent.clone());
            on_it.or_default().push(executor);
        }
        self.state = state;
        self.index();
        let sizes = [
            (old.len(), self.machines.len()),
            (agents_before.len(), self.state.agents.len()),
        ];
        // Of the two the one that says less.
        let worse = sizes.into_iter().max_by_key(|(before, after)| {
            let lost = before.saturating_sub(*after);
            (lost * 1000).checked_div(*before).unwrap_or(0)
        });
        let complete = self.state.is_complete();
        self.source
            .listed(now, worse.unwrap_or_default(), complete, settle);
        for machine in old.into_keys() {
            if !self.machines.contains_key(&machine) {
                self.vanished.insert(machine, now);
            }
        }
        for agent in agents_before {
            if !self.state.agents.contains_key(&agent) {
                self.gone.entry(agent).or_insert(now);
            }
        }
        self.gone.retain(|agent, since| {
            !self.state.agents.contains_key(agent) && now - *since < REMEMBERED
        });
        let agents = self.state.agents.values().filter(|agent| agent.active);
        self.connected = agents
            .map(|agent| {
                let since = self.connected.get(&agent.id).copied().unwrap_or(now);
                (agent.id.clone(), since)
            })
            .collect();
    }

    fn index(&mut self) {
        self.machines.clear();
        self.unplaced.clear();
        self.hosts.clear();
        self.addresses.clear();
        let state = std::mem::take(&mut self.state);
        self.machines.reserve(state.tasks.len());
        for task in state.tasks.values() {
            self.claim(task);
        }
        for agent in state.agents.values() {
            self.name(agent);
        }
        self.state = state;
    }

    fn name(&mut self, agent: &Agent) {
        self.hosts
            .insert(agent.host.to_lowercase().into(), agent.id.clone());
        if let Some(address) = agent.address {
            self.addresses.insert(address, agent.id.clone());
        }
    }

    fn claim(&mut self, task: &Task) {
        let Some(container) = &task.status.container else {
            if let Some(agent) = &task.agent {
                *self.unplaced.entry(agent.clone()).or_default() += 1;
            }
            return;
        };
        for machine in machines_of(container) {
            self.vanished.remove(&machine);
            match self.machines.get_mut(&machine) {
                None => {
                    self.machines.insert(machine, Claims::One(task.key.clone()));
                }
                Some(claims) if claims.as_slice().contains(&task.key) => {}
                Some(Claims::Many(keys)) => keys.push(task.key.clone()),
                Some(claims) => {
                    let keys = claims.as_slice().iter().chain([&task.key]);
                    *claims = Claims::Many(keys.cloned().collect());
                }
            }
        }
    }

    fn unclaim(&mut self, task: &Task, now: Instant) {
        let Some(container) = &task.status.container else {
            if let Some(agent) = &task.agent
                && let Some(count) = self.unplaced.get_mut(agent)
            {
                *count -= 1;
                if *count == 0 {
                    self.unplaced.remove(agent);
                }
            }
            return;
        };
        for machine in machines_of(container) {
            let Some(claims) = self.machines.get_mut(&machine) else {
                continue;
            };
            let left = claims.as_slice().iter().filter(|key| **key != task.key);
            let mut left: Vec<TaskKey> = left.cloned().collect();
            match left.len() {
                0 => {
                    self.machines.remove(&machine);
                    self.vanished.insert(machine, now);
                }
                1 => *claims = Claims::One(left.remove(0)),
                _ => *claims = Claims::Many(left),
            }
        }
    }

    /// Takes over a change; says which machines it may be about.
    pub(crate) fn apply(&mut self, mut change: Change, now: Instant) -> Vec<Uuid> {
        let mut touched = vec![];
        match &mut change {
            Change::TaskAdded(task) => slim(task),
            Change::TaskUpdated { status, .. } => status.networks = Box::default(),
            _ => {}
        }
        match &change {
            Change::TaskAdded(_) | Change::TaskUpdated { .. } => {
                let key = match &change {
                    Change::TaskAdded(task) => task.key.clone(),
                    Change::TaskUpdated { key, .. } => key.clone(),
                    _ => return touched,
                };
                if let Some(task) = self.state.tasks.get(&key).cloned() {
                    touched.extend(task.status.container.iter().flat_map(|id| machines_of(id)));
                    self.unclaim(&task, now);
                }
                self.state.apply(change);
                if let Some(task) = self.state.tasks.get(&key).cloned() {
                    self.claim(&task);
                    touched.extend(task.status.container.iter().flat_map(|id| machines_of(id)));
                }
                touched.sort_unstable();
                touched.dedup();
            }
            Change::AgentAdded(agent) => {
                self.gone.remove(&agent.id);
                if agent.active {
                    self.connected.entry(agent.id.clone()).or_insert(now);
                } else {
                    self.connected.remove(&agent.id);
                }
                self.name(agent);
                self.state.apply(change);
            }
            Change::AgentRemoved(id) => {
                if self.state.agents.contains_key(id) {
                    self.gone.entry(id.clone()).or_insert(now);
                }
                self.connected.remove(id);
                self.state.apply(change);
            }
            Change::FrameworkRemoved(id) => {
                for on_it in self.executors.values_mut() {
                    on_it.retain(|executor| executor.framework != *id);
                }
                let before = std::mem::take(&mut self.machines);
                self.state.apply(change);
                self.index();
                for machine in before.into_keys() {
                    if !self.machines.contains_key(&machine) {
                        self.vanished.insert(machine, now);
                        touched.push(machine);
                    }
                }
            }
            Change::FrameworkChanged(_) => self.state.apply(change),
        }
        touched
    }

    /// A task of the container with that machine: the first by its id.
    pub(crate) fn task_of(&self, machine: Uuid) -> Option<&Task> {
        let first = self.machines.get(&machine)?.as_slice().iter().min()?;
        self.state.tasks.get(first).map(Box::as_ref)
    }

    /// The name of a framework.
    pub(crate) fn framework(&self, id: &str) -> Option<&str> {
        Some(&self.state.frameworks.get(id)?.name)
    }

    /// An agent by its id.
    pub(crate) fn agent(&self, id: &str) -> Option<&Agent> {
        self.state.agents.get(id)
    }

    /// The agent of a host of that name or address.
    pub(crate) fn agent_at(&self, host: &str, address: Option<IpAddr>) -> Option<&Agent> {
        let host = host.to_lowercase();
        let by_name = self.hosts.get(host.as_str());
        let by_address = || self.addresses.get(&address.or_else(|| host.parse().ok())?);
        let by_host = || self.hosts.get(address?.to_string().as_str());
        let id = by_name.or_else(by_address).or_else(by_host)?;
        self.state.agents.get(id)
    }

    /// All agents.
    pub(crate) fn agents(&self) -> impl ExactSizeIterator<Item = &Agent> {
        self.state.agents.values()
    }

    /// All tasks.
    pub(crate) fn tasks(&self) -> impl ExactSizeIterator<Item = &Task> {
        self.state.tasks.values().map(Box::as_ref)
    }

    /// All frameworks.
    pub(crate) fn frameworks(&self) -> impl ExactSizeIterator<Item = &Framework> {
        self.state.frameworks.values()
    }

    /// What of the last list could not be read.
    pub(crate) fn skipped(&self) -> &[Skipped] {
        &self.state.skipped
    }

    /// Since when an agent has been connected.
    pub(crate) fn connected_since(&self, agent: &str) -> Option<Instant> {
        self.connected.get(agent).copied()
    }

    /// Since when an agent is gone that was there while we looked.
    pub(crate) fn gone_since(&self, agent: &str) -> Option<Instant> {
        self.gone.get(agent).copied()
    }

    /// When a machine lost its last task, unless that is forgotten.
    pub(crate) fn vanished_at(&self, machine: Uuid) -> Option<Instant> {
        self.vanished.get(&machine).copied()
    }

    /// Forgets which machines lost their last task before then.
    pub(crate) fn forget_vanished(&mut self, before: Instant) {
        self.vanished.retain(|_, at| *at >= before);
    }

    /// Whether a task of an agent has not said what its container is.
    pub(crate) fn has_unplaced(&self, agent: &str) -> bool {
        self.unplaced.contains_key(agent)
    }

    /// Whether an agent has this executor: `None` for any that has no task.
    pub(crate) fn has_executor(&self, agent: &str, which: Option<(&str, &str)>) -> bool {
        let mut on_it = self.executors.get(agent).into_iter().flatten();
        on_it.any(|executor| match which {
            Some((framework, id)) => &*executor.framework == framework && &*executor.id == id,
            None => !self.state.tasks.values().any(|task| {
                task.key.framework == executor.framework && task.executor() == &*executor.id
            }),
        })
    }
}

/// A state whose ids are those that others have already.
pub(crate) fn share(mut state: State, texts: &mut Interner) -> State {
    let tasks = std::mem::take(&mut state.tasks).into_values();
    state.tasks = tasks
        .map(|mut task| {
            task.key.framework = texts.share(&task.key.framework);
            task.key.task = texts.share(&task.key.task);
            task.agent = task.agent.map(|agent| texts.share(&agent));
            (task.key.clone(), task)
        })
        .collect();
    state
}

/// Without what nobody here looks at.
fn slim(task: &mut Task) {
    task.labels = Box::default();
    task.status.networks = Box::default();
}
