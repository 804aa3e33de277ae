//! The executor of a command task.

use std::collections::BTreeMap;
use std::env;
use std::future::pending;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::Duration;

use anyhow::{Context as _, Result};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tokio::process::{Child, Command};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use super::agent::{Agent, Event};
use super::health;

/// The grace period of a killed task, if neither the kill nor the task has one.
const KILL_GRACE_PERIOD: Duration = Duration::from_secs(3);

/// The flags on the command line from the agent.
#[derive(Default)]
struct Flags(BTreeMap<String, String>);

impl Flags {
    fn read(arguments: &[String]) -> Self {
        let flag = |argument: &String| {
            let (name, value) = argument.strip_prefix("--")?.split_once('=')?;
            Some((name.to_owned(), value.to_owned()))
        };
        Self(arguments.iter().filter_map(flag).collect())
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    fn json(&self, name: &str) -> Result<Option<Value>> {
        self.get(name)
            .map(|text| serde_json::from_str(text).with_context(|| format!("--{name} is not JSON")))
            .transpose()
    }
}

/// The task, once it has been launched.
struct Task {
    info: Value,
    child: Option<Child>,
    killed: bool,
    /// When `SIGKILL` follows.
    deadline: Option<Instant>,
}

pub(super) async fn run(arguments: &[String]) -> Result<()> {
    let flags = Flags::read(arguments);
    let (mut agent, _) = Agent::connect().await?;
    let mut task: Option<Task> = None;
    let (reports, mut health) = mpsc::unbounded_channel();
    // Nothing is acknowledged after `SHUTDOWN`.
    let mut is_shutting_down = false;
    loop {
        let done = task.as_ref().is_some_and(|task| task.child.is_none());
        if done && (is_shutting_down || agent.is_settled()) {
            return Ok(());
        }
        let deadline = task.as_ref().and_then(|task| task.deadline);
        tokio::select! {
            event = agent.next() => match event {
                Event::Api(event) => match event["type"].as_str().unwrap_or_default() {
                    "LAUNCH" if task.is_none() => {
                        let info = &event["launch"]["task"];
                        let launched = launch(&mut agent, &flags, info).await;
                        if launched.child.is_some() {
                            let environment = environment(&flags, info)?;
                            health::start(info, environment, reports.clone());
                        }
                        task = Some(launched);
                    }
                    "KILL" => {
                        let Some(task) = &mut task else { return Ok(()) };
                        let grace = nanoseconds(&event["kill"]["kill_policy"])
                            .unwrap_or_else(|| task.grace());
                        if task.child.is_some() && !task.killed {
                            agent.update(&task.info, "TASK_KILLING", "", json!({})).await;
                        }
                        task.kill(grace);
                    }
                    "SHUTDOWN" => {
                        let Some(task) = &mut task else { return Ok(()) };
                        is_shutting_down = true;
                        task.kill(agent.grace.min(KILL_GRACE_PERIOD));
                    }
                    "ERROR" => anyhow::bail!("the agent sent an error: {}", event["error"]["message"]),
                    _ => {}
                },
                Event::Reconnected => {}
                Event::Lost => {
                    if let Some(task) = &mut task {
                        task.signal(Signal::SIGKILL);
                    }
                    return Ok(());
                }
            },
            status = exit(&mut task) => if let Some(task) = &mut task {
                task.child = None;
                let (state, message) = verdict(status?, task.killed);
                agent.update(&task.info, state, &message, json!({})).await;
            },
            Some(report) = health.recv() => if let Some(task) = &mut task
                && task.child.is_some() && !task.killed
            {
                agent.update(&task.info, "TASK_RUNNING", "", report.fields()).await;
                if report.kill {
                    agent.update(&task.info, "TASK_KILLING", "", report.fields()).await;
                    task.kill(task.grace());
                }
            },
            () = overdue(deadline) => if let Some(task) = &mut task {
                task.signal(Signal::SIGKILL);
                task.deadline = None;
            },
        }
    }
}

async fn exit(task: &mut Option<Task>) -> std::io::Result<ExitStatus> {
    match task.as_mut().and_then(|task| task.child.as_mut()) {
        Some(child) => child.wait().await,
        None => pending().await,
    }
}

async fn overdue(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => pending().await,
    }
}

impl Task {
    /// Signals the process group of the task's first process, with everything that it started.
    fn signal(&self, signal: Signal) {
        let pid = self.child.as_ref().and_then(Child::id);
        if let Some(pid) = pid.and_then(|pid| i32::try_from(pid).ok()) {
            // Fails if the group has ended already.
            let _ = killpg(Pid::from_raw(pid), signal);
        }
    }

    /// The grace period if a kill has none of its own.
    fn grace(&self) -> Duration {
        nanoseconds(&self.info["kill_policy"]).unwrap_or(KILL_GRACE_PERIOD)
    }

    fn kill(&mut self, grace: Duration) {
        self.killed = true;
        self.signal(Signal::SIGTERM);
        self.deadline.get_or_insert(Instant::now() + grace);
    }
}

fn nanoseconds(policy: &Value) -> Option<Duration> {
    let nanoseconds = policy["grace_period"]["nanoseconds"].as_u64()?;
    Some(Duration::from_nanos(nanoseconds))
}

/// The task state that follows from the exit of its process.
pub(super) fn verdict(status: ExitStatus, killed: bool) -> (&'static str, String) {
    let message = match (status.code(), status.signal()) {
        (Some(code), _) => format!("Command exited with status {code}"),
        (None, Some(signal)) => format!("Command terminated with signal {signal}"),
        (None, None) => "Command ended".to_owned(),
    };
    let state = if killed {
        "TASK_KILLED"
    } else if status.success() {
        "TASK_FINISHED"
    } else {
        "TASK_FAILED"
    };
    (state, message)
}

async fn launch(agent: &mut Agent, flags: &Flags, info: &Value) -> Task {
    agent.launched(info);
    agent.update(info, "TASK_STARTING", "", json!({})).await;
    let spawned = command(flags, info).and_then(|mut command| {
        command
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot start {}", command.as_std().get_program().display()))
    });
    let child = match spawned {
        Ok(child) => {
            agent.update(info, "TASK_RUNNING", "", json!({})).await;
            Some(child)
        }
        Err(error) => {
            agent
                .update(info, "TASK_FAILED", &format!("{error:#}"), json!({}))
                .await;
            None
        }
    };
    Task {
        info: info.clone(),
        child,
        killed: false,
        deadline: None,
    }
}

/// The environment of the task: the executor's, the image's and the task's. Later ones override.
fn environment(flags: &Flags, info: &Value) -> Result<BTreeMap<String, String>> {
    let mut all: BTreeMap<String, String> = env::vars().collect();
    // Variables for the executor only.
    all.retain(|name, _| !name.starts_with("MESOS_CONTAINERIZER_"));
    let image = flags.json("task_environment")?.unwrap_or_default();
    for variables in [
        &image["variables"],
        &info["command"]["environment"]["variables"],
    ] {
        for variable in variables.as_array().into_iter().flatten() {
            if let (Some(name), Some(value)) =
                (variable["name"].as_str(), variable["value"].as_str())
            {
                all.insert(name.to_owned(), value.to_owned());
            }
        }
    }
    Ok(all)
}

fn command(flags: &Flags, info: &Value) -> Result<Command> {
    let flag = flags.json("task_command")?;
    let command_info = flag.as_ref().unwrap_or(&info["command"]);
    let environment = environment(flags, info)?;
    if let Some(rootfs) = flags.get("rootfs") {
        return contained(flags, command_info, &environment, rootfs);
    }
    let value = command_info["value"].as_str().unwrap_or_default();
    // Absent means true: the default of CommandInfo.
    let mut command = if command_info["shell"].as_bool().unwrap_or(true) {
        let mut shell = Command::new("/bin/sh");
        shell.arg("-c").arg(value);
        shell
    } else {
        let mut command = Command::new(value);
        let mut arguments = command_info["arguments"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str);
        if let Some(name) = arguments.next() {
            command.arg0(name);
        }
        command.args(arguments);
        command
    };
    command.env_clear().envs(environment);
    Ok(command)
}

/// A task with an image: mesos-containerizer enters the root filesystem and runs it.
fn contained(
    flags: &Flags,
    command_info: &Value,
    environment: &BTreeMap<String, String>,
    rootfs: &str,
) -> Result<Command> {
    let sandbox = flags
        .get("sandbox_directory")
        .unwrap_or("/mnt/mesos/sandbox");
    let mut launch = json!({
        "command": command_info,
        "rootfs": rootfs,
        "working_directory": flags.get("working_directory").unwrap_or(sandbox),
        "environment": {"variables": environment.iter()
            .map(|(name, value)| json!({"name": name, "type": "VALUE", "value": value}))
            .collect::<Vec<_>>()},
    });
    if let Some(user) = flags.get("user") {
        launch["user"] = json!(user);
    }
    for capabilities in ["effective_capabilities", "bounding_capabilities"] {
        if let Some(set) = flags.json(capabilities)? {
            launch[capabilities] = set;
        }
    }
    if let Some(more) = flags.json("task_launch_info")? {
        for field in [
            "mounts",
            "file_operations",
            "pre_exec_commands",
            "clone_namespaces",
        ] {
            if let Some(value) = more.get(field) {
                launch[field] = value.clone();
            }
        }
    }
    let directory = flags
        .get("launcher_dir")
        .context("--launcher_dir is missing")?;
    let mut command = Command::new(format!("{directory}/mesos-containerizer"));
    command
        .arg("launch")
        .arg(format!("--launch_info={launch}"))
        // The executor does not see the mounts of the task.
        .arg("--unshare_namespace_mnt=true");
    Ok(command)
}
