//! Probes that run in containers, as a test sees them.

use std::net::SocketAddr;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::json;

use super::{Addresses, Directory, Matrix, Status, matrix, table};
use crate::testbed::agent::{address, config_path, container};
use crate::testbed::framework::{TaskSpec, TaskUpdate};
use crate::testbed::{Host, WeakHost, program, until};

/// The port of probes in containers.
pub const PORT: u16 = 9000;

/// A probe in a container.
#[derive(Clone, Debug)]
pub struct RunningProbe {
    /// Its name in the directory.
    pub name: String,
    /// Its container, the name of its network namespace, too.
    pub container: String,
    /// Where it serves.
    pub address: SocketAddr,
    host: WeakHost,
}

/// The command of a probe at this port, for a task.
pub fn command(name: &str, port: u16, directory: &Directory) -> Result<String> {
    Ok(format!(
        "exec {} --name {name} --listen 0.0.0.0:{port} --directory {}",
        program("star-probe")?.display(),
        directory.url()
    ))
}

/// A task with a probe on a network, in these groups.
pub fn task(name: &str, network: &str, groups: &[&str], directory: &Directory) -> Result<TaskSpec> {
    let labels = json!({ "labels": [{ "key": "netgroups", "value": groups.join(",") }] });
    let info = json!({ "name": network, "labels": labels });
    Ok(TaskSpec::new(name, &command(name, PORT, directory)?).network_info(info))
}

/// Runs `contrail-mesos groups` for a container on its host.
pub fn change_groups(host: &Host, container: &str, arguments: &[&str]) -> Result<()> {
    let output = host
        .command(program("contrail-mesos")?)
        .arg("--config")
        .arg(config_path(host))
        .args(["groups", container])
        .args(arguments)
        .output()?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{}: {errors}", output.status);
    Ok(())
}

/// Lets probes find each other.
pub fn publish(probes: &[RunningProbe], directory: &Directory) {
    let addresses = probes.iter();
    let addresses: Addresses = addresses
        .map(|probe| (probe.name.clone(), probe.address))
        .collect();
    directory.set(addresses);
}

/// Waits until the probes have found this matrix, in all rounds between two that are apart. Returns their
/// states.
pub fn wait_for_matrix(probes: &[RunningProbe], expected: &Matrix) -> Result<Vec<Status>> {
    let mut since: Option<Vec<Status>> = None;
    until("the probes find what they must", || {
        let statuses = statuses(probes)?;
        let found = matrix(&statuses);
        if found != *expected {
            since = None;
            bail!("found:\n{}\nexpected:\n{}", table(&found), table(expected));
        }
        let first = since.get_or_insert_with(|| statuses.clone());
        Ok(are_later(&statuses, first).then_some(statuses))
    })
}

/// Waits until each probe has asked all others in a round that began after these states.
pub fn wait_for_rounds(probes: &[RunningProbe], since: &[Status]) -> Result<Vec<Status>> {
    until("all probes have asked each other again", || {
        let statuses = statuses(probes)?;
        Ok(are_later(&statuses, since).then_some(statuses))
    })
}

/// The states of the probes.
pub fn statuses(probes: &[RunningProbe]) -> Result<Vec<Status>> {
    probes.iter().map(RunningProbe::status).collect()
}

/// Whether a whole round of each probe has begun and ended since.
fn are_later(now: &[Status], then: &[Status]) -> bool {
    // One round was under way.
    let mut pairs = now.iter().zip(then);
    pairs.all(|(now, then)| now.rounds >= then.rounds + 2)
}

impl RunningProbe {
    /// The probe of a running task.
    pub fn of(update: &TaskUpdate, host: &Host) -> Result<Self> {
        Ok(Self {
            name: update.task_id.clone(),
            container: container(update)?,
            address: SocketAddr::new(address(update)?, PORT),
            host: host.downgrade(),
        })
    }

    /// Its host.
    pub fn host(&self) -> Result<Host> {
        self.host.upgrade()
    }

    /// Runs `contrail-mesos groups` for it.
    pub fn change_groups(&self, arguments: &[&str]) -> Result<()> {
        change_groups(&self.host()?, &self.container, arguments)
    }

    /// Its state, read inside of its network namespace: no rule can prevent it.
    pub fn status(&self) -> Result<Status> {
        let answer = self.host()?.sh(&format!(
            "ip netns exec {} curl -sSf -m 5 http://127.0.0.1:{PORT}/status",
            self.container
        ))?;
        serde_json::from_str(&answer).with_context(|| format!("{}: {answer}", self.name))
    }
}
