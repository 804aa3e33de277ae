//! The real Docker on a simulated host, with an image that needs no registry.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use anyhow::{Context as _, Result, ensure};

use super::agent::{config_path, serve};
use super::{Host, image, until};

/// The image of all containers.
const IMAGE: &str = "busybox";

/// A running Docker. It ends with its host, or by [`Docker::stop`].
pub struct Docker {
    host: Host,
    child: Child,
}

impl Docker {
    /// Starts it on a host, and waits until it answers.
    pub fn start(host: &Host) -> Result<Self> {
        // It writes its key there, whatever its options.
        host.sh("mkdir -p /etc/docker && mount -t tmpfs tmpfs /etc/docker")?;
        let directory = host.directory().join("docker");
        fs::create_dir_all(&directory)?;
        let log = fs::File::create(directory.join("log"))?;
        let option = |name: &str| format!("--{name}={}", directory.join(name).display());
        let child = host
            .command("dockerd")
            .args(["data-root", "exec-root", "pidfile"].map(option))
            .arg(format!("--host=unix://{}", socket(host).display()))
            .arg("--storage-driver=vfs")
            .arg("--exec-opt=native.cgroupdriver=cgroupfs")
            .arg(format!("--cgroup-parent=/{}", cgroup(host)))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("cannot run dockerd; is docker.io installed?")?;
        let docker = Self {
            host: host.clone(),
            child,
        };
        until("Docker answers", || Ok(docker.run("version").ok()))?;
        let root = tempfile::tempdir()?;
        image::rootfs(root.path())?;
        docker.import(root.path(), &[], IMAGE)?;
        Ok(docker)
    }

    /// Makes an image of a root filesystem, without the directories `excluded` in it.
    pub fn import(&self, root: &Path, excluded: &[&str], name: &str) -> Result<()> {
        let excluded: Vec<String> = excluded
            .iter()
            .map(|directory| format!("--exclude=./{directory}/*"))
            .collect();
        self.host.sh(&format!(
            "tar -C {} {} -c . | {} import - {name}",
            root.display(),
            excluded.join(" "),
            self.client()
        ))?;
        Ok(())
    }

    /// Lets the node daemon of the host, when it starts next, give Docker its half of the overlays.
    pub fn enable(&self) -> Result<()> {
        self.replace_in_config("[node]\n", &self.key())
    }

    fn key(&self) -> String {
        format!("[node]\ndocker = '{}'\n", socket(&self.host).display())
    }

    fn replace_in_config(&self, present: &str, new: &str) -> Result<()> {
        let path = config_path(&self.host);
        let text = fs::read_to_string(&path)?;
        ensure!(text.contains(present), "{text}");
        fs::write(&path, text.replacen(present, new, 1))?;
        Ok(())
    }

    fn client(&self) -> String {
        format!("docker --host=unix://{}", socket(&self.host).display())
    }

    /// Runs a command of its command line, and returns what it prints.
    pub fn run(&self, command: &str) -> Result<String> {
        let printed = self.host.sh(&format!("{} {command}", self.client()))?;
        Ok(printed.trim().to_owned())
    }

    /// Starts a container on a network that serves a page with its name, and returns its address.
    pub fn serve(&self, name: &str, network: &str) -> Result<IpAddr> {
        self.run(&format!(
            "run --detach --name {name} --network {network} {IMAGE} /bin/sh -c '{}'",
            serve(name)
        ))?;
        let address = self.run(&format!(
            "container inspect --format '{{{{(index .NetworkSettings.Networks \"{network}\").IPAddress}}}}' {name}"
        ))?;
        address.parse().with_context(|| format!("{address:?}"))
    }

    /// Runs a command inside a container.
    pub fn exec(&self, container: &str, command: &str) -> Result<String> {
        self.run(&format!("exec {container} {command}"))
    }

    /// Ends it, with its containers and networks, and removes what it leaves on its host. The node
    /// daemon, which must not run meanwhile, does not look for it when it starts next.
    pub fn stop(self) -> Result<()> {
        self.replace_in_config(&self.key(), "[node]\n")?;
        self.end()
    }

    /// As [`Docker::stop`], on a host whose node daemon was never given it.
    pub fn end(mut self) -> Result<()> {
        let client = self.client();
        self.host.sh(&format!(
            "{client} ps --all --quiet | xargs --no-run-if-empty {client} rm --force; \
             {client} network ls --filter label=contrail-mesos --quiet | xargs --no-run-if-empty {client} network rm; \
             kill $(cat {}/docker/pidfile)",
            self.host.directory().display()
        ))?;
        self.child.wait()?;
        self.host.sh(
            "ip link delete docker0; umount /etc/docker; rm -rf /run/docker /run/containerd /run/xtables.lock; \
             for table in 'ip filter' 'ip nat'; do nft delete table $table; done; \
             for table in 'ip6 filter' 'ip6 nat' 'ip raw' 'ip mangle'; do \
             nft delete table $table 2>/dev/null || true; done",
        )?;
        super::cgroups::remove(&cgroup(&self.host))
    }
}

/// The path of the socket of a host's Docker.
fn socket(host: &Host) -> PathBuf {
    host.directory().join("docker.sock")
}

/// The parent of its containers' cgroups. The host removes what begins with its name.
fn cgroup(host: &Host) -> String {
    format!("{}_docker", host.name())
}
