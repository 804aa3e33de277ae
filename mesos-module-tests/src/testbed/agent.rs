//! A host whose real agent runs our module: what the tests of the module start from.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use crate::testbed::framework::{Framework, GroupSpec, TaskSpec, TaskState, TaskUpdate};
use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use crate::testbed::leftovers::{self, Leftovers};
use crate::testbed::{Cluster, ClusterBuilder, Host, module};

/// How long anything may take before a test gives up. Never asserted as a time.
pub const PATIENCE: Duration = Duration::from_secs(90);

/// A network for tests: IPv4, on a bridge of its own.
pub const BLUE: &str =
    "[[network]]\nname = 'blue'\nprovider = 'bridge'\nbridge = 'blue0'\nsubnet = '10.32.0.0/24'\n";
/// Another, with both address families.
pub const RED: &str = "[[network]]\nname = 'red'\nprovider = 'bridge'\nbridge = 'red0'\nsubnet = '10.33.0.0/24'\nsubnet6 = 'fd00:33::/64'\n";

/// A host, its agent with our isolator and hook, and a framework.
pub struct Agent {
    /// The cluster; the agent is in it.
    pub cluster: Cluster,
    /// The framework.
    pub framework: Framework,
    name: String,
    host: Host,
    before: Leftovers,
}

/// A host for an agent. The directory of the namespaces' handles is a mount of its own there, as
/// `ip netns` and we make it once and for all; so that is nothing that a test leaves.
pub fn host() -> Result<Host> {
    host_at("192.0.2.1".parse()?)
}

/// As [`host`], with that address.
pub fn host_at(address: std::net::IpAddr) -> Result<Host> {
    let host = Host::start(address)?;
    host.sh("ip netns add once && ip netns delete once")?;
    Ok(host)
}

/// A cluster with our module, on a host; `config` is the agent's configuration without its
/// directories.
pub fn with_module(host: &Host, config: &str) -> Result<ClusterBuilder> {
    with_parameters(host, config, &[])
}

/// As [`with_module`], with more parameters.
pub fn with_parameters(
    host: &Host,
    config: &str,
    parameters: &[(&str, &str)],
) -> Result<ClusterBuilder> {
    let path = config_path(host);
    write_config(host, config)?;
    let path = path.display().to_string();
    let mut all = vec![("config", path.as_str())];
    all.extend_from_slice(parameters);
    Ok(Cluster::on(host)
        .module(&module()?, "network/contrail", &all)
        .module(&module()?, "org_contrail_mesos_Hook", &[])
        .isolation(&["network/contrail"])
        .hooks(&["org_contrail_mesos_Hook"]))
}

/// The path of the configuration of the host's agent.
#[must_use]
pub fn config_path(host: &Host) -> PathBuf {
    host.directory().join("agent.toml")
}

/// The state directory of the host's agent.
#[must_use]
pub fn state_dir(host: &Host) -> PathBuf {
    host.directory().join("state")
}

fn write_config(host: &Host, config: &str) -> Result<()> {
    let text = format!("state_dir = '{}'\n{config}", state_dir(host).display());
    // Replaced whole: an agent may be reading it.
    let path = config_path(host);
    let new = path.with_extension("new");
    fs::write(&new, text)?;
    fs::rename(&new, &path)?;
    Ok(())
}

impl Agent {
    /// Starts one with these networks.
    pub fn start(config: &str) -> Result<Self> {
        Self::start_with(config, |cluster| cluster)
    }

    /// Starts one with these networks, and what else `more` sets.
    pub fn start_with(
        config: &str,
        more: impl FnOnce(ClusterBuilder) -> ClusterBuilder,
    ) -> Result<Self> {
        Self::start_on(host()?, config, more)
    }

    /// As [`Agent::start_with`], on a host that is there already.
    pub fn start_on(
        host: Host,
        config: &str,
        more: impl FnOnce(ClusterBuilder) -> ClusterBuilder,
    ) -> Result<Self> {
        let before = host.leftovers()?;
        let cluster = more(with_module(&host, config)?).start()?;
        let framework = host.block_on(Framework::connect(cluster.master()))?;
        Ok(Self {
            cluster,
            framework,
            name: host.name().to_owned(),
            host,
            before,
        })
    }

    /// The host.
    #[must_use]
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// Changes the agent's configuration.
    pub fn configure(&self, config: &str) -> Result<()> {
        write_config(&self.host, config)
    }

    /// The path of the agent's configuration.
    #[must_use]
    pub fn config_path(&self) -> PathBuf {
        config_path(&self.host)
    }

    /// The agent's state directory.
    #[must_use]
    pub fn state_dir(&self) -> PathBuf {
        state_dir(&self.host)
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
            .block_on(self.framework.wait_state(task, state, PATIENCE))?)
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
            .block_on(self.framework.wait_end(task, PATIENCE))?)
    }

    /// Launches a task that must finish; its command is the test.
    pub fn passes(&self, task: TaskSpec) -> Result<TaskUpdate> {
        let end = self.finish(task)?;
        ensure!(
            end.state == TaskState::TaskFinished,
            "{}: {end}",
            end.task_id
        );
        Ok(end)
    }

    /// Launches a task that must fail to launch, and returns the message.
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

    /// Ends a task and waits until it has ended.
    pub fn kill(&self, task: &str) -> Result<TaskUpdate> {
        self.host.block_on(self.framework.kill(task))?;
        self.ended(task)
    }

    /// Kills master and agent, and starts them again.
    pub fn crash(&mut self) -> Result<()> {
        self.cluster.kill_9()?;
        self.cluster.restart()
    }

    /// Waits until a task has an address or has ended. A launch that was lost with the master is
    /// asked about: nobody else would ever tell.
    pub fn settled(&self, task: &str) -> Result<TaskUpdate> {
        let start = std::time::Instant::now();
        self.host.block_on(async {
            loop {
                let settled = |update: &TaskUpdate| {
                    update.state.is_terminal() || !update.addresses().is_empty()
                };
                let a_while = Duration::from_secs(3);
                match self.framework.wait_for(task, a_while, settled).await {
                    Err(error) if start.elapsed() > PATIENCE => {
                        return Err(error)
                            .with_context(|| format!("{task} neither runs nor failed"));
                    }
                    Err(_) => self.framework.reconcile(&[task]).await?,
                    Ok(update) => return Ok(update),
                }
            }
        })
    }

    /// The containers as the agent tells them.
    pub fn containers(&self) -> Result<Vec<Value>> {
        let call = json!({ "type": "GET_CONTAINERS", "get_containers": { "show_nested": true } });
        let answer = self.cluster.agent_call(&call)?;
        Ok(answer["get_containers"]["containers"]
            .as_array()
            .cloned()
            .unwrap_or_default())
    }

    /// Waits until our half of the host is as it was before: no link, namespace, mount, rule,
    /// lease or checkpoint of a container.
    pub fn expect_no_container(&self) -> Result<()> {
        self.host
            .expect_nothing_of(&["link", "namespace", "table"], &self.before)?;
        self.expect_no_state()
    }

    /// Waits until no lease or checkpoint is left.
    pub fn expect_no_state(&self) -> Result<()> {
        let state = self.state_dir().display().to_string();
        let list = format!(
            "find {state}/containers {state}/networks {state}/contrail -mindepth 1 \
             ! -name .lock ! -name pending-teardown 2>/dev/null || true"
        );
        let start = std::time::Instant::now();
        loop {
            let files = self.host.sh(&list)?;
            if files.is_empty() {
                return Ok(());
            }
            ensure!(
                start.elapsed() < Duration::from_secs(20),
                "left in the state directory:\n{files}"
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Ends everything, and fails if anything is left on the host or the machine.
    pub fn end(self) -> Result<()> {
        self.host.block_on(self.framework.teardown())?;
        self.close()
    }

    /// As [`Agent::end`], for a framework that was torn down already.
    pub fn close(self) -> Result<()> {
        self.expect_no_container()?;
        self.cluster.stop()?;
        self.host.expect_nothing_since(&self.before)?;
        let name = self.name;
        drop(self.framework);
        drop(self.host);
        let traces = leftovers::traces_of(&name)?;
        ensure!(
            traces.is_empty(),
            "left on the machine:\n{}",
            traces.join("\n")
        );
        Ok(())
    }
}

/// The container's id in an update, as directories and handles are named.
pub fn container(update: &TaskUpdate) -> Result<String> {
    // Innermost first or last, a top-level container has one.
    let [id] = update.container_id.as_slice() else {
        anyhow::bail!("{:?} is not a top-level container", update.container_id);
    };
    Ok(id.clone())
}

/// The first address in an update.
pub fn address(update: &TaskUpdate) -> Result<std::net::IpAddr> {
    update.addresses().first().copied().context("no address")
}
