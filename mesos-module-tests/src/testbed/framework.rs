//! A framework (scheduler) of Mesos over its v1 HTTP API.
//!
//! [`Framework`] is a handle, cheap to clone and usable from any thread. One task on the runtime of
//! [`Framework::connect`] sends all requests, so every connection is in that runtime's network
//! namespace.
//!
//! Invariants:
//! - The framework requests offers (`REVIVE`) only while launches wait, and declines what it does
//!   not use. An idle framework holds no offers.
//! - Every update is recorded before it is acknowledged, and sent to every listener once.
//! - After a lost connection it subscribes again, with the same framework id, until `teardown`.

mod actor;
mod offer;
mod spec;
mod update;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};

pub use contrail_mesos_sim::mesos_master::TaskState;
pub use spec::{GroupSpec, Placement, TaskSpec};
pub use update::TaskUpdate;

/// An error of a framework.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FrameworkError {
    /// No master accepted the subscription in time.
    #[error("no Mesos master at {master} accepted the subscription within {waited:?}: {last}")]
    NoMaster {
        /// The master's address.
        master: String,
        /// How long the framework tried.
        waited: Duration,
        /// The error of the last attempt.
        last: String,
    },
    /// The master refused a call.
    #[error("the Mesos master refused {call} with HTTP {status}: {body}")]
    Refused {
        /// The type of the call.
        call: String,
        /// The HTTP status.
        status: u16,
        /// The master's explanation.
        body: String,
    },
    /// The request failed.
    #[error("cannot reach the Mesos master")]
    Http(#[from] reqwest::Error),
    /// The framework was torn down, or the master sent an error.
    #[error("the framework has ended{0}")]
    Ended(String),
    /// No matching update in time.
    #[error("no matching update of task {task} within {waited:?}; its updates: {updates}")]
    Timeout {
        /// The task.
        task: String,
        /// How long the caller waited.
        waited: Duration,
        /// The updates so far.
        updates: String,
    },
    /// The task ended without a matching update.
    #[error("task {task} ended without a matching update; its updates: {updates}")]
    TaskEnded {
        /// The task.
        task: String,
        /// Its updates.
        updates: String,
    },
}

/// How a framework presents itself.
#[derive(Clone, Debug)]
pub struct Options {
    /// Shown by the master.
    pub name: String,
    /// The user that tasks run as.
    pub user: String,
    /// The role whose offers it accepts.
    pub role: String,
    /// Whether its tasks survive a restart of the agent.
    pub checkpoint: bool,
    /// How long the master keeps its tasks while it is disconnected.
    pub failover_timeout: Duration,
    /// The id of an earlier run to continue.
    pub framework_id: Option<String>,
    /// How long to try for the first subscription.
    pub subscribe_timeout: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            name: "contrail-mesos".to_owned(),
            user: "root".to_owned(),
            role: "*".to_owned(),
            checkpoint: true,
            failover_timeout: Duration::from_hours(1),
            framework_id: None,
            subscribe_timeout: Duration::from_secs(30),
        }
    }
}

/// The updates of all tasks. The actor writes them, the handles read them.
#[derive(Debug, Default)]
struct UpdateLog {
    history: BTreeMap<String, Vec<TaskUpdate>>,
    listeners: Vec<mpsc::UnboundedSender<TaskUpdate>>,
    ended: Option<String>,
}

impl UpdateLog {
    fn lock(shared: &Mutex<Self>) -> MutexGuard<'_, Self> {
        // Every change is a single push or assignment, so a panic cannot leave it incomplete.
        shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn record(&mut self, update: &TaskUpdate) {
        self.history
            .entry(update.task_id.clone())
            .or_default()
            .push(update.clone());
        self.listeners
            .retain(|listener| listener.send(update.clone()).is_ok());
    }

    fn end(&mut self, why: String) {
        self.ended.get_or_insert(why);
        self.listeners.clear();
    }

    fn describe(&self, task: &str) -> String {
        let updates = self.history.get(task).map_or(&[][..], Vec::as_slice);
        if updates.is_empty() {
            return "none".to_owned();
        }
        let updates: Vec<_> = updates.iter().map(ToString::to_string).collect();
        updates.join("; ")
    }
}

/// A subscribed framework.
#[derive(Clone, Debug)]
pub struct Framework {
    id: String,
    requests: mpsc::UnboundedSender<actor::Request>,
    shared: Arc<Mutex<UpdateLog>>,
}

impl Framework {
    /// Subscribes to the master at `master` (`address:port`) with the default [`Options`].
    pub async fn connect(master: &str) -> Result<Self, FrameworkError> {
        Self::connect_with(master, Options::default()).await
    }

    /// Subscribes to the master at `master` (`address:port`).
    pub async fn connect_with(master: &str, options: Options) -> Result<Self, FrameworkError> {
        let shared = Arc::new(Mutex::new(UpdateLog::default()));
        let (requests, inbox) = mpsc::unbounded_channel();
        let id = actor::start(master, options, inbox, Arc::clone(&shared)).await?;
        Ok(Self {
            id,
            requests,
            shared,
        })
    }

    /// The framework's id from the master.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Launches a command task as soon as an offer has room for it. Returns when the master has
    /// accepted the launch, with the placement; its updates follow.
    pub async fn launch(&self, task: TaskSpec) -> Result<Placement, FrameworkError> {
        self.submit(spec::Launch::Task(task)).await
    }

    /// Launches a task group (pod) with the default executor.
    pub async fn launch_group(&self, group: GroupSpec) -> Result<Placement, FrameworkError> {
        self.submit(spec::Launch::Group(group)).await
    }

    async fn submit(&self, launch: spec::Launch) -> Result<Placement, FrameworkError> {
        let (reply, response) = oneshot::channel();
        self.request(actor::Request::Launch(Box::new(launch), reply))?;
        response.await.map_err(|_| self.ended())
    }

    /// Requests that a task is killed.
    pub async fn kill(&self, task: &str) -> Result<(), FrameworkError> {
        self.call(json!({"type": "KILL", "kill": {"task_id": {"value": task}}}))
            .await
    }

    /// Requests the latest update of these tasks, or of all tasks if the list is empty.
    pub async fn reconcile(&self, tasks: &[&str]) -> Result<(), FrameworkError> {
        let tasks: Vec<Value> = tasks
            .iter()
            .map(|task| json!({"task_id": {"value": task}}))
            .collect();
        self.call(json!({"type": "RECONCILE", "reconcile": {"tasks": tasks}}))
            .await
    }

    /// Ends the framework and everything that it launched.
    pub async fn teardown(&self) -> Result<(), FrameworkError> {
        let result = self.call(json!({"type": "TEARDOWN"})).await;
        // The actor stops even if the master refused the call.
        let _ = self.request(actor::Request::Stop);
        result
    }

    /// Sends a call of the scheduler API, with the framework's id added.
    pub async fn call(&self, call: Value) -> Result<(), FrameworkError> {
        let (reply, response) = oneshot::channel();
        self.request(actor::Request::Call(call, reply))?;
        response.await.map_err(|_| self.ended())?
    }

    fn request(&self, request: actor::Request) -> Result<(), FrameworkError> {
        self.requests.send(request).map_err(|_| self.ended())
    }

    fn ended(&self) -> FrameworkError {
        let why = UpdateLog::lock(&self.shared).ended.clone();
        FrameworkError::Ended(why.map_or_else(String::new, |why| format!(": {why}")))
    }

    /// Every update from now on. The stream ends with the framework.
    #[must_use]
    pub fn updates(&self) -> mpsc::UnboundedReceiver<TaskUpdate> {
        let (listener, updates) = mpsc::unbounded_channel();
        let mut shared = UpdateLog::lock(&self.shared);
        if shared.ended.is_none() {
            shared.listeners.push(listener);
        }
        updates
    }

    /// The updates of a task so far, oldest first.
    #[must_use]
    pub fn history(&self, task: &str) -> Vec<TaskUpdate> {
        UpdateLog::lock(&self.shared)
            .history
            .get(task)
            .cloned()
            .unwrap_or_default()
    }

    /// Removes the updates of a task, so that the history of a long run does not grow.
    pub fn forget(&self, task: &str) {
        UpdateLog::lock(&self.shared).history.remove(task);
    }

    /// The first past or future update of `task` that matches `condition`.
    pub async fn wait_for(
        &self,
        task: &str,
        timeout: Duration,
        condition: impl Fn(&TaskUpdate) -> bool,
    ) -> Result<TaskUpdate, FrameworkError> {
        // Listens before it reads the history, so that no update is missed.
        let mut updates = self.updates();
        let history = self.history(task);
        if let Some(update) = history.iter().find(|update| condition(update)) {
            return Ok(update.clone());
        }
        if history.iter().any(|update| update.state.is_terminal()) {
            return Err(self.task_ended(task));
        }
        let search = async {
            while let Some(update) = updates.recv().await {
                if update.task_id != task {
                    continue;
                }
                if condition(&update) {
                    return Ok(update);
                }
                if update.state.is_terminal() {
                    return Err(self.task_ended(task));
                }
            }
            Err(self.ended())
        };
        tokio::time::timeout(timeout, search)
            .await
            .unwrap_or_else(|_| {
                Err(FrameworkError::Timeout {
                    task: task.to_owned(),
                    waited: timeout,
                    updates: UpdateLog::lock(&self.shared).describe(task),
                })
            })
    }

    /// The first update of `task` in that state.
    pub async fn wait_state(
        &self,
        task: &str,
        state: TaskState,
        timeout: Duration,
    ) -> Result<TaskUpdate, FrameworkError> {
        self.wait_for(task, timeout, |update| update.state == state)
            .await
    }

    /// The update with which `task` ended, however it did.
    pub async fn wait_end(
        &self,
        task: &str,
        timeout: Duration,
    ) -> Result<TaskUpdate, FrameworkError> {
        self.wait_for(task, timeout, |update| update.state.is_terminal())
            .await
    }

    fn task_ended(&self, task: &str) -> FrameworkError {
        FrameworkError::TaskEnded {
            task: task.to_owned(),
            updates: UpdateLog::lock(&self.shared).describe(task),
        }
    }

    /// The tasks that have sent an update and no terminal one.
    #[must_use]
    pub fn live_tasks(&self) -> BTreeSet<String> {
        UpdateLog::lock(&self.shared)
            .history
            .iter()
            .filter(|(_, updates)| !updates.iter().any(|update| update.state.is_terminal()))
            .map(|(task, _)| task.clone())
            .collect()
    }
}
