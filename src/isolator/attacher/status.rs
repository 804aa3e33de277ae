//! The containers of this host, what they have, and whether that still is as it was attached. Changes
//! nothing, and does without a checkpoint's network configuration: what checkpoints say counts.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::SystemTime;

use contrail_mesos_api::container::Mac;
use contrail_mesos_api::text::Quoted;
use futures::stream::{self, StreamExt as _};
use ipnet::IpNet;
use serde::{Serialize, Serializer};
use tokio::task::spawn_blocking;

use super::Attacher;
use crate::endpoints::{policy, read_groups};
use crate::isolator::checkpoint::{Checkpoint, Owner, StoredCheckpoint};
use crate::isolator::error::IsolatorError;
use crate::provider::contrail::pending_containers;
use crate::provider::{
    Attachment, Intent, PendingTeardown, PortMapping, ProviderIntent, Statistics,
};

/// How many containers are looked at at once.
const MAX_CONCURRENT_INSPECTIONS: usize = 4;
/// Why the teardown of a container of Contrail is pending.
const CONTRAIL_TEARDOWN: &str =
    "the agent retries it until the vRouter agent and the manager have done their part";

/// The state of a container, or of one of its networks. The later one of the variants is what an
/// operator must know first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ContainerState {
    /// All is as it was attached.
    Attached,
    /// Between the reservation and the end of the attach.
    Attaching,
    /// Between the beginning of the detach and its end.
    Detaching,
    /// It has ended, and peers have yet to do their part of the detach.
    PendingTeardown,
    /// Attached, but something that it needs was changed or removed.
    Degraded,
    /// An interface is gone.
    Lost,
    /// Its checkpoint cannot be read.
    Damaged,
}

impl ContainerState {
    /// All states.
    pub const ALL: [Self; 7] = [
        Self::Attached,
        Self::Attaching,
        Self::Detaching,
        Self::PendingTeardown,
        Self::Degraded,
        Self::Lost,
        Self::Damaged,
    ];

    /// Its stable code, as in JSON.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::Attached => "attached",
            Self::Attaching => "attaching",
            Self::Detaching => "detaching",
            Self::PendingTeardown => "pending-teardown",
            Self::Degraded => "degraded",
            Self::Lost => "lost",
            Self::Damaged => "damaged",
        }
    }

    /// Whether an operator should look at it.
    #[must_use]
    pub fn is_problem(self) -> bool {
        matches!(self, Self::Degraded | Self::Lost | Self::Damaged)
    }
}

impl fmt::Display for ContainerState {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.code())
    }
}

impl FromStr for ContainerState {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut states = Self::ALL.into_iter();
        states.find(|state| state.code() == text).ok_or_else(|| {
            let codes: Vec<&str> = Self::ALL.iter().map(|state| state.code()).collect();
            format!("the states are {}", codes.join(", "))
        })
    }
}

/// A container of this host.
#[derive(Clone, Debug, Serialize)]
pub struct ContainerStatus {
    /// Its id, as Mesos prints it.
    pub container: String,
    /// The most important one of the states of its networks.
    pub state: ContainerState,
    /// Who attached it; none if its checkpoint cannot be read, or is gone.
    pub owner: Option<Owner>,
    /// The framework's id; none of an operator's attachment.
    pub framework: Option<String>,
    /// The executor's id, which for a command task is the task's.
    pub executor: Option<String>,
    /// Its hostname.
    pub hostname: Option<String>,
    /// The handle to its network namespace; none of an operator's attachment.
    pub namespace: Option<PathBuf>,
    /// When its attach was complete, in RFC 3339.
    #[serde(serialize_with = "serialize_time")]
    pub attached_since: Option<SystemTime>,
    /// What is wrong with the container itself, a sentence each.
    pub problems: Vec<String>,
    /// Its networks, in order.
    pub networks: Vec<NetworkStatus>,
}

/// One network of a container.
#[derive(Clone, Debug, Serialize)]
pub struct NetworkStatus {
    /// The network's name.
    pub network: String,
    /// `bridge`, `overlay`, `contrail`, `cni` or `none`.
    pub provider: &'static str,
    /// Its state.
    pub state: ContainerState,
    /// What is wrong with it, a sentence each.
    pub problems: Vec<String>,
    /// The interface inside the container.
    pub interface: String,
    /// Its other end on the host; none if that is not known.
    pub host_interface: Option<String>,
    /// The bridge that it is a port of; none on networks without one.
    pub bridge: Option<String>,
    /// The addresses with their prefix.
    pub addresses: Vec<IpNet>,
    /// Next hops.
    pub gateways: Vec<IpAddr>,
    /// Destinations behind the gateways; empty for the default routes.
    pub routes: Vec<IpNet>,
    /// The MAC address; none without an interface.
    pub mac: Option<Mac>,
    /// The MTU in bytes.
    pub mtu: u32,
    /// The mapped ports.
    pub ports: Vec<PortMapping>,
    /// Name servers; empty for the host's.
    pub nameservers: Vec<IpAddr>,
    /// The groups that it has now; none on a network that does not isolate groups.
    pub groups: Option<Vec<String>>,
    /// The same of security groups.
    pub security_groups: Option<Vec<String>>,
    /// The counters of its interface; none if there is none.
    pub statistics: Option<Statistics>,
}

/// A time in RFC 3339, in UTC and to the second.
#[allow(clippy::ref_option, reason = "serde's signature")]
fn serialize_time<S: Serializer>(
    time: &Option<SystemTime>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    let time = time.and_then(|time| jiff::Timestamp::try_from(time).ok());
    match time {
        Some(time) => serializer.serialize_some(&format!("{time:.0}")),
        None => serializer.serialize_none(),
    }
}

/// Which containers are asked for: of each list that is not empty, one element must match. A container
/// has all its networks if one of them matches.
#[derive(Clone, Debug, Default)]
pub struct ContainerFilter {
    /// Names of networks.
    pub networks: Vec<String>,
    /// Ids of containers, or beginnings of them.
    pub containers: Vec<String>,
    /// Ids of executors, or beginnings of them. For a command task, that is the task's id.
    pub tasks: Vec<String>,
    /// Addresses of containers, or subnets of them.
    pub addresses: Vec<IpNet>,
    /// States.
    pub states: Vec<ContainerState>,
}

impl ContainerFilter {
    /// Whether a container matches, whatever its state is.
    fn matches(&self, container: &ContainerStatus) -> bool {
        let begins = |starts: &[String], text: Option<&str>| {
            let mut starts = starts.iter();
            starts.len() == 0
                || text.is_some_and(|text| starts.any(|start| text.starts_with(start)))
        };
        let networks = &container.networks;
        let is_on_network = |name: &String| networks.iter().any(|one| one.network == *name);
        let has_address = |wanted: &IpNet| {
            let mut addresses = networks.iter().flat_map(|one| &one.addresses);
            addresses.any(|net| wanted.contains(&net.addr()))
        };
        begins(&self.containers, Some(&container.container))
            && begins(&self.tasks, container.executor.as_deref())
            && (self.networks.is_empty() || self.networks.iter().any(is_on_network))
            && (self.addresses.is_empty() || self.addresses.iter().any(has_address))
    }

    fn has_state(&self, container: &ContainerStatus) -> bool {
        self.states.is_empty() || self.states.contains(&container.state)
    }
}

/// How closely containers are looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InspectionDepth {
    /// Not at all: what their checkpoints say.
    Nothing,
    /// Whether their interfaces exist.
    Links,
    /// Whether all that they need is as it was attached, on the host and in the container.
    Everything,
}

/// A container's status, and the checkpoint that it comes from.
struct Candidate {
    status: ContainerStatus,
    checkpoint: Option<(Box<Checkpoint>, Option<Vec<Attachment>>)>,
}

impl Attacher {
    /// The containers of this host that match, in the order of their ids, and what could not be read.
    pub async fn container_statuses(
        &self,
        filter: &ContainerFilter,
        depth: InspectionDepth,
    ) -> Result<(Vec<ContainerStatus>, Vec<String>), IsolatorError> {
        let checkpoints = self.checkpoints().clone();
        let state_dir = self.state_dir.clone();
        let listed = spawn_blocking(move || {
            // First, because a teardown becomes pending before its checkpoint is removed.
            let pending = pending_containers(&state_dir);
            checkpoints.load_all().map(|stored| (pending, stored))
        });
        let (pending, stored) = listed.await??;
        let mut problems = Vec::new();
        let contrail: BTreeSet<String> = match pending {
            Ok(names) => names.into_iter().collect(),
            Err(error) => {
                problems.push(format!("cannot read the pending teardowns: {error}"));
                BTreeSet::new()
            }
        };
        let mut candidates: Vec<Candidate> = stored
            .into_iter()
            .map(|stored| self.candidate(stored, &contrail))
            .collect();
        for (name, texts) in self.pending_texts(&contrail) {
            let is_known = |other: &Candidate| other.status.container == name;
            if !candidates.iter().any(is_known) {
                let status = without_checkpoint(name, ContainerState::PendingTeardown, texts);
                candidates.push(Candidate {
                    status,
                    checkpoint: None,
                });
            }
        }
        candidates.retain(|candidate| filter.matches(&candidate.status));
        if depth == InspectionDepth::Nothing {
            let mut containers: Vec<ContainerStatus> =
                candidates.into_iter().map(|one| one.status).collect();
            containers.retain(|one| filter.has_state(one));
            containers.sort_by(|a, b| a.container.cmp(&b.container));
            return Ok((containers, problems));
        }
        let inspected = stream::iter(candidates)
            .map(|candidate| self.inspected(candidate, depth))
            .buffered(MAX_CONCURRENT_INSPECTIONS);
        let mut containers: Vec<ContainerStatus> =
            inspected.filter_map(async |status| status).collect().await;
        containers.retain(|one| filter.has_state(one));
        containers.sort_by(|a, b| a.container.cmp(&b.container));
        Ok((containers, problems))
    }

    /// Why the teardowns of containers are pending.
    fn pending_texts(&self, contrail: &BTreeSet<String>) -> BTreeMap<String, Vec<String>> {
        let mut pending: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for name in contrail {
            let texts = pending.entry(name.clone()).or_default();
            texts.push(CONTRAIL_TEARDOWN.to_owned());
        }
        for teardown in self.pending_teardowns() {
            // Those of Contrail are read without a configuration, too.
            if let PendingTeardown::Cni(del) = teardown {
                let error = Quoted(del.error().as_bytes());
                let text =
                    format!("the agent retries the DEL of its CNI plugins, which failed: {error}");
                let texts = pending.entry(del.container().to_string()).or_default();
                if !texts.contains(&text) {
                    texts.push(text);
                }
            }
        }
        pending
    }

    /// What a checkpoint says, before anything is looked at. Blocks on the file system.
    fn candidate(&self, stored: StoredCheckpoint, contrail: &BTreeSet<String>) -> Candidate {
        let (checkpoint, attachments) = match stored {
            StoredCheckpoint::Intact {
                checkpoint,
                attachments,
            } => (checkpoint, attachments),
            StoredCheckpoint::Damaged {
                file_name, error, ..
            } => {
                let name = file_name.to_string_lossy().into_owned();
                let status = without_checkpoint(name, ContainerState::Damaged, vec![error]);
                return Candidate {
                    status,
                    checkpoint: None,
                };
            }
        };
        let name = checkpoint.container.to_string();
        let begun = match attachments {
            Some(_) => None,
            None => self.checkpoints().detaching(&checkpoint.container),
        };
        let state = match (&attachments, &begun) {
            (Some(_), _) => ContainerState::Attached,
            (None, Some(_)) => ContainerState::Detaching,
            (None, None) => ContainerState::Attaching,
        };
        let known = attachments.as_ref().or(begun.as_ref().map(|(all, _)| all));
        let is_pending = contrail.contains(&name);
        let networks = checkpoint.networks.iter().enumerate();
        let networks: Vec<NetworkStatus> = networks
            .map(|(index, network)| {
                let intent = &network.intent;
                let of_contrail = matches!(intent.provider, ProviderIntent::Contrail(_));
                let state = if is_pending && of_contrail {
                    ContainerState::Detaching
                } else {
                    state
                };
                network_status(intent, known.and_then(|all| all.get(index)), state)
            })
            .collect();
        let executor = checkpoint.executor.as_ref();
        let hostname = Some(checkpoint.hostname.clone()).filter(|name| !name.is_empty());
        let status = ContainerStatus {
            state: networks.iter().map(|one| one.state).max().unwrap_or(state),
            owner: Some(checkpoint.owner),
            framework: executor.map(|key| key.framework.clone()),
            executor: executor.map(|key| key.executor.clone()),
            hostname,
            namespace: self.handle(&checkpoint),
            attached_since: self.checkpoints().attached_since(&checkpoint.container),
            problems: vec![],
            networks,
            container: name,
        };
        Candidate {
            status,
            checkpoint: Some((checkpoint, attachments)),
        }
    }

    /// The status, after the container was looked at. None if it was detached meanwhile.
    async fn inspected(
        &self,
        candidate: Candidate,
        depth: InspectionDepth,
    ) -> Option<ContainerStatus> {
        let Candidate {
            mut status,
            checkpoint,
        } = candidate;
        let Some((checkpoint, attachments)) = checkpoint else {
            return Some(status);
        };
        let groups = read_groups(self.checkpoints(), &checkpoint.container);
        let networks = checkpoint.networks.iter().zip(&mut status.networks);
        for (index, (network, row)) in networks.enumerate() {
            let intent = &network.intent;
            let attachment = attachments.as_ref().and_then(|all| all.get(index));
            match self.statistics(intent).await {
                Ok(statistics) => row.statistics = Some(statistics),
                Err(error) if row.state == ContainerState::Attached => {
                    row.state = ContainerState::Lost;
                    row.problems.push(error.to_string());
                }
                Err(_) => {}
            }
            if row.state == ContainerState::Attached && depth == InspectionDepth::Everything {
                row.problems = self.inspect(&checkpoint, intent, attachment).await;
            }
            match &groups {
                Ok(changed) => {
                    let membership = policy(intent, changed.as_ref()).map(|all| all.membership);
                    row.groups = membership.as_ref().map(|all| all.groups.clone());
                    row.security_groups = membership.map(|all| all.security_groups);
                }
                Err(error) if policy(intent, None).is_some() => {
                    row.problems.push(error.to_string());
                }
                Err(_) => {}
            }
            if row.state == ContainerState::Attached && !row.problems.is_empty() {
                row.state = ContainerState::Degraded;
            }
        }
        let is_problem = status.networks.iter().any(|row| row.state.is_problem());
        if is_problem && self.has_changed(&checkpoint, attachments.is_some()).await {
            // A detach that has begun meanwhile removes one after the other.
            let container = checkpoint.container.clone();
            let checkpoints = self.checkpoints().clone();
            let stored = spawn_blocking(move || checkpoints.find(&container)).await;
            return Some(self.candidate(stored.ok()??, &BTreeSet::new()).status);
        }
        let states = status.networks.iter().map(|row| row.state);
        status.state = states.max().unwrap_or(status.state);
        Some(status)
    }

    /// Whether a detach or an attach has begun or ended since the checkpoint was read.
    async fn has_changed(&self, checkpoint: &Checkpoint, was_attached: bool) -> bool {
        let (checkpoints, container) = (self.checkpoints().clone(), checkpoint.container.clone());
        let since = spawn_blocking(move || checkpoints.attached_since(&container)).await;
        since.is_ok_and(|since| since.is_some() != was_attached)
    }
}

fn without_checkpoint(
    container: String,
    state: ContainerState,
    problems: Vec<String>,
) -> ContainerStatus {
    ContainerStatus {
        container,
        state,
        owner: None,
        framework: None,
        executor: None,
        hostname: None,
        namespace: None,
        attached_since: None,
        problems,
        networks: vec![],
    }
}

fn network_status(
    intent: &Intent,
    attachment: Option<&Attachment>,
    state: ContainerState,
) -> NetworkStatus {
    let (provider, host_interface, bridge, routes) = match &intent.provider {
        ProviderIntent::Bridge(part) => (
            match part.overlay {
                Some(_) => "overlay",
                None => "bridge",
            },
            Some(part.host_interface.clone()),
            Some(part.bridge.clone()),
            part.routes.clone(),
        ),
        ProviderIntent::Contrail(part) => {
            ("contrail", Some(part.host_interface.clone()), None, vec![])
        }
        ProviderIntent::Cni(_) => ("cni", None, None, vec![]),
        ProviderIntent::None(_) => ("none", None, None, vec![]),
    };
    let mac = attachment.map_or(intent.mac, |attachment| attachment.mac);
    let dns = attachment.map_or(&intent.dns, |attachment| &attachment.dns);
    NetworkStatus {
        network: intent.network.clone(),
        provider,
        state,
        problems: vec![],
        interface: intent.interface.clone(),
        host_interface,
        bridge,
        addresses: attachment
            .map_or(&intent.addresses, |attachment| &attachment.addresses)
            .clone(),
        gateways: attachment
            .map_or(&intent.gateways, |attachment| &attachment.gateways)
            .clone(),
        routes,
        mac: Some(mac).filter(|mac| mac.0 != [0; 6]),
        mtu: intent.mtu,
        ports: intent.ports.clone(),
        nameservers: dns.nameservers.clone(),
        groups: None,
        security_groups: None,
        statistics: None,
    }
}

#[cfg(test)]
mod root_tests;
