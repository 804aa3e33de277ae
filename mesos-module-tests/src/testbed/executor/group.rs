//! The executor of task groups: every task is a nested container that the agent runs for it.

use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio::time::sleep;
use uuid::Uuid;

use super::agent::{Agent, Event, Operator};
use super::command::verdict;
use super::health::{self, Report};

/// The grace period of a killed task that has none of its own.
const KILL_GRACE_PERIOD: Duration = Duration::from_secs(3);

/// Delay before a call is repeated while the agent is disconnected or recovering.
const RETRY_DELAY: Duration = Duration::from_millis(100);

/// The end of a nested container.
struct ContainerEnd {
    task: String,
    /// The wait status, and the body of the agent's response.
    outcome: Result<(Option<i32>, Value), String>,
}

struct Task {
    info: Value,
    /// If a task of a group fails, all of the group are killed.
    group: usize,
    container: Value,
    killed: bool,
    check: Option<AbortHandle>,
}

struct Executor {
    agent: Agent,
    operator: Operator,
    /// The executor's own container.
    parent: Value,
    tasks: BTreeMap<String, Task>,
    groups: usize,
    ended: mpsc::UnboundedSender<ContainerEnd>,
    reports: mpsc::UnboundedSender<Report>,
    /// Whether the agent has sent `SHUTDOWN`. Nothing is launched after it.
    shutting_down: bool,
}

pub(super) async fn run() -> Result<()> {
    let (agent, subscribed) = Agent::connect().await?;
    let parent = subscribed["container_id"].clone();
    if parent.is_null() {
        bail!("the agent sent no container id");
    }
    let (ended, mut inbox) = mpsc::unbounded_channel();
    let (reports, mut health) = mpsc::unbounded_channel();
    let mut executor = Executor {
        operator: agent.operator(),
        agent,
        parent,
        tasks: BTreeMap::new(),
        groups: 0,
        ended,
        reports,
        shutting_down: false,
    };
    loop {
        let idle = executor.tasks.is_empty() && (executor.groups > 0 || executor.shutting_down);
        // Nothing is acknowledged after `SHUTDOWN`.
        if idle && (executor.shutting_down || executor.agent.is_settled()) {
            return Ok(());
        }
        tokio::select! {
            event = executor.agent.next() => match event {
                Event::Api(event) => executor.on_event(&event).await?,
                // Waits that ended with the old connection are repeated in `wait`.
                Event::Reconnected => {}
                Event::Lost => return Ok(()),
            },
            Some(ended) = inbox.recv() => executor.on_end(ended).await,
            Some(report) = health.recv() => executor.on_report(&report).await,
        }
    }
}

impl Executor {
    async fn on_event(&mut self, event: &Value) -> Result<()> {
        match event["type"].as_str().unwrap_or_default() {
            "LAUNCH_GROUP" if !self.shutting_down => {
                self.launch(&event["launch_group"]["task_group"]["tasks"])
                    .await;
            }
            "KILL" => {
                let id = event["kill"]["task_id"]["value"]
                    .as_str()
                    .unwrap_or_default();
                self.kill(id, &event["kill"]["kill_policy"]).await;
            }
            "SHUTDOWN" => {
                self.shutting_down = true;
                for id in self.tasks.keys().cloned().collect::<Vec<_>>() {
                    self.kill(&id, &Value::Null).await;
                }
            }
            "ERROR" => bail!("the agent sent an error: {}", event["error"]["message"]),
            _ => {}
        }
        Ok(())
    }

    async fn launch(&mut self, tasks: &Value) {
        let group = self.groups;
        self.groups += 1;
        let mut launched = Vec::new();
        for info in tasks.as_array().into_iter().flatten() {
            let id = info["task_id"]["value"]
                .as_str()
                .unwrap_or_default()
                .to_owned();
            let container = json!({"value": Uuid::new_v4().to_string(), "parent": self.parent});
            self.agent.launched(info);
            self.agent
                .update(info, "TASK_STARTING", "", json!({}))
                .await;
            let task = Task {
                info: info.clone(),
                group,
                container,
                killed: false,
                check: None,
            };
            self.tasks.insert(id.clone(), task);
            launched.push(id);
        }
        for id in launched {
            if let Err(error) = self.start(&id).await {
                let message = format!("{error:#}");
                let outcome = Err(message);
                self.on_end(ContainerEnd { task: id, outcome }).await;
            }
        }
    }

    async fn start(&mut self, id: &str) -> Result<()> {
        // Another task of its group has failed already.
        let Some(task) = self.tasks.get(id) else {
            return Ok(());
        };
        let (info, container) = (task.info.clone(), task.container.clone());
        let mut nested = json!({"container_id": container, "command": info["command"]});
        if info["container"].is_object() {
            nested["container"] = info["container"].clone();
        }
        let call = json!({"type": "LAUNCH_NESTED_CONTAINER", "launch_nested_container": nested});
        let (status, body) = self
            .operator
            .call(call)
            .await
            .context("cannot reach the agent")?;
        if !(200..300).contains(&status) {
            bail!("{body}");
        }
        let more = json!({"container_status": {"container_id": container}});
        self.agent.update(&info, "TASK_RUNNING", "", more).await;
        if let Some(task) = self.tasks.get_mut(id) {
            let environment = environment(&info);
            task.check = health::start(&info, environment, self.reports.clone());
        }
        let ended = self.ended.clone();
        let operator = self.operator.clone();
        let task = id.to_owned();
        tokio::spawn(async move {
            let outcome = wait(&operator, &container).await;
            // Fails when the executor has ended.
            let _ = ended.send(ContainerEnd { task, outcome });
        });
        Ok(())
    }

    async fn on_report(&mut self, report: &Report) {
        let Some(task) = self.tasks.get(&report.task).filter(|task| !task.killed) else {
            return;
        };
        let mut more = report.fields();
        more["container_status"] = json!({"container_id": task.container});
        let info = task.info.clone();
        self.agent.update(&info, "TASK_RUNNING", "", more).await;
        if report.kill {
            self.kill(&report.task, &Value::Null).await;
        }
    }

    async fn on_end(&mut self, ended: ContainerEnd) {
        let Some(task) = self.tasks.remove(&ended.task) else {
            return;
        };
        if let Some(check) = &task.check {
            check.abort();
        }
        let mut more = json!({"container_status": {"container_id": task.container}});
        let (state, message) = match ended.outcome {
            Err(message) => ("TASK_FAILED", message),
            Ok((Some(status), response)) => {
                let (state, message) = verdict(ExitStatus::from_raw(status), task.killed);
                // The agent reports it if a limitation ended the container.
                let state = match response["state"].as_str() {
                    Some("TASK_FAILED") if !task.killed => "TASK_FAILED",
                    _ => state,
                };
                if response["reason"].is_string() {
                    more["reason"] = response["reason"].clone();
                }
                let detail = response["message"]
                    .as_str()
                    .map(|detail| format!(": {detail}"))
                    .unwrap_or_default();
                (state, message + &detail)
            }
            Ok((None, response)) => {
                let message = response["message"].as_str().unwrap_or("Container ended");
                let state = if task.killed {
                    "TASK_KILLED"
                } else {
                    "TASK_FAILED"
                };
                (state, message.to_owned())
            }
        };
        self.agent.update(&task.info, state, &message, more).await;
        if state == "TASK_FINISHED" {
            return;
        }
        let group = task.group;
        let others = self.tasks.iter().filter(|(_, other)| other.group == group);
        for id in others.map(|(id, _)| id.clone()).collect::<Vec<_>>() {
            self.kill(&id, &Value::Null).await;
        }
    }

    async fn kill(&mut self, id: &str, policy: &Value) {
        let Some(task) = self.tasks.get_mut(id) else {
            return;
        };
        if std::mem::replace(&mut task.killed, true) {
            return;
        }
        let grace = [policy, &task.info["kill_policy"]]
            .iter()
            .find_map(|policy| policy["grace_period"]["nanoseconds"].as_u64())
            .map_or(KILL_GRACE_PERIOD, Duration::from_nanos);
        let (info, container) = (task.info.clone(), task.container.clone());
        let more = json!({"container_status": {"container_id": container}});
        self.agent.update(&info, "TASK_KILLING", "", more).await;
        let operator = self.operator.clone();
        tokio::spawn(async move {
            for signal in [Signal::SIGTERM, Signal::SIGKILL] {
                send(&operator, &container, signal).await;
                sleep(grace).await;
            }
        });
    }
}

/// The environment of a task's health check: that of the executor, and the task's own.
fn environment(info: &Value) -> BTreeMap<String, String> {
    let mut all: BTreeMap<String, String> = std::env::vars().collect();
    let variables = info["command"]["environment"]["variables"].as_array();
    for variable in variables.into_iter().flatten() {
        if let (Some(name), Some(value)) = (variable["name"].as_str(), variable["value"].as_str()) {
            all.insert(name.to_owned(), value.to_owned());
        }
    }
    all
}

/// Sends a signal to a container, across restarts of the agent.
async fn send(operator: &Operator, container: &Value, signal: Signal) {
    let call = json!({"type": "KILL_NESTED_CONTAINER", "kill_nested_container":
        {"container_id": container, "signal": signal as i32}});
    loop {
        match operator.call(call.clone()).await {
            Ok((200..300, _)) => return,
            // It has ended already.
            Ok((404, body)) if is_unknown(&body) => return,
            Ok(_) | Err(_) => sleep(RETRY_DELAY).await,
        }
    }
}

/// The agent's response about an unknown container. A listener whose agent has not started yet
/// responds 404, too, but with a shorter body.
fn is_unknown(body: &str) -> bool {
    body.contains("cannot be found")
}

/// Waits for the end of a container, across restarts of the agent.
async fn wait(operator: &Operator, container: &Value) -> Result<(Option<i32>, Value), String> {
    loop {
        let call = json!({"type": "WAIT_NESTED_CONTAINER",
                          "wait_nested_container": {"container_id": container}});
        match operator.call(call).await {
            Ok((200, body)) => {
                let mut body: Value = serde_json::from_str(&body).unwrap_or_default();
                let response = body["wait_nested_container"].take();
                let status = response["exit_status"].as_i64();
                return Ok((status.and_then(|status| status.try_into().ok()), response));
            }
            Ok((404, body)) if is_unknown(&body) => {
                return Err("the agent did not see the end of the container".to_owned());
            }
            Ok(_) | Err(_) => sleep(RETRY_DELAY).await,
        }
    }
}
