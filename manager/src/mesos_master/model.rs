//! The master's tasks, agents and frameworks, with the fields that matter for networking. Caches
//! hold many tasks, so they are small: common strings are interned per snapshot.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use arcstr::ArcStr;

use super::ports::{Discovery, PortMapping};
use crate::task_state::{Liveness, TaskState};

/// Labels: keys and values.
pub type Labels = Box<[(Box<str>, Box<str>)]>;

/// Identifies a task: task ids are unique only within a framework.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TaskKey {
    /// The framework's id.
    pub framework: ArcStr,
    /// The task's id.
    pub task: ArcStr,
}

/// A task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Task {
    /// Its key.
    pub key: TaskKey,
    /// Its agent's id; `None` until it is placed.
    pub agent: Option<ArcStr>,
    /// Its executor's id, if it differs from the task's id.
    pub executor: Option<Box<str>>,
    /// Its labels.
    pub labels: Labels,
    /// Its name for those who look for it: that of its `DiscoveryInfo`, else its own.
    pub name: Option<ArcStr>,
    /// The ports that it declares; none if it declares nothing.
    pub discovery: Option<Arc<Discovery>>,
    /// What runs its container.
    pub kind: ContainerKind,
    /// Whether Mesos checks its health.
    pub has_health_check: bool,
    /// Whether what its framework has defined is known. No update of a task repeats that, so it is not
    /// known of a task of which only an update was seen: its agent came back.
    pub is_defined: bool,
    /// The time of its first status in milliseconds since 1970, by the sender's clock.
    pub first_status_at: Option<i64>,
    /// Its latest status.
    pub status: Status,
}

/// What runs a container.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum ContainerKind {
    /// Mesos itself, or nothing is known.
    #[default]
    Mesos,
    /// Docker, on a network.
    Docker,
    /// Docker, on the network of the host.
    DockerOnHost,
}

impl Task {
    /// A task of which nothing is known.
    #[must_use]
    pub fn undefined(key: TaskKey) -> Self {
        Self {
            key,
            agent: None,
            executor: None,
            labels: Labels::default(),
            name: None,
            discovery: None,
            kind: ContainerKind::default(),
            has_health_check: false,
            is_defined: false,
            first_status_at: None,
            status: Status::default(),
        }
    }

    /// Merges a newer status.
    pub(super) fn update(&mut self, newer: Status) {
        self.first_status_at = self.first_status_at.or(newer.at);
        self.status.update(newer);
    }

    /// Its executor's id. For a command task it is the task's id.
    #[must_use]
    pub fn executor(&self) -> &str {
        self.executor.as_deref().unwrap_or(&self.key.task)
    }
}

/// The latest status of a task.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// Its state.
    pub state: TaskState,
    /// Its container id with its parents, outermost first and joined by dots, in Mesos' format.
    /// `None` before the container exists.
    pub container: Option<Box<str>>,
    /// Its networks: the requested ones before it runs, then the actual ones.
    pub networks: Box<[Network]>,
    /// The time of the status in milliseconds since 1970, by the sender's clock. For display only.
    pub at: Option<i64>,
    /// What the health check of Mesos found.
    pub healthy: Option<bool>,
}

impl Status {
    /// The addresses on all networks, in order.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.networks
            .iter()
            .flat_map(|network| network.addresses.iter())
            .copied()
    }

    /// The outermost container's id.
    #[must_use]
    pub fn root_container(&self) -> Option<&str> {
        self.container.as_deref()?.split('.').next()
    }

    /// Merges a newer status. Not every status repeats the container and its networks.
    pub(super) fn update(&mut self, newer: Self) {
        self.state = newer.state;
        if newer.container.is_some() {
            self.container = newer.container;
        }
        if !newer.networks.is_empty() {
            let older = std::mem::replace(&mut self.networks, newer.networks);
            keep_requested(&older, &mut self.networks);
        }
        // That an agent is unreachable says nothing about the health.
        if newer.state.liveness() != Liveness::Uncertain {
            self.healthy = newer.healthy;
        }
        self.at = newer.at.or(self.at);
    }
}

/// Keeps what not every status repeats of the networks that were requested.
fn keep_requested(older: &[Network], newer: &mut [Network]) {
    let has_more = |network: &&Network| !network.mappings.is_empty() || network.is_virtual;
    if !older.iter().any(|network| has_more(&network)) {
        return;
    }
    let is_same_list = older.len() == newer.len();
    let by_name: HashMap<_, _> = older
        .iter()
        .filter(has_more)
        .map(|network| (&network.name, network))
        .collect();
    for (index, network) in newer.iter_mut().enumerate() {
        let by_place = || older.get(index).filter(|_| is_same_list);
        let named = by_name.get(&network.name).copied();
        let Some(requested) = named.or_else(by_place) else {
            continue;
        };
        network.is_virtual |= requested.is_virtual;
        if network.mappings.is_empty() {
            network.mappings.clone_from(&requested.mappings);
        }
    }
}

/// A network of a container.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Network {
    /// Its name; `None` for the host network.
    pub name: Option<ArcStr>,
    /// Its labels.
    pub labels: Labels,
    /// The container's addresses on it.
    pub addresses: Box<[IpAddr]>,
    /// The ports of the host that are mapped to the container.
    pub mappings: Box<[PortMapping]>,
    /// Whether its labels name a virtual network of Contrail.
    pub is_virtual: bool,
}

/// An agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Agent {
    /// Its id.
    pub id: ArcStr,
    /// Its host name.
    pub host: Box<str>,
    /// Its address, if the master reports it.
    pub address: Option<IpAddr>,
    /// Whether it is connected. `false` for an agent that registered with an earlier leader and has
    /// not reregistered yet.
    pub active: bool,
    /// Its text attributes.
    pub attributes: Labels,
    /// Whether it registered with an earlier leader and has not reregistered with this one yet: the master
    /// does not know its tasks. After a time that the master decides, it is unreachable.
    pub is_recovered: bool,
}

/// A framework.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Framework {
    /// Its id.
    pub id: ArcStr,
    /// Its name.
    pub name: Box<str>,
    /// Whether its scheduler is connected.
    pub active: bool,
}

/// An executor that a framework defines.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Executor {
    /// The framework's id.
    pub framework: ArcStr,
    /// The id of its agent.
    pub agent: ArcStr,
    /// Its id.
    pub id: Box<str>,
}

/// An element that could not be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Skipped {
    /// The kind of element: a task, an agent, ….
    pub kind: &'static str,
    /// Why it could not be read.
    pub problem: Box<str>,
}

/// A change of the state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A task was launched.
    TaskAdded(Box<Task>),
    /// A task has changed. Fields that are `None` or empty are unchanged.
    TaskUpdated {
        /// The task's key.
        key: TaskKey,
        /// Its agent.
        agent: Option<ArcStr>,
        /// Its executor's id, if it differs from the task's id.
        executor: Option<Box<str>>,
        /// Its new status.
        status: Box<Status>,
    },
    /// An agent has registered or reregistered.
    AgentAdded(Box<Agent>),
    /// An agent was removed: it shut down, was marked gone, or is unreachable. Its tasks may still
    /// run.
    AgentRemoved(ArcStr),
    /// A framework has registered, reconnected or disconnected.
    FrameworkChanged(Framework),
    /// A framework and its tasks were removed.
    FrameworkRemoved(ArcStr),
}

/// The whole state at one time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// The tasks of all frameworks that are not terminal. Boxed: a hash table over-allocates.
    pub tasks: HashMap<TaskKey, Box<Task>>,
    /// The agents.
    pub agents: HashMap<ArcStr, Agent>,
    /// The frameworks.
    pub frameworks: HashMap<ArcStr, Framework>,
    /// The frameworks' executors, as of the snapshot: no event reports that one ended, and one may
    /// outlive its tasks.
    pub executors: HashSet<Executor>,
    /// Elements that could not be read. They exist, and must not be treated as removed.
    pub skipped: Vec<Skipped>,
}

impl State {
    /// Whether no element was skipped.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.skipped.is_empty()
    }

    /// The agent of a task, if the master knows it.
    #[must_use]
    pub fn agent_of(&self, task: &Task) -> Option<&Agent> {
        self.agents.get(task.agent.as_ref()?)
    }

    /// Applies a change. Removes a task with a terminal state.
    pub fn apply(&mut self, change: Change) {
        match change {
            Change::TaskAdded(task) => {
                self.tasks.insert(task.key.clone(), task);
            }
            Change::TaskUpdated {
                key,
                agent,
                executor,
                status,
            } => {
                if status.state.is_ended() {
                    self.tasks.remove(&key);
                } else if let Some(task) = self.tasks.get_mut(&key) {
                    task.agent = agent.or(task.agent.take());
                    task.executor = executor.or(task.executor.take());
                    task.update(*status);
                } else {
                    // A reregistered agent reported it.
                    let task = Task {
                        agent,
                        executor,
                        first_status_at: status.at,
                        status: *status,
                        ..Task::undefined(key.clone())
                    };
                    self.tasks.insert(key, Box::new(task));
                }
            }
            Change::AgentAdded(agent) => {
                self.agents.insert(agent.id.clone(), *agent);
            }
            Change::AgentRemoved(id) => {
                self.agents.remove(&id);
            }
            Change::FrameworkChanged(framework) => {
                self.frameworks.insert(framework.id.clone(), framework);
            }
            Change::FrameworkRemoved(id) => {
                self.frameworks.remove(&id);
                self.tasks.retain(|key, _| key.framework != id);
                self.executors.retain(|executor| executor.framework != id);
            }
        }
    }
}
