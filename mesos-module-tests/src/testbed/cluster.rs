//! A real Mesos master with a real agent on a simulated host, or one of the two.

mod builder;

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use log::error;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::testbed::framework::Framework;
pub use builder::ClusterBuilder;

use crate::testbed::cgroups;
use crate::testbed::host::Host;

/// The agent's name in URLs, the same for every agent.
const AGENT: &str = "slave(1)";

/// A running cluster. It is ended, with everything that it runs, when it is dropped.
#[derive(Debug)]
pub struct Cluster {
    host: Host,
    name: String,
    part: Part,
    /// `address:port` of this process, and of the master.
    address: String,
    master: String,
    directory: PathBuf,
    log: PathBuf,
    environment: BTreeMap<String, String>,
    process: Option<Process>,
}

/// What of Mesos the process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Both,
    Master,
    /// Of a master on another host.
    Agent,
}

#[derive(Debug)]
struct Process {
    /// util-linux's nsenter, which ends when the cluster does.
    nsenter: Child,
    /// The cluster itself.
    pid: Pid,
}

impl Cluster {
    /// A cluster on that host, with resources for many small tasks and no isolator but
    /// `filesystem/linux`.
    #[must_use]
    pub fn on(host: &Host) -> ClusterBuilder {
        ClusterBuilder::new(host)
    }

    fn started(mut self) -> Result<Self> {
        self.restart()?;
        Ok(self)
    }

    /// A framework with the default options, subscribed to the master.
    pub fn framework(&self) -> Result<Framework> {
        let framework = self.host.block_on(Framework::connect(&self.master));
        framework.context("no framework without a master")
    }

    /// The sandbox of an executor's latest run. Command tasks' executors have their task's id.
    pub fn sandbox(&self, framework: &Framework, executor: &str) -> Result<PathBuf> {
        let agents = self.work_dir().join("slaves");
        let found = fs::read_dir(&agents);
        let found = found.with_context(|| format!("cannot list {}", agents.display()))?;
        for agent in found.flatten() {
            let executor = format!("frameworks/{}/executors/{executor}", framework.id());
            let run = agent.path().join(executor).join("runs/latest");
            if run.is_dir() {
                return Ok(run);
            }
        }
        bail!(
            "executor {executor} has no sandbox under {}",
            agents.display()
        )
    }

    /// Whether master and agent still run.
    pub fn is_running(&mut self) -> Result<bool> {
        let process = self.process.as_mut();
        process.map_or(Ok(false), |process| {
            Ok(process.nsenter.try_wait()?.is_none())
        })
    }

    /// The master's `address:port`, as seen on the host.
    #[must_use]
    pub fn master(&self) -> &str {
        &self.master
    }

    /// The host.
    #[must_use]
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// The agent's work directory.
    #[must_use]
    pub fn work_dir(&self) -> PathBuf {
        self.directory.join("mesos/work/agents/0/work")
    }

    /// The agent's runtime directory.
    #[must_use]
    pub fn runtime_dir(&self) -> PathBuf {
        self.directory.join("mesos/work/agents/0/run")
    }

    /// Where the agent looks for images, as `NAME.tar`.
    #[must_use]
    pub fn images(&self) -> PathBuf {
        self.directory.join("images")
    }

    /// Where the agent looks for its programs.
    #[must_use]
    pub fn launcher_dir(&self) -> PathBuf {
        self.directory.join("launcher")
    }

    /// The log of all of the cluster's runs.
    pub fn log(&self) -> Result<String> {
        fs::read_to_string(&self.log).context("the cluster has no log")
    }

    /// The process id of master and agent, on the machine; none if it is not running.
    #[must_use]
    pub fn pid(&self) -> Option<i32> {
        self.process.as_ref().map(|process| process.pid.as_raw())
    }

    /// Sets a variable for the next start.
    pub fn set_env(&mut self, name: &str, value: &str) {
        self.environment.insert(name.to_owned(), value.to_owned());
    }

    /// Calls the agent's operator API.
    pub fn agent_call(&self, call: &Value) -> Result<Value> {
        self.host.block_on(async {
            let url = format!("http://{}/{AGENT}/api/v1", self.address);
            post(&url, call).await
        })
    }

    /// Calls the master's operator API.
    pub fn master_call(&self, call: &Value) -> Result<Value> {
        self.host.block_on(async {
            let url = format!("http://{}/master/api/v1", self.master);
            post(&url, call).await
        })
    }

    /// Starts the cluster again on the same directories, ending it first if it runs, and waits
    /// until the agent is registered, or the master leads if there is no agent.
    pub fn restart(&mut self) -> Result<()> {
        self.kill_9()?;
        let log = OpenOptions::new().create(true).append(true).open(&self.log);
        let log = log.with_context(|| format!("cannot write {}", self.log.display()))?;
        let mut command = self
            .host
            .command(self.launcher_dir().join("mesos-containerizer"));
        match self.part {
            Part::Both => command.arg("cluster"),
            Part::Master => command.arg("master"),
            Part::Agent => command.args(["agent", &self.master]),
        };
        let mut nsenter = command
            .env_clear()
            .envs(&self.environment)
            .current_dir(&self.directory)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .process_group(0)
            .spawn()
            .context("cannot run nsenter")?;
        let pid = match child_of(&mut nsenter) {
            Ok(pid) => pid,
            Err(error) => {
                // It may have ended by itself.
                let _ = nsenter.kill();
                let _ = nsenter.wait();
                return Err(error.context(format!("the cluster did not start:\n{}", self.tail())));
            }
        };
        self.process = Some(Process { nsenter, pid });
        self.wait_registered()
    }

    fn wait_registered(&mut self) -> Result<()> {
        let deadline = Instant::now() + Duration::from_mins(1);
        loop {
            if let Some(process) = &mut self.process
                && let Some(status) = process.nsenter.try_wait()?
            {
                self.process = None;
                bail!("the cluster ended with {status}:\n{}", self.tail());
            }
            let agents = self.master_call(&json!({"type": "GET_AGENTS"}));
            if agents
                .as_ref()
                .is_ok_and(|answer| self.is_registered(answer))
            {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!("the agent does not register ({agents:?}):\n{}", self.tail());
            }
            sleep(Duration::from_millis(20));
        }
    }

    /// Whether this agent is active by the master's answer to `GET_AGENTS`.
    fn is_registered(&self, answer: &Value) -> bool {
        let agents = answer["get_agents"]["agents"].as_array();
        self.part == Part::Master
            || agents.into_iter().flatten().any(|agent| {
                agent["active"] == true
                    && (self.part == Part::Both
                        || agent["agent_info"]["hostname"] == self.host.address().to_string())
            })
    }

    /// Kills master and agent, and nothing else: containers run on.
    pub fn kill_9(&mut self) -> Result<()> {
        let Some(mut process) = self.process.take() else {
            return Ok(());
        };
        // It is a child of nsenter, which has not been waited for: the id is still its own.
        if process.nsenter.try_wait()?.is_none() {
            kill(process.pid, Signal::SIGKILL).context("cannot kill the cluster")?;
        }
        process
            .nsenter
            .wait()
            .context("cannot wait for the cluster")?;
        Ok(())
    }

    /// Stops master and agent with SIGSTOP: connections stay open but get no response.
    pub fn pause(&self) -> Result<()> {
        let process = self.process.as_ref().context("the cluster does not run")?;
        kill(process.pid, Signal::SIGSTOP).context("cannot stop the cluster")
    }

    /// Lets master and agent go on.
    pub fn resume(&self) -> Result<()> {
        let process = self.process.as_ref().context("the cluster does not run")?;
        // nsenter stops itself when its child stops.
        let nsenter = Pid::from_raw(process.nsenter.id().try_into()?);
        for pid in [nsenter, process.pid] {
            kill(pid, Signal::SIGCONT).context("cannot let the cluster go on")?;
        }
        Ok(())
    }

    /// Ends the cluster and everything that it runs, and removes its cgroups, mounts and files.
    pub fn stop(mut self) -> Result<()> {
        self.end()
    }

    pub(super) fn end(&mut self) -> Result<()> {
        self.kill_9()?;
        // Where to keep the logs of tests, for somebody who looks for the reason of a failure.
        if let Some(logs) = std::env::var_os("CONTRAIL_TEST_LOGS") {
            let test = std::thread::current()
                .name()
                .unwrap_or("test")
                .replace(':', "_");
            fs::copy(
                &self.log,
                Path::new(&logs).join(format!("{test}-{}.log", self.name)),
            )?;
        }
        cgroups::remove(&self.name)?;
        // The mounts are seen on the host only.
        self.host.sh(&format!(
            "awk '$5 ~ d {{ print $5 }}' d='^{0}/' /proc/self/mountinfo | tac | xargs -r -n 1 umount -l
             rm -rf --one-file-system {0}",
            self.directory.display()
        ))?;
        Ok(())
    }

    /// The end of the log and of the latest tasks' own output.
    fn tail(&self) -> String {
        let part =
            |file: &Path, count| format!("--- {}\n{}\n", file.display(), last_lines(file, count));
        let mut text = part(&self.log, 60);
        let mut outputs = Vec::new();
        find_outputs(&self.work_dir(), &mut outputs);
        for output in outputs.iter().rev().take(8) {
            text.push_str(&part(output, 15));
        }
        text
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if !self.directory.exists() {
            return;
        }
        if std::thread::panicking() {
            // Not eprintln: the tail belongs to the failure wherever that is captured.
            let _ = writeln!(io::stderr().lock(), "{}", self.tail());
        }
        if let Err(error) = self.end() {
            // The host removes what is left when it ends, and complains if it cannot.
            error!("the cluster {} did not end well: {error:#}", self.name);
        }
    }
}

async fn post(url: &str, call: &Value) -> Result<Value> {
    let client = reqwest::Client::builder()
        .no_proxy()
        .timeout(Duration::from_secs(30))
        .build()?;
    let request = client.post(url).header("Accept", "application/json");
    let response = request.json(call).send().await?;
    let status = response.status();
    let body = response.text().await?;
    if !status.is_success() {
        bail!("{} is refused with HTTP {status}: {body}", call["type"]);
    }
    if body.is_empty() {
        return Ok(Value::Null);
    }
    serde_json::from_str(&body).with_context(|| format!("not JSON: {body}"))
}

/// The one child of a process that has just been started.
fn child_of(parent: &mut Child) -> Result<Pid> {
    let deadline = Instant::now() + Duration::from_secs(10);
    let parent_pid = parent.id().to_string();
    loop {
        for entry in fs::read_dir("/proc")?.flatten() {
            let Ok(stat) = fs::read_to_string(entry.path().join("stat")) else {
                continue;
            };
            // The name, in parentheses, may contain anything.
            let mut fields = stat
                .rsplit(')')
                .next()
                .unwrap_or_default()
                .split(' ')
                .skip(2);
            if fields.next() == Some(&parent_pid) {
                let pid = entry.file_name().to_string_lossy().parse()?;
                return Ok(Pid::from_raw(pid));
            }
        }
        if let Some(status) = parent.try_wait()? {
            bail!("nsenter ended with {status}");
        }
        if Instant::now() > deadline {
            bail!("nsenter starts nothing");
        }
        sleep(Duration::from_millis(1));
    }
}

fn last_lines(path: &Path, count: usize) -> String {
    let text = fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}

fn find_outputs(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            find_outputs(&path, found);
        } else if path.ends_with("stderr") && entry.metadata().is_ok_and(|data| data.len() > 0) {
            found.push(path);
        }
    }
}
