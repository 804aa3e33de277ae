//! The tasks of Mesos by the virtual-machine of their container, and its agents and executors.
//!
//! Invariant: a container loses its entry only when every task of it has ended or is no longer
//! listed. When that was is kept for a grace period.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::OnceLock;
use std::time::Duration;

use arcstr::ArcStr;
use tokio::time::Instant;
use uuid::Uuid;

use super::source::Source;
use super::touched::{Touched, TouchedLog};
use crate::intern::Interner;
use crate::mesos_master::{
    Agent, Change, Executor, Framework, Network, Skipped, State, Task, TaskKey,
};
use contrail_mesos_api::agent_api;
use contrail_mesos_api::container::ContainerId;
use contrail_mesos_api::limits::MAX_CONTAINER_DEPTH;

/// How long an agent that is gone is kept: longer than any sensible `agent_gone_after`.
const GONE_AGENT_TTL: Duration = Duration::from_hours(48);

/// The cluster as Mesos reports it.
#[derive(Clone, Debug, Default)]
pub(crate) struct MesosView {
    pub source: Source,
    state: State,
    index: TaskIndex,
    /// Since when each agent has been connected.
    connected_since: HashMap<ArcStr, Instant>,
    /// Agents by host name, lower case.
    agents_by_host: HashMap<Box<str>, ArcStr>,
    agents_by_address: HashMap<IpAddr, ArcStr>,
    /// Agents that were there and are gone.
    gone: HashMap<ArcStr, GoneAgent>,
    /// The executors of each agent.
    executors: HashMap<ArcStr, Vec<Executor>>,
    /// The agents that have an executor without tasks, computed when it is needed.
    agents_with_idle_executor: OnceLock<HashSet<ArcStr>>,
    touched: TouchedLog,
}

/// An agent that is gone: unreachable, or for good.
#[derive(Clone, Copy, Debug)]
struct GoneAgent {
    since: Instant,
    /// The address that it had.
    address: Option<IpAddr>,
}

/// The tasks of each container.
#[derive(Clone, Debug, Default)]
struct TaskIndex {
    /// By virtual-machine: the tasks of the container itself, and of those nested in it.
    by_vm: HashMap<Uuid, TaskKeys>,
    /// When virtual-machines lost their last task, until that expires.
    terminated_at: HashMap<Uuid, Instant>,
    /// The number of tasks of each agent whose container is not known yet.
    tasks_without_container: HashMap<ArcStr, u32>,
    /// The number of tasks whose definition is not known.
    undefined_tasks: usize,
}

/// The tasks of one container: several only in pods.
#[derive(Clone, Debug)]
enum TaskKeys {
    One(TaskKey),
    Many(BTreeSet<TaskKey>),
}

impl TaskKeys {
    fn first(&self) -> Option<&TaskKey> {
        match self {
            Self::One(key) => Some(key),
            Self::Many(keys) => keys.first(),
        }
    }

    fn add(&mut self, key: &TaskKey) {
        match self {
            Self::One(own) if own == key => {}
            Self::One(own) => *self = Self::Many([own.clone(), key.clone()].into()),
            Self::Many(keys) => {
                keys.insert(key.clone());
            }
        }
    }

    /// Returns whether it was the last one.
    fn remove(&mut self, key: &TaskKey) -> bool {
        match self {
            Self::One(own) => own == key,
            Self::Many(keys) => {
                keys.remove(key);
                keys.is_empty()
            }
        }
    }
}

/// The virtual-machines that a container and its parents have if they are on a network.
fn vm_uuids(container: &str) -> impl Iterator<Item = Uuid> {
    let mut id: Option<ContainerId> = None;
    container
        .split('.')
        .take(MAX_CONTAINER_DEPTH + 1)
        .map(move |value| {
            let next = match &id {
                None => ContainerId::top_level(value),
                Some(parent) => parent.nested(value),
            };
            let vm = agent_api::vm_uuid(&next);
            id = Some(next);
            vm
        })
}

impl TaskIndex {
    /// Rebuilds the index. Termination times are kept.
    fn rebuild<'a>(&mut self, tasks: impl ExactSizeIterator<Item = &'a Task>) {
        self.by_vm.clear();
        self.tasks_without_container.clear();
        self.undefined_tasks = 0;
        self.by_vm.reserve(tasks.len());
        for task in tasks {
            self.add(task);
        }
    }

    fn add(&mut self, task: &Task) {
        self.undefined_tasks += usize::from(!task.is_defined);
        let Some(container) = &task.status.container else {
            if let Some(agent) = &task.agent {
                *self
                    .tasks_without_container
                    .entry(agent.clone())
                    .or_default() += 1;
            }
            return;
        };
        for vm in vm_uuids(container) {
            self.terminated_at.remove(&vm);
            match self.by_vm.get_mut(&vm) {
                None => {
                    self.by_vm.insert(vm, TaskKeys::One(task.key.clone()));
                }
                Some(keys) => keys.add(&task.key),
            }
        }
    }

    fn remove(&mut self, task: &Task, now: Instant) {
        self.undefined_tasks -= usize::from(!task.is_defined);
        let Some(container) = &task.status.container else {
            if let Some(agent) = &task.agent
                && let Some(count) = self.tasks_without_container.get_mut(agent)
            {
                *count -= 1;
                if *count == 0 {
                    self.tasks_without_container.remove(agent);
                }
            }
            return;
        };
        for vm in vm_uuids(container) {
            let is_last = self
                .by_vm
                .get_mut(&vm)
                .is_some_and(|keys| keys.remove(&task.key));
            if is_last {
                self.by_vm.remove(&vm);
                self.terminated_at.insert(vm, now);
            }
        }
    }
}

impl MesosView {
    /// The connection was lost.
    pub(crate) fn mark_lost(&mut self, now: Instant, reason: &str) {
        self.source.mark_lost(now, reason);
    }

    /// Applies a full list.
    pub(crate) fn apply_snapshot(
        &mut self,
        mut state: State,
        now: Instant,
        stabilization_window: Duration,
    ) {
        self.agents_with_idle_executor = OnceLock::new();
        self.touched.push(Touched::All);
        for task in state.tasks.values_mut() {
            strip(task);
        }
        let vms_before = std::mem::take(&mut self.index.by_vm);
        let agents_before: Vec<(ArcStr, Option<IpAddr>)> = self
            .state
            .agents
            .values()
            .map(|agent| (agent.id.clone(), agent.address))
            .collect();
        // The master does not tell the address of an agent that has not come back to it yet.
        for agent in state
            .agents
            .values_mut()
            .filter(|agent| agent.address.is_none())
        {
            agent.address = self.agent_address(&agent.id);
        }
        self.executors.clear();
        for executor in std::mem::take(&mut state.executors) {
            self.executors
                .entry(executor.agent.clone())
                .or_default()
                .push(executor);
        }
        self.state = state;
        self.rebuild_index();
        // The list that shrank more decides whether the source can be trusted.
        let sizes = [
            (vms_before.len(), self.index.by_vm.len()),
            (agents_before.len(), self.state.agents.len()),
        ]
        .into_iter()
        .max_by_key(|(before, after)| {
            let lost = before.saturating_sub(*after);
            (lost * 1000).checked_div(*before).unwrap_or(0)
        });
        let complete = self.state.is_complete();
        self.source.mark_listed(
            now,
            sizes.unwrap_or_default(),
            complete,
            stabilization_window,
        );
        for vm in vms_before.into_keys() {
            if !self.index.by_vm.contains_key(&vm) {
                self.index.terminated_at.insert(vm, now);
            }
        }
        for (agent, address) in agents_before {
            if !self.state.agents.contains_key(&agent) {
                let gone = GoneAgent {
                    since: now,
                    address,
                };
                self.gone.entry(agent).or_insert(gone);
            }
        }
        self.gone.retain(|agent, gone| {
            !self.state.agents.contains_key(agent) && now - gone.since < GONE_AGENT_TTL
        });
        self.connected_since = self
            .state
            .agents
            .values()
            .filter(|agent| agent.active)
            .map(|agent| {
                let since = self.connected_since.get(&agent.id).copied().unwrap_or(now);
                (agent.id.clone(), since)
            })
            .collect();
    }

    fn rebuild_index(&mut self) {
        self.agents_by_host.clear();
        self.agents_by_address.clear();
        let state = std::mem::take(&mut self.state);
        self.index.rebuild(state.tasks.values().map(Box::as_ref));
        for agent in state.agents.values() {
            self.index_agent(agent);
        }
        self.state = state;
    }

    fn index_agent(&mut self, agent: &Agent) {
        self.agents_by_host
            .insert(agent.host.to_lowercase().into(), agent.id.clone());
        if let Some(address) = agent.address {
            self.agents_by_address.insert(address, agent.id.clone());
        }
    }

    /// Applies an event; returns the virtual-machines on which another decision may follow from it.
    pub(crate) fn apply_change(&mut self, mut change: Change, now: Instant) -> Vec<Uuid> {
        let mut touched = vec![];
        self.touched.push(Touched::of(&change));
        match &mut change {
            Change::TaskAdded(task) => strip(task),
            Change::TaskUpdated { status, .. } => strip_networks(&mut status.networks),
            _ => {}
        }
        if let Some((task, is_repeated)) = self.task_without_move(&change) {
            // The usual event. Nothing that is indexed changes, and no decision follows from a state
            // that agents repeat.
            if !is_repeated {
                touched.extend(task.status.container.iter().flat_map(|id| vm_uuids(id)));
            }
            self.state.apply(change);
            return touched;
        }
        self.agents_with_idle_executor = OnceLock::new();
        match &change {
            Change::TaskAdded(_) | Change::TaskUpdated { .. } => {
                let key = match &change {
                    Change::TaskAdded(task) => task.key.clone(),
                    Change::TaskUpdated { key, .. } => key.clone(),
                    _ => return touched,
                };
                if let Some(task) = self.state.tasks.get(&key).cloned() {
                    touched.extend(task.status.container.iter().flat_map(|id| vm_uuids(id)));
                    self.index.remove(&task, now);
                }
                self.state.apply(change);
                if let Some(task) = self.state.tasks.get(&key) {
                    self.index.add(task);
                    touched.extend(task.status.container.iter().flat_map(|id| vm_uuids(id)));
                }
                touched.sort_unstable();
                touched.dedup();
            }
            Change::AgentAdded(agent) => {
                self.gone.remove(&agent.id);
                if agent.active {
                    self.connected_since.entry(agent.id.clone()).or_insert(now);
                } else {
                    self.connected_since.remove(&agent.id);
                }
                self.index_agent(agent);
                self.state.apply(change);
            }
            Change::AgentRemoved(id) => {
                if let Some(agent) = self.state.agents.get(id) {
                    let gone = GoneAgent {
                        since: now,
                        address: agent.address,
                    };
                    self.gone.entry(id.clone()).or_insert(gone);
                }
                self.connected_since.remove(id);
                self.state.apply(change);
            }
            Change::FrameworkRemoved(id) => {
                for executors in self.executors.values_mut() {
                    executors.retain(|executor| executor.framework != *id);
                }
                let vms_before = std::mem::take(&mut self.index.by_vm);
                self.state.apply(change);
                self.rebuild_index();
                for vm in vms_before.into_keys() {
                    if !self.index.by_vm.contains_key(&vm) {
                        self.index.terminated_at.insert(vm, now);
                        touched.push(vm);
                    }
                }
            }
            Change::FrameworkChanged(_) => self.state.apply(change),
        }
        touched
    }

    /// The task of an update after which it still is in the same container of the same executor, and
    /// whether its state is the same, too.
    fn task_without_move(&self, change: &Change) -> Option<(&Task, bool)> {
        let Change::TaskUpdated {
            key,
            agent,
            executor,
            status,
        } = change
        else {
            return None;
        };
        let task = self.state.tasks.get(key)?;
        let is_same = !status.state.is_ended()
            && (agent.is_none() || *agent == task.agent)
            && (executor.is_none() || *executor == task.executor)
            && (status.container.is_none() || status.container == task.status.container);
        is_same.then(|| (&**task, status.state == task.status.state))
    }

    /// Something outside Mesos that decides on the tasks of a container has changed.
    pub(crate) fn touch_vm(&mut self, vm: Uuid) {
        let keys = match self.index.by_vm.get(&vm) {
            None => return,
            Some(TaskKeys::One(key)) => vec![key.clone()],
            Some(TaskKeys::Many(keys)) => keys.iter().cloned().collect(),
        };
        for key in keys {
            self.touched.push(Touched::Task(key));
        }
    }

    /// What has changed, for readers that keep an index.
    pub(crate) fn touched(&self) -> &TouchedLog {
        &self.touched
    }

    /// A task.
    pub(crate) fn task(&self, key: &TaskKey) -> Option<&Task> {
        self.state.tasks.get(key).map(Box::as_ref)
    }

    /// A task of the container with that virtual-machine: the first by its id.
    pub(crate) fn task_of(&self, vm: Uuid) -> Option<&Task> {
        let first = self.index.by_vm.get(&vm)?.first()?;
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

    /// The agent on a host of that name or address.
    pub(crate) fn agent_on_host(&self, host: &str, address: Option<IpAddr>) -> Option<&Agent> {
        let host = host.to_lowercase();
        let by_name = self.agents_by_host.get(host.as_str());
        let by_address = || {
            self.agents_by_address
                .get(&address.or_else(|| host.parse().ok())?)
        };
        let by_address_as_name = || self.agents_by_host.get(address?.to_string().as_str());
        let id = by_name.or_else(by_address).or_else(by_address_as_name)?;
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

    /// The entries of the last list that could not be read.
    pub(crate) fn skipped(&self) -> &[Skipped] {
        &self.state.skipped
    }

    /// Since when an agent has been connected.
    pub(crate) fn connected_since(&self, agent: &str) -> Option<Instant> {
        self.connected_since.get(agent).copied()
    }

    /// Since when an agent is gone that this manager has seen.
    pub(crate) fn gone_since(&self, agent: &str) -> Option<Instant> {
        self.gone.get(agent).map(|gone| gone.since)
    }

    /// The address of an agent; the last one of an agent that is gone.
    pub(crate) fn agent_address(&self, id: &str) -> Option<IpAddr> {
        match self.state.agents.get(id) {
            Some(agent) => agent.address,
            None => self.gone.get(id)?.address,
        }
    }

    /// Whether an agent has this address, or had it before it went: it may come back.
    pub(crate) fn is_agent_address(&self, address: IpAddr) -> bool {
        let id = self.agents_by_address.get(&address);
        let agent = id.and_then(|id| self.state.agents.get(id));
        agent.is_some_and(|agent| agent.address == Some(address))
            || self.gone.values().any(|gone| gone.address == Some(address))
    }

    /// Whether there are tasks whose definition only another list tells.
    pub(crate) fn has_undefined_tasks(&self) -> bool {
        self.index.undefined_tasks > 0
    }

    /// When a virtual-machine lost its last task, unless that has expired.
    pub(crate) fn terminated_at(&self, vm: Uuid) -> Option<Instant> {
        self.index.terminated_at.get(&vm).copied()
    }

    /// Drops the termination times before `before`.
    pub(crate) fn expire_terminated(&mut self, before: Instant) {
        self.index.terminated_at.retain(|_, at| *at >= before);
    }

    /// Whether the container of a task of this agent is not known yet.
    pub(crate) fn has_task_without_container(&self, agent: &str) -> bool {
        self.index.tasks_without_container.contains_key(agent)
    }

    /// Whether an agent has this executor (framework and id); `None` for any executor without
    /// tasks.
    pub(crate) fn has_executor(&self, agent: &str, executor: Option<(&str, &str)>) -> bool {
        match executor {
            None => self.agents_with_idle_executor().contains(agent),
            Some((framework, id)) => self
                .executors
                .get(agent)
                .into_iter()
                .flatten()
                .any(|other| &*other.framework == framework && &*other.id == id),
        }
    }

    fn agents_with_idle_executor(&self) -> &HashSet<ArcStr> {
        self.agents_with_idle_executor.get_or_init(|| {
            let tasks = self.state.tasks.values();
            let busy: HashSet<(&str, &str)> = tasks
                .map(|task| (&*task.key.framework, task.executor()))
                .collect();
            let is_idle =
                |executor: &Executor| !busy.contains(&(&*executor.framework, &*executor.id));
            self.executors
                .iter()
                .filter(|(_, executors)| executors.iter().any(is_idle))
                .map(|(agent, _)| agent.clone())
                .collect()
        })
    }
}

/// Shares the ids of a state with strings that are interned already.
pub(crate) fn intern(mut state: State, interner: &mut Interner) -> State {
    let tasks = std::mem::take(&mut state.tasks).into_values();
    state.tasks = tasks
        .map(|mut task| {
            task.key.framework = interner.share(&task.key.framework);
            task.key.task = interner.share(&task.key.task);
            task.agent = task.agent.map(|agent| interner.share(&agent));
            (task.key.clone(), task)
        })
        .collect();
    state
}

/// Drops what the stores do not need.
fn strip(task: &mut Task) {
    task.labels = Box::default();
    strip_networks(&mut task.status.networks);
}

fn strip_networks(networks: &mut [Network]) {
    for network in networks {
        network.labels = Box::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mesos_master::Status;
    use crate::task_state::TaskState;

    fn key(number: usize) -> TaskKey {
        TaskKey {
            framework: "F".into(),
            task: format!("t{number}").into(),
        }
    }

    // With more than linear work these would not end.

    #[test]
    fn container_id_of_many_parts_is_cut() {
        let id = "a.".repeat(1 << 20);
        assert_eq!(vm_uuids(&id).count(), MAX_CONTAINER_DEPTH + 1);
        assert_eq!(vm_uuids("a.b").count(), 2);
    }

    #[test]
    fn container_of_many_tasks_is_there_until_the_last_ends() {
        const TASKS: usize = 200_000;
        let mut keys = TaskKeys::One(key(0));
        for number in (0..TASKS).chain(0..TASKS) {
            keys.add(&key(number));
        }
        for number in 1..TASKS {
            assert!(!keys.remove(&key(number)));
        }
        assert_eq!(keys.first(), Some(&key(0)));
        assert!(keys.remove(&key(0)));
    }

    #[test]
    fn decision_follows_from_another_state_but_not_from_a_repeated_one() {
        let now = Instant::now();
        let container = "0bcd1234-c7a5-11ea-8f39-0242ac110002";
        let status = |state| Status {
            state,
            container: Some(container.into()),
            ..Status::default()
        };
        let task = Task {
            agent: Some("S1".into()),
            is_defined: true,
            status: status(TaskState::Starting),
            ..Task::undefined(key(1))
        };
        let update = |state| Change::TaskUpdated {
            key: key(1),
            agent: Some("S1".into()),
            executor: None,
            status: Box::new(status(state)),
        };
        let vm = vec![agent_api::vm_uuid(&ContainerId::top_level(container))];
        let mut view = MesosView::default();
        assert_eq!(
            view.apply_change(Change::TaskAdded(Box::new(task)), now),
            vm
        );
        assert!(
            view.apply_change(update(TaskState::Starting), now)
                .is_empty()
        );
        assert_eq!(view.apply_change(update(TaskState::Running), now), vm);
        assert!(
            view.apply_change(update(TaskState::Running), now)
                .is_empty()
        );
        assert_eq!(view.apply_change(update(TaskState::Finished), now), vm);
    }

    fn agent(address: Option<&str>) -> Agent {
        Agent {
            id: "S1".into(),
            host: "node1".into(),
            address: address.map(|address| address.parse().unwrap()),
            active: address.is_some(),
            attributes: Box::default(),
            is_recovered: address.is_none(),
        }
    }

    #[test]
    fn address_of_agent_is_known_while_it_is_away() {
        let now = Instant::now();
        let address: IpAddr = "192.0.2.1".parse().unwrap();
        let mut view = MesosView::default();
        let list = |view: &mut MesosView, agents: Vec<Agent>| {
            let agents = agents.into_iter();
            let state = State {
                agents: agents.map(|agent| (agent.id.clone(), agent)).collect(),
                ..State::default()
            };
            view.apply_snapshot(state, now, Duration::ZERO);
        };
        assert_eq!(view.agent_address("S1"), None);
        list(&mut view, vec![agent(Some("192.0.2.1"))]);
        // Another master leads, and the agent has not come back to it yet.
        list(&mut view, vec![agent(None)]);
        assert_eq!(view.agent_address("S1"), Some(address));
        assert!(view.is_agent_address(address));
        list(&mut view, vec![]);
        assert_eq!(view.agent_address("S1"), Some(address));
        assert!(view.agent("S1").is_none());
        list(&mut view, vec![agent(None)]);
        assert_eq!(view.agent_address("S1"), Some(address));
        view.apply_change(Change::AgentRemoved("S1".into()), now);
        assert_eq!(view.agent_address("S1"), Some(address));
        let moved = Change::AgentAdded(Box::new(agent(Some("192.0.2.9"))));
        view.apply_change(moved, now);
        assert_eq!(view.agent_address("S1"), "192.0.2.9".parse().ok());
    }

    #[test]
    fn task_without_definition_is_counted_until_it_is_known_or_gone() {
        let now = Instant::now();
        let update = |number, state| Change::TaskUpdated {
            key: key(number),
            agent: Some("S1".into()),
            executor: None,
            status: Box::new(Status {
                state,
                ..Status::default()
            }),
        };
        let defined = |number| Task {
            is_defined: true,
            ..Task::undefined(key(number))
        };
        let mut view = MesosView::default();
        for number in [1, 2] {
            for _ in 0..2 {
                view.apply_change(update(number, TaskState::Running), now);
            }
        }
        assert!(view.has_undefined_tasks());
        view.apply_change(Change::TaskAdded(Box::new(defined(1))), now);
        assert!(view.has_undefined_tasks());
        view.apply_change(update(2, TaskState::Finished), now);
        assert!(!view.has_undefined_tasks());
        view.apply_change(update(3, TaskState::Running), now);
        view.apply_change(Change::FrameworkRemoved("F".into()), now);
        assert!(!view.has_undefined_tasks());
    }

    #[test]
    fn container_of_one_task_ends_with_it() {
        let mut keys = TaskKeys::One(key(1));
        keys.add(&key(1));
        assert!(!keys.remove(&key(2)));
        assert!(keys.remove(&key(1)));
    }
}
