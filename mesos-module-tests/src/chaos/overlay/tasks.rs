//! The tasks: which are to run, and which do. As a framework does, it starts a task again whose launch
//! a fault has prevented. What runs must not be ended by any fault.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, ensure};
use tokio::task::{AbortHandle, JoinSet};

use crate::testbed::framework::{FrameworkError, Placement, TaskUpdate};
use crate::testbed::overlay::{Container, OverlayCluster};

/// Where a task may run.
#[derive(Clone, Copy, Debug)]
pub(super) struct Slot {
    /// The node.
    pub(super) node: usize,
    /// The overlay.
    pub(super) overlay: &'static str,
}

const fn slot(node: usize, overlay: &'static str) -> Slot {
    Slot { node, overlay }
}

/// All of them, one of each node first.
pub(super) const SLOTS: [Slot; 8] = [
    slot(0, "vxlan-1"),
    slot(1, "vxlan-2"),
    slot(2, "vxlan-1"),
    slot(0, "vxlan-1"),
    slot(0, "vxlan-2"),
    slot(1, "vxlan-1"),
    slot(1, "vxlan-2"),
    slot(2, "vxlan-2"),
];
/// How often Mesos is asked about tasks that neither run nor ended.
const ASK_INTERVAL: Duration = Duration::from_secs(2);

/// A task.
struct Task {
    id: String,
    /// Finished once the launch has been sent.
    launch: AbortHandle,
    container: Option<Container>,
}

/// The tasks of all slots.
#[derive(Default)]
pub(super) struct Tasks {
    /// Those that are to run, by slot.
    wanted: BTreeMap<usize, Task>,
    /// Launches whose tasks are not to run any more.
    ending: Vec<Task>,
    launches: JoinSet<Result<Placement, FrameworkError>>,
    launched: u64,
    asked: Option<Instant>,
}

impl Tasks {
    /// Whether a task is to run in a slot. Starts or ends one, without waiting.
    pub(super) fn set(&mut self, cluster: &OverlayCluster, slot: usize, runs: bool) -> Result<()> {
        match (runs, self.wanted.contains_key(&slot)) {
            (true, false) => {
                let task = self.launch(cluster, slot);
                self.wanted.insert(slot, task);
            }
            (false, true) => {
                if let Some(task) = self.wanted.remove(&slot) {
                    kill(cluster, &task.id)?;
                    self.ending.push(task);
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn launch(&mut self, cluster: &OverlayCluster, slot: usize) -> Task {
        self.launched += 1;
        let id = format!("slot-{slot}-{}", self.launched);
        let Slot { node, overlay } = SLOTS[slot];
        let spec = cluster.task(&id, overlay, node, "exec sleep 100000");
        let framework = cluster.mesos.scheduler.framework.clone();
        // The launch waits for an offer of the agent, which may be away.
        let launches = &mut self.launches;
        let launch = cluster
            .mesos
            .services()
            .block_on(async { launches.spawn(async move { framework.launch(spec).await }) });
        Task {
            id,
            launch,
            container: None,
        }
    }

    /// Compares what is to run with what runs, and corrects it. Returns the differences.
    pub(super) fn reconcile(&mut self, cluster: &OverlayCluster) -> Result<Vec<String>> {
        let framework = &cluster.mesos.scheduler.framework;
        while let Some(launch) = self.launches.try_join_next() {
            launch??;
        }
        let mut differences = vec![];
        let mut unknown = vec![];
        let mut failed = vec![];
        for (slot, task) in &mut self.wanted {
            let history = framework.history(&task.id);
            let ended = history.iter().find(|update| update.state.is_terminal());
            let running = history.iter().rev().find(|update| is_running(update));
            match (ended, running) {
                (Some(ended), _) => {
                    ensure!(
                        task.container.is_none(),
                        "a fault has ended {}, which ran: {ended}",
                        task.id
                    );
                    differences.push(format!("{} ended: {ended}", task.id));
                    failed.push(*slot);
                }
                (None, Some(update)) if task.container.is_none() => {
                    let Slot { node, overlay } = SLOTS[*slot];
                    task.container = Some(Container::of(cluster, update, overlay, node)?);
                }
                (None, Some(_)) => {}
                (None, None) => {
                    differences.push(format!("{} does not run yet", task.id));
                    if task.launch.is_finished() {
                        unknown.push(task.id.clone());
                    }
                }
            }
        }
        for slot in failed {
            if let Some(task) = self.wanted.remove(&slot) {
                framework.forget(&task.id);
            }
            let task = self.launch(cluster, slot);
            self.wanted.insert(slot, task);
        }
        let may_ask = self
            .asked
            .is_none_or(|asked| asked.elapsed() >= ASK_INTERVAL);
        self.ending.retain(|task| {
            let history = framework.history(&task.id);
            let ended = history.iter().any(|update| update.state.is_terminal());
            if ended && task.launch.is_finished() {
                framework.forget(&task.id);
                return false;
            }
            differences.push(format!("{} has not ended", task.id));
            unknown.push(task.id.clone());
            true
        });
        if may_ask && !unknown.is_empty() {
            self.asked = Some(Instant::now());
            let ids: Vec<&str> = unknown.iter().map(String::as_str).collect();
            let asked = framework.reconcile(&ids);
            cluster.mesos.services().block_on(asked)?;
            // What was sent while the agent was away is lost.
            for task in &self.ending {
                kill(cluster, &task.id)?;
            }
        }
        Ok(differences)
    }

    /// The containers of the tasks that run, with their slots.
    pub(super) fn running(&self) -> impl Iterator<Item = (Slot, &Container)> {
        let tasks = self.wanted.iter();
        tasks.filter_map(|(slot, task)| Some((SLOTS[*slot], task.container.as_ref()?)))
    }
}

/// The ids of the containers of all tasks that run on a node, of all frameworks.
pub(super) fn containers_on(cluster: &OverlayCluster, node: usize) -> Result<BTreeSet<String>> {
    let framework = &cluster.mesos.scheduler.framework;
    let hostname = cluster.node(node).hostname();
    let agents = cluster
        .mesos
        .master()
        .master_call(&serde_json::json!({"type": "GET_AGENTS"}))?;
    let agents = agents["get_agents"]["agents"].as_array();
    let agent = agents
        .into_iter()
        .flatten()
        .map(|agent| &agent["agent_info"])
        .find(|info| info["hostname"] == hostname)
        .and_then(|info| info["id"]["value"].as_str())
        .ok_or_else(|| anyhow!("the master does not know the agent {hostname}"))?
        .to_owned();
    let mut ids = BTreeSet::new();
    for task in framework.live_tasks() {
        let history = framework.history(&task);
        let Some(update) = history.iter().rev().find(|update| is_running(update)) else {
            continue;
        };
        if update.agent_id.as_ref() == Some(&agent) {
            ids.extend(update.container_id.first().cloned());
        }
    }
    Ok(ids)
}

/// Whether it says that a task runs, and where.
fn is_running(update: &TaskUpdate) -> bool {
    !update.state.is_terminal() && !update.addresses().is_empty()
}

/// Asks for the end of a task, without waiting for it.
fn kill(cluster: &OverlayCluster, task: &str) -> Result<()> {
    let framework = &cluster.mesos.scheduler.framework;
    cluster.mesos.services().block_on(framework.kill(task))?;
    Ok(())
}
