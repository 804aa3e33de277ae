//! The configuration of a cluster: its environment and its files.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::symlink;
use std::path::Path;

use anyhow::Result;
use serde_json::{Value, json};

use super::{Cluster, Part};
use crate::testbed::host::Host;
use crate::testbed::image;

/// A cluster to be started.
#[derive(Debug)]
pub struct ClusterBuilder {
    host: Host,
    part: Part,
    /// Of the master, if it is elsewhere.
    master: Option<String>,
    port: u16,
    libraries: Vec<Value>,
    isolation: Vec<String>,
    hooks: Vec<String>,
    resources: String,
    environment: BTreeMap<String, String>,
    images: bool,
}

impl ClusterBuilder {
    pub(super) fn new(host: &Host) -> Self {
        Self {
            host: host.clone(),
            part: Part::Both,
            master: None,
            port: 5050,
            libraries: Vec::new(),
            isolation: Vec::new(),
            hooks: Vec::new(),
            resources: "cpus:1000;mem:1000000;disk:100000;ports:[31000-32000]".to_owned(),
            environment: BTreeMap::new(),
            images: false,
        }
    }

    /// Loads a module from a library; more than one of the same library are one after another.
    #[must_use]
    pub fn module(mut self, library: &Path, name: &str, parameters: &[(&str, &str)]) -> Self {
        let parameters: Vec<Value> = parameters
            .iter()
            .map(|(key, value)| json!({"key": key, "value": value}))
            .collect();
        let module = json!({"name": name, "parameters": parameters});
        let same = self
            .libraries
            .iter_mut()
            .find(|entry| entry["file"] == json!(library));
        if let Some(modules) = same.and_then(|entry| entry["modules"].as_array_mut()) {
            modules.push(module);
        } else {
            self.libraries
                .push(json!({"file": library, "modules": [module]}));
        }
        self
    }

    /// Adds isolators to the agent's `filesystem/linux`.
    #[must_use]
    pub fn isolation(mut self, isolators: &[&str]) -> Self {
        self.isolation
            .extend(isolators.iter().map(ToString::to_string));
        self
    }

    /// Adds hooks.
    #[must_use]
    pub fn hooks(mut self, hooks: &[&str]) -> Self {
        self.hooks.extend(hooks.iter().map(ToString::to_string));
        self
    }

    /// The agent's resources, in place of many small tasks' worth.
    #[must_use]
    pub fn resources(mut self, resources: &str) -> Self {
        resources.clone_into(&mut self.resources);
        self
    }

    /// A variable of the cluster's environment; `MESOS_*` are the flags of master and agent.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.insert(name.to_owned(), value.to_owned());
        self
    }

    /// Starts no agent.
    #[must_use]
    pub fn master_alone(mut self) -> Self {
        self.part = Part::Master;
        self
    }

    /// Lets the agent register at the master at this `address:port`, on another host.
    #[must_use]
    pub fn agent_of(mut self, master: &str) -> Self {
        self.part = Part::Agent;
        self.master = Some(master.to_owned());
        self
    }

    /// Another port than 5050.
    #[must_use]
    pub fn port(mut self, port: u16) -> Self {
        self.port = port;
        self
    }

    /// Lets the agent run containers with the image `busybox`, and with what else is put into
    /// [`Cluster::images`].
    #[must_use]
    pub fn images(mut self) -> Self {
        self.images = true;
        self.isolation.push("docker/runtime".to_owned());
        self
    }

    /// Starts the cluster and waits until its agent is registered, or its master leads.
    pub fn start(self) -> Result<Cluster> {
        let host = self.host.clone();
        // The separator at the end keeps one from being the prefix of another.
        let name = format!("{}_{}_", host.name(), host.next_cluster());
        let directory = host.directory().join(&name);
        let launcher = directory.join("launcher");
        fs::create_dir_all(&launcher)?;
        let install = host.install();
        symlink(
            &install.mesos_containerizer,
            launcher.join("mesos-containerizer"),
        )?;
        // The agent follows the first name to its file, and calls the other as it is.
        symlink(&install.mesos_executor, launcher.join("mesos-executor"))?;
        symlink(
            &install.mesos_executor,
            launcher.join("mesos-default-executor"),
        )?;
        if self.images {
            image::busybox(&directory.join("images"))?;
        }
        let address = SocketAddr::new(host.address(), self.port).to_string();
        let cluster = Cluster {
            part: self.part,
            master: self.master.clone().unwrap_or_else(|| address.clone()),
            address,
            log: directory.join("mesos.log"),
            environment: self.environment(&name, &directory)?,
            host,
            name,
            directory,
            process: None,
        };
        cluster.started()
    }

    fn environment(self, name: &str, directory: &Path) -> Result<BTreeMap<String, String>> {
        let address = self.host.address().to_string();
        let path = |part: &str| directory.join(part).display().to_string();
        let mut all = BTreeMap::new();
        let mut set = |name: &str, value: String| all.insert(name.to_owned(), value);
        set(
            "PATH",
            "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned(),
        );
        // Mesos makes mesos/work/{master,agents/0} in it.
        set("TMPDIR", directory.display().to_string());
        set("LIBPROCESS_IP", address.clone());
        set("LIBPROCESS_PORT", self.port.to_string());
        // A thread for every core of the test machine would be a few too many per agent.
        set("LIBPROCESS_NUM_WORKER_THREADS", "8".to_owned());
        set("MESOS_IP", address.clone());
        set("MESOS_HOSTNAME", address);
        set("MESOS_REGISTRY", "in_memory".to_owned());
        set("MESOS_ALLOCATION_INTERVAL", "50ms".to_owned());
        set("MESOS_LAUNCHER_DIR", path("launcher"));
        set("MESOS_CONTAINERIZERS", "mesos".to_owned());
        set("MESOS_LAUNCHER", "linux".to_owned());
        set("MESOS_CGROUPS_ROOT", name.to_owned());
        let isolation = [vec!["filesystem/linux".to_owned()], self.isolation].concat();
        set("MESOS_ISOLATION", isolation.join(","));
        set("MESOS_SYSTEMD_ENABLE_SUPPORT", "false".to_owned());
        set("MESOS_HTTP_COMMAND_EXECUTOR", "true".to_owned());
        set("MESOS_RESOURCES", self.resources);
        set("MESOS_APPC_STORE_DIR", path("appc"));
        set("MESOS_DOCKER_STORE_DIR", path("docker"));
        if self.images {
            set("MESOS_IMAGE_PROVIDERS", "docker".to_owned());
            set("MESOS_DOCKER_REGISTRY", path("images"));
        }
        if !self.hooks.is_empty() {
            set("MESOS_HOOKS", self.hooks.join(","));
        }
        if !self.libraries.is_empty() {
            let modules = directory.join("modules.json");
            fs::write(&modules, json!({"libraries": self.libraries}).to_string())?;
            set("MESOS_MODULES", format!("file://{}", modules.display()));
        }
        all.extend(self.environment);
        Ok(all)
    }
}
