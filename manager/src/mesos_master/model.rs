//! What the master says there is, in the fields that networks are about. Many tasks are kept at a
//! time, so they are small: texts that many share are kept once in a snapshot.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use arcstr::ArcStr;

use crate::task_state::TaskState;

/// Labels: keys and values.
pub type Labels = Box<[(Box<str>, Box<str>)]>;

/// Which task: frameworks give out ids of their own.
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
    /// Which.
    pub key: TaskKey,
    /// The id of its agent; none until it is placed.
    pub agent: Option<ArcStr>,
    /// The id of its executor, where that is not the task's own.
    pub executor: Option<Box<str>>,
    /// Its labels.
    pub labels: Labels,
    /// What is known of it latest.
    pub status: Status,
}

impl Task {
    /// The id of its executor. A command task's is its own.
    #[must_use]
    pub fn executor(&self) -> &str {
        self.executor.as_deref().unwrap_or(&self.key.task)
    }
}

/// What is known of a task latest.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// How it is.
    pub state: TaskState,
    /// Its container with its parents, outermost first and joined by dots, as Mesos prints it.
    /// None before it has one.
    pub container: Option<Box<str>>,
    /// Its networks: as they are once it runs, as they were asked for before.
    pub networks: Box<[Network]>,
    /// When that was so, in milliseconds since 1970 by the clock of whoever said it. For people.
    pub at: Option<i64>,
}

impl Status {
    /// The addresses on all networks, in order.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.networks
            .iter()
            .flat_map(|one| one.addresses.iter())
            .copied()
    }

    /// The outermost of the containers.
    #[must_use]
    pub fn root_container(&self) -> Option<&str> {
        self.container.as_deref()?.split('.').next()
    }

    /// Takes over a newer one. Not every status names the container and its networks again.
    pub(super) fn update(&mut self, newer: Self) {
        self.state = newer.state;
        if newer.container.is_some() {
            self.container = newer.container;
        }
        if !newer.networks.is_empty() {
            self.networks = newer.networks;
        }
        self.at = newer.at.or(self.at);
    }
}

/// A network of a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Network {
    /// Its name; none on the host's.
    pub name: Option<ArcStr>,
    /// Its labels.
    pub labels: Labels,
    /// The container's addresses on it.
    pub addresses: Box<[IpAddr]>,
}

/// An agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Agent {
    /// Its id.
    pub id: ArcStr,
    /// Its host's name.
    pub host: Box<str>,
    /// Where it listens, as far as the master says.
    pub address: Option<IpAddr>,
    /// Whether it is connected. One that was registered with an earlier leader and has not come
    /// back yet is not.
    pub active: bool,
    /// Its attributes that are texts.
    pub attributes: Labels,
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

/// An executor that a framework brought.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Executor {
    /// The framework's id.
    pub framework: ArcStr,
    /// The id of its agent.
    pub agent: ArcStr,
    /// Its id.
    pub id: Box<str>,
}

/// Something that could not be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Skipped {
    /// What it is: a task, an agent, ….
    pub kind: &'static str,
    /// What is wrong with it.
    pub problem: Box<str>,
}

/// What has changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A task was launched.
    TaskAdded(Box<Task>),
    /// A task has changed; what is none or empty here is as it was.
    TaskUpdated {
        /// Which.
        key: TaskKey,
        /// Its agent.
        agent: Option<ArcStr>,
        /// Its executor, where that is not the task's own.
        executor: Option<Box<str>>,
        /// What is known of it now.
        status: Box<Status>,
    },
    /// An agent has registered, for the first time or again.
    AgentAdded(Box<Agent>),
    /// An agent is gone: it ended in order, was given up, or does not answer any more. Its tasks
    /// may still run.
    AgentRemoved(ArcStr),
    /// A framework has registered, or is connected again, or no more.
    FrameworkChanged(Framework),
    /// A framework is gone, and so are its tasks.
    FrameworkRemoved(ArcStr),
}

/// Everything at one time, joined.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// The tasks that have not ended, of all frameworks: boxed, for a table has many places that
    /// are free.
    pub tasks: HashMap<TaskKey, Box<Task>>,
    /// The agents.
    pub agents: HashMap<ArcStr, Agent>,
    /// The frameworks.
    pub frameworks: HashMap<ArcStr, Framework>,
    /// The executors that frameworks brought. One may live on without a task, and no event tells
    /// of it: as of the snapshot.
    pub executors: HashSet<Executor>,
    /// What could not be read. It is there, and must not be taken for gone.
    pub skipped: Vec<Skipped>,
}

impl State {
    /// Whether everything that is there is in it.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.skipped.is_empty()
    }

    /// The agent of a task, if the master knows it.
    #[must_use]
    pub fn agent_of(&self, task: &Task) -> Option<&Agent> {
        self.agents.get(task.agent.as_ref()?)
    }

    /// Takes over a change. A task that has ended is removed.
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
                    task.status.update(*status);
                } else {
                    // An agent came back with it.
                    let task = Task {
                        key: key.clone(),
                        agent,
                        executor,
                        labels: Labels::default(),
                        status: *status,
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
                self.executors.retain(|one| one.framework != id);
            }
        }
    }
}
