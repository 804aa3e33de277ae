//! Probes that run in containers, as a test sees them.

use std::net::SocketAddr;

use anyhow::{Context as _, Result, ensure};

use super::{Addresses, Directory, Matrix, Status, matrix, table};
use crate::testbed::agent::{address, container};
use crate::testbed::framework::TaskUpdate;
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

/// Lets probes find each other.
pub fn publish(probes: &[RunningProbe], directory: &Directory) {
    let addresses = probes.iter();
    let addresses: Addresses = addresses
        .map(|probe| (probe.name.clone(), probe.address))
        .collect();
    directory.set(addresses);
}

/// Waits until the probes have found this matrix, and still find it in the rounds after that. Returns
/// their states.
pub fn wait_for_matrix(probes: &[RunningProbe], expected: &Matrix) -> Result<Vec<Status>> {
    let read = || -> Result<Vec<Status>> { probes.iter().map(RunningProbe::status).collect() };
    let first = until("the probes find what they must", || {
        let statuses = read()?;
        let found = matrix(&statuses);
        ensure!(
            found == *expected,
            "found:\n{}\nexpected:\n{}",
            table(&found),
            table(expected)
        );
        Ok(Some(statuses))
    })?;
    let last = wait_for_rounds(probes, &first)?;
    let found = matrix(&last);
    ensure!(
        found == *expected,
        "only for a moment; found:\n{}",
        table(&found)
    );
    Ok(last)
}

/// Waits until each probe has asked all others in a round that began after these states.
pub fn wait_for_rounds(probes: &[RunningProbe], since: &[Status]) -> Result<Vec<Status>> {
    until("all probes have asked each other again", || {
        let statuses: Vec<Status> = (probes.iter())
            .map(RunningProbe::status)
            .collect::<Result<_>>()?;
        // One round was under way.
        let is_later = |(now, then): (&Status, &Status)| now.rounds >= then.rounds + 2;
        Ok(statuses.iter().zip(since).all(is_later).then_some(statuses))
    })
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

    /// Its state, read inside of its network namespace: no rule can prevent it.
    pub fn status(&self) -> Result<Status> {
        let answer = self.host()?.sh(&format!(
            "ip netns exec {} curl -sSf -m 5 http://127.0.0.1:{PORT}/status",
            self.container
        ))?;
        serde_json::from_str(&answer).with_context(|| format!("{}: {answer}", self.name))
    }
}
