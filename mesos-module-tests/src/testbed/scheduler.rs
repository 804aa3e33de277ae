//! A framework, and the host that its scheduler runs on.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use super::Host;
use super::agent::WAIT_TIMEOUT;
use super::framework::{Framework, GroupSpec, TaskSpec, TaskState, TaskUpdate};

/// Launches tasks, and waits for what becomes of them.
pub struct Scheduler {
    /// The framework.
    pub framework: Framework,
    host: Host,
}

impl Scheduler {
    /// A scheduler on that host, whose framework subscribes to the master at this `address:port`.
    pub fn start(host: &Host, master: &str) -> Result<Self> {
        Ok(Self {
            framework: host.block_on(Framework::connect(master))?,
            host: host.clone(),
        })
    }

    /// Launches a task and waits until it runs.
    pub fn run(&self, task: TaskSpec) -> Result<TaskUpdate> {
        let id = task.id().to_owned();
        self.launch(task)?;
        self.running(&id)
    }

    /// Launches a task.
    pub fn launch(&self, task: TaskSpec) -> Result<()> {
        self.host.block_on(self.framework.launch(task))?;
        Ok(())
    }

    /// Launches a task group.
    pub fn launch_group(&self, group: GroupSpec) -> Result<()> {
        self.host.block_on(self.framework.launch_group(group))?;
        Ok(())
    }

    /// Waits until a task runs.
    pub fn running(&self, task: &str) -> Result<TaskUpdate> {
        let state = TaskState::TaskRunning;
        Ok(self
            .host
            .block_on(self.framework.wait_state(task, state, WAIT_TIMEOUT))?)
    }

    /// Launches a task and waits until it ends.
    pub fn finish(&self, task: TaskSpec) -> Result<TaskUpdate> {
        let id = task.id().to_owned();
        self.launch(task)?;
        self.ended(&id)
    }

    /// Waits until a task ends.
    pub fn ended(&self, task: &str) -> Result<TaskUpdate> {
        Ok(self
            .host
            .block_on(self.framework.wait_end(task, WAIT_TIMEOUT))?)
    }

    /// Launches a task whose command is the test: it must finish successfully.
    pub fn passes(&self, task: TaskSpec) -> Result<TaskUpdate> {
        let end = self.finish(task)?;
        ensure!(
            end.state == TaskState::TaskFinished,
            "{}: {end}",
            end.task_id
        );
        Ok(end)
    }

    /// Launches a task that must fail to launch, and returns the error message.
    pub fn refused(&self, task: TaskSpec) -> Result<String> {
        let end = self.finish(task)?;
        ensure!(end.state == TaskState::TaskFailed, "{}: {end}", end.task_id);
        let reason = end.reason.as_deref();
        ensure!(
            reason == Some("REASON_CONTAINER_LAUNCH_FAILED"),
            "{}: {end}",
            end.task_id
        );
        Ok(end.message)
    }

    /// Kills a task and waits until it has ended.
    pub fn kill(&self, task: &str) -> Result<TaskUpdate> {
        self.host.block_on(self.framework.kill(task))?;
        self.ended(task)
    }

    /// Waits until a task has an address or has ended. Reconciles meanwhile, for a launch that was
    /// lost with the master gets no update.
    pub fn settled(&self, task: &str) -> Result<TaskUpdate> {
        let start = Instant::now();
        self.host.block_on(async {
            loop {
                let settled = |update: &TaskUpdate| {
                    update.state.is_terminal() || !update.addresses().is_empty()
                };
                let a_while = Duration::from_secs(3);
                match self.framework.wait_for(task, a_while, settled).await {
                    Err(error) if start.elapsed() > WAIT_TIMEOUT => {
                        return Err(error)
                            .with_context(|| format!("{task} neither runs nor failed"));
                    }
                    Err(_) => self.framework.reconcile(&[task]).await?,
                    Ok(update) => return Ok(update),
                }
            }
        })
    }
}
