//! A host whose real agent has loaded the module.

use std::fs;
use std::ops::Deref;
use std::path::PathBuf;
use std::time::Duration;

use crate::testbed::framework::TaskUpdate;
use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use crate::testbed::leftovers::{self, Leftovers};
use crate::testbed::{Cluster, ClusterBuilder, Host, Scheduler, module};

/// How long a test waits for anything before it fails. No test asserts a shorter time.
pub const WAIT_TIMEOUT: Duration = Duration::from_secs(90);

/// A network for tests: IPv4, on its own bridge.
pub const BLUE: &str =
    "[[network]]\nname = 'blue'\nprovider = 'bridge'\nbridge = 'blue0'\nsubnet = '10.32.0.0/24'\n";
/// Another network, with both address families.
pub const RED: &str = "[[network]]\nname = 'red'\nprovider = 'bridge'\nbridge = 'red0'\nsubnet = '10.33.0.0/24'\nsubnet6 = 'fd00:33::/64'\n";

/// A host, its agent with the isolator and the hook, and a scheduler.
pub struct Agent {
    /// The cluster; the agent is in it.
    pub cluster: Cluster,
    scheduler: Scheduler,
    name: String,
    host: Host,
    before: Leftovers,
}

/// Starts a host for an agent. `/run/netns` is a mount already, as `ip netns` creates it at its first
/// use, so that a test does not find it as a leftover.
pub fn host() -> Result<Host> {
    host_at("192.0.2.1".parse()?)
}

/// As [`host`], with this address.
pub fn host_at(address: std::net::IpAddr) -> Result<Host> {
    let host = Host::start(address)?;
    host.sh("ip netns add once && ip netns delete once")?;
    Ok(host)
}

/// A cluster with the module on a host. `config` is the configuration without `state_dir`.
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

/// Replaces the configuration of the host's agent. `config` is without `state_dir`.
pub fn write_config(host: &Host, config: &str) -> Result<()> {
    let text = format!("state_dir = '{}'\n{config}", state_dir(host).display());
    // Renamed into place: the agent reads the file at any time.
    let path = config_path(host);
    let new = path.with_extension("new");
    fs::write(&new, text)?;
    fs::rename(&new, &path)?;
    Ok(())
}

impl Deref for Agent {
    type Target = Scheduler;

    fn deref(&self) -> &Scheduler {
        &self.scheduler
    }
}

impl Agent {
    /// Starts an agent with these networks.
    pub fn start(config: &str) -> Result<Self> {
        Self::start_with(config, |cluster| cluster)
    }

    /// As [`Agent::start`], with a cluster that `more` changes.
    pub fn start_with(
        config: &str,
        more: impl FnOnce(ClusterBuilder) -> ClusterBuilder,
    ) -> Result<Self> {
        Self::start_on(host()?, config, more)
    }

    /// As [`Agent::start_with`], on an existing host.
    pub fn start_on(
        host: Host,
        config: &str,
        more: impl FnOnce(ClusterBuilder) -> ClusterBuilder,
    ) -> Result<Self> {
        let before = host.leftovers()?;
        let cluster = more(with_module(&host, config)?).start()?;
        let scheduler = Scheduler::start(&host, cluster.master())?;
        Ok(Self {
            cluster,
            scheduler,
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

    /// Kills a task, and waits until only one other container has a checkpoint: then what the task
    /// had is free.
    pub fn kill_beside_one_other(&self, task: &str) -> Result<TaskUpdate> {
        let end = self.kill(task)?;
        let state = self.state_dir().display().to_string();
        self.host.sh(&format!(
            "for i in $(seq 200); do test $(ls {state}/containers | wc -l) = 1 && exit 0; sleep 0.1; done; exit 1"
        ))?;
        Ok(end)
    }

    /// Kills master and agent, and starts them again.
    pub fn crash(&mut self) -> Result<()> {
        self.cluster.kill_9()?;
        self.cluster.restart()
    }

    /// The containers that the agent reports.
    pub fn containers(&self) -> Result<Vec<Value>> {
        let call = json!({ "type": "GET_CONTAINERS", "get_containers": { "show_nested": true } });
        let answer = self.cluster.agent_call(&call)?;
        Ok(answer["get_containers"]["containers"]
            .as_array()
            .cloned()
            .unwrap_or_default())
    }

    /// The nested containers that the agent reports.
    pub fn nested_containers(&self) -> Result<Vec<Value>> {
        let mut containers = self.containers()?;
        containers
            .retain(|container| !container["container_status"]["container_id"]["parent"].is_null());
        Ok(containers)
    }

    /// Waits until no container has left a link, namespace, rule, lease or checkpoint.
    pub fn expect_no_container(&self) -> Result<()> {
        self.host
            .expect_nothing_of(&["link", "namespace", "table"], &self.before)?;
        self.expect_no_state()
    }

    /// Waits until no lease or checkpoint is left.
    pub fn expect_no_state(&self) -> Result<()> {
        expect_no_state(&self.host)
    }

    /// Stops everything, and fails if anything is left on the host or the machine.
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
        drop(self.scheduler);
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

/// Waits until no lease or checkpoint is left in the host's state directory.
pub fn expect_no_state(host: &Host) -> Result<()> {
    let state = state_dir(host).display().to_string();
    let list = format!(
        "find {state}/containers {state}/networks {state}/contrail -mindepth 1 \
         ! -name .lock ! -name pending-teardown 2>/dev/null || true"
    );
    let start = std::time::Instant::now();
    loop {
        let files = host.sh(&list)?;
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

/// A script that fetches a URL, and retries until its server has started.
#[must_use]
pub fn fetch(url: &str) -> String {
    format!("for i in $(seq 100); do curl -sfg -m 5 {url} && exit 0; sleep 0.1; done; exit 1")
}

/// A command that serves a page with this text on port 80.
#[must_use]
pub fn serve(text: &str) -> String {
    format!("mkdir -p www && echo {text} > www/index.html && exec busybox httpd -f -p 80 -h www")
}

/// The id of a top-level container in an update. Its files and namespace handle have this name.
pub fn container(update: &TaskUpdate) -> Result<String> {
    let [id] = update.container_id.as_slice() else {
        anyhow::bail!("{:?} is not a top-level container", update.container_id);
    };
    Ok(id.clone())
}

/// The first address in an update.
pub fn address(update: &TaskUpdate) -> Result<std::net::IpAddr> {
    update.addresses().first().copied().context("no address")
}
