//! Docker's half of the overlays.
//!
//! ```text
//! desired   the networks that Docker must have: a pure function of the cluster's state
//! client    the calls of Docker's API
//! diff      the changes between what Docker has and what it must have
//! rules     what passes Docker's filter, and what is masqueraded: a subsystem of its own
//! ```
//! For each enabled overlay with a subnet on this host, Docker has a network of the overlay's name with
//! the upper half of the subnet. Containers of Mesos get addresses of the lower half, so neither needs
//! to know of the other's.
//!
//! Invariants: only networks with our label are changed or removed, and only while no container runs on
//! them. Docker cannot change a network: one that differs is removed and created again. Every call of
//! Docker has a deadline, and nothing but this subsystem waits for it. Between the two changes nothing
//! is remembered: after a kill, the next comparison goes on.

use std::collections::BTreeSet;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::Shutdown;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use contrail_mesos::net::link_watch::{LinkEvent, LinkWatch};
use contrail_mesos::net::netlink::NetlinkError;
use contrail_mesos_api::text::{Quoted, with_causes};
use ipnet::IpNet;

use self::client::{Client, DockerError};
use self::desired::{DesiredNetworks, DockerNetwork, bridge_name};
use self::diff::{FoundNetwork, Step};
pub use self::rules::{ConfiguredBridges, DockerRulesSubsystem};
use crate::cluster_state::ClusterState;
use crate::subsystem::{BoxError, Change, Mode, Outcome, Subsystem};
use crate::uplink;

mod client;
mod desired;
mod diff;
#[cfg(test)]
mod root_tests;
mod rules;

/// How long Docker may take for a call.
const CALL_LIMIT: Duration = Duration::from_secs(15);
/// How many containers a problem lists.
const MAX_CONTAINERS: usize = 5;

/// The subsystem `docker`: the networks that Docker has.
#[derive(Debug)]
pub struct DockerSubsystem {
    socket: PathBuf,
    limit: Duration,
    /// Readable when a bridge of Docker's on an overlay has disappeared.
    events: UnixStream,
    _watch: LinkWatch,
    /// Of tests: the changes after which the process ends.
    #[cfg(test)]
    remaining: Option<usize>,
}

impl DockerSubsystem {
    /// The subsystem for the Docker whose API is served by this unix socket. Docker's bridges are in
    /// the calling thread's network namespace. Changes nothing.
    pub fn new(socket: PathBuf) -> Result<Self, NetlinkError> {
        let fail = |error| NetlinkError::Socket(error, "link events");
        let (events, wake) = UnixStream::pair().map_err(fail)?;
        events.set_nonblocking(true).map_err(fail)?;
        wake.set_nonblocking(true).map_err(fail)?;
        events.shutdown(Shutdown::Write).map_err(fail)?;
        let prefix = bridge_name("");
        let watch = LinkWatch::start(move |event| {
            let is_concerned = match &event {
                LinkEvent::Deleted(name) => name.starts_with(&prefix),
                LinkEvent::Missed => true,
            };
            if is_concerned {
                // If it is full, the subsystem wakes anyway.
                let _ = (&wake).write(b"x");
            }
        })?;
        Ok(Self {
            socket,
            limit: CALL_LIMIT,
            events,
            _watch: watch,
            #[cfg(test)]
            remaining: None,
        })
    }

    async fn compare(
        &mut self,
        desired: &DesiredNetworks,
        mode: Mode,
    ) -> Result<Outcome, DockerError> {
        let client = Client::connect(&self.socket, self.limit).await?;
        let found = client.networks().await?;
        let (steps, problems) = diff::compare(desired, &found);
        let mut outcome = Outcome {
            changes: vec![],
            problems,
        };
        // The networks that could not be removed.
        let mut kept = BTreeSet::new();
        for step in steps {
            if matches!(&step, Step::Create(network) if kept.contains(&network.name)) {
                continue;
            }
            #[cfg(test)]
            if mode == Mode::Apply && !self.may_change() {
                break;
            }
            let result = match &step {
                Step::Remove {
                    network,
                    differences,
                } => match remove(&client, network, mode).await {
                    Ok(containers) if containers.is_empty() => Ok(()),
                    Ok(containers) => {
                        kept.insert(network.name.clone());
                        if desired.networks.contains_key(&network.name) {
                            let problem = has_containers(network, differences, &containers);
                            outcome.problems.push(problem);
                        }
                        continue;
                    }
                    Err(error) => {
                        kept.insert(network.name.clone());
                        Err(error)
                    }
                },
                Step::Create(network) if mode == Mode::Apply => client.create(network).await,
                Step::Create(_) => Ok(()),
            };
            match result {
                Ok(()) => outcome.changes.push(Change(step.describe())),
                Err(error) => {
                    let is_refusal = error.is_refusal();
                    outcome.problems.push(refusal(&step, &error, &found));
                    if !is_refusal {
                        // The next call would take as long.
                        break;
                    }
                }
            }
        }
        Ok(outcome)
    }

    /// Whether the process of a test goes on.
    #[cfg(test)]
    fn may_change(&mut self) -> bool {
        let Some(remaining) = &mut self.remaining else {
            return true;
        };
        let may_change = *remaining > 0;
        *remaining = remaining.saturating_sub(1);
        may_change
    }
}

/// Removes a network if no container runs on it. Returns the running ones otherwise.
async fn remove(
    client: &Client,
    network: &FoundNetwork,
    mode: Mode,
) -> Result<Vec<String>, DockerError> {
    let containers = client.containers(&network.id).await?;
    if containers.is_empty() && mode == Mode::Apply {
        client.remove(network).await?;
    }
    Ok(containers)
}

fn has_containers(network: &FoundNetwork, differences: &[String], containers: &[String]) -> String {
    let first = containers.iter().take(MAX_CONTAINERS);
    let mut names: Vec<_> = first
        .map(|name| Quoted(name.as_bytes()).to_string())
        .collect();
    if containers.len() > MAX_CONTAINERS {
        names.push(format!("{} more", containers.len() - MAX_CONTAINERS));
    }
    let what = if differences.is_empty() {
        "there twice".to_owned()
    } else {
        format!("there with {}", diff::list(differences))
    };
    format!(
        "Docker's network {} is {what}, and cannot be replaced while containers run on it; stop {}",
        Quoted(network.name.as_bytes()),
        names.join(", ")
    )
}

/// Why a step failed, and what of Docker's stands in its way.
fn refusal(step: &Step, error: &DockerError, found: &[FoundNetwork]) -> String {
    let reason = with_causes(error);
    let overlapping = match step {
        Step::Create(network) => overlapping(network, found),
        Step::Remove { .. } => vec![],
    };
    if overlapping.is_empty() {
        return reason;
    }
    format!(
        "{reason}; subnets of its network {} overlap: remove it, or change the overlay's subnet",
        overlapping.join(", ")
    )
}

/// The names of the networks that have addresses of a network which is to be created.
fn overlapping(network: &DockerNetwork, found: &[FoundNetwork]) -> Vec<String> {
    let overlaps = |other: &FoundNetwork| {
        let subnets = other.subnets.iter();
        let mut subnets = subnets.filter_map(|found| found.subnet.parse::<IpNet>().ok());
        subnets.any(|subnet| {
            let mut own = network.subnets.iter();
            own.any(|own| own.contains(&subnet) || subnet.contains(own))
        })
    };
    let others = found.iter().filter(|other| overlaps(other));
    others
        .map(|other| Quoted(other.name.as_bytes()).to_string())
        .collect()
}

impl Subsystem for DockerSubsystem {
    fn name(&self) -> &'static str {
        "docker"
    }

    fn reconcile(&mut self, cluster: &ClusterState, mode: Mode) -> Result<Outcome, BoxError> {
        let uplink = match cluster.own_node() {
            Some(own) => uplink::of_this_host(own.address)?,
            None => None,
        };
        let Some(desired) = desired::desired(cluster, uplink.as_ref()) else {
            return Ok(Outcome::default());
        };
        // With it end all calls that are still waiting for an answer.
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(DockerError::Runtime)?;
        Ok(runtime.block_on(self.compare(&desired, mode))?)
    }

    fn notifications(&self) -> Option<BorrowedFd<'_>> {
        Some(self.events.as_fd())
    }

    fn receive(&mut self) -> bool {
        let mut is_changed = false;
        let mut bytes = [0; 64];
        loop {
            match self.events.read(&mut bytes) {
                Ok(1..) => is_changed = true,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // The watch has ended, or there is no more.
                Ok(0) | Err(_) => return is_changed,
            }
        }
    }
}
