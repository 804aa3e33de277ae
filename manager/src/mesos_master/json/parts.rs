//! The structure of tasks, agents and frameworks in the master's JSON.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use serde::de::IgnoredAny;
use serde::{Deserialize, Deserializer};

use super::ports::{self, RawDiscovery, RawPortMapping, RawResource};
use crate::intern::Interner;
use crate::labels;
use crate::mesos_master::model::{
    Agent, Change, ContainerKind, Executor, Framework, Labels, Network, Status, Task, TaskKey,
};
use crate::task_state::TaskState;

#[derive(Deserialize, Default)]
pub(super) struct Id {
    #[serde(default, deserialize_with = "or_default")]
    pub(super) value: String,
    #[serde(default)]
    pub(super) parent: Option<Box<Id>>,
}

/// The longest id. Mesos uses ids in the names of files, which have 255 bytes.
const MAX_ID_BYTES: usize = 4096;

impl Id {
    pub(super) fn text(self) -> Option<String> {
        Some(self.value).filter(|value| !value.is_empty() && value.len() <= MAX_ID_BYTES)
    }

    /// The id with its parents' ids, outermost first, joined by dots; none if it is too long.
    pub(super) fn path(&self) -> Option<String> {
        let mut values = vec![];
        let mut length = 0;
        let mut id = Some(self);
        while let Some(Self { value, parent }) = id {
            values.push(value.as_str());
            length += value.len() + 1;
            id = parent.as_deref();
        }
        values.reverse();
        (length <= MAX_ID_BYTES).then(|| values.join("."))
    }
}

#[derive(Deserialize)]
pub(super) struct RawTask {
    #[serde(default, deserialize_with = "or_default")]
    pub(super) task_id: Id,
    #[serde(default, deserialize_with = "or_default")]
    pub(super) framework_id: Id,
    #[serde(default, deserialize_with = "or_default")]
    pub(super) executor_id: Id,
    #[serde(default, deserialize_with = "or_default")]
    pub(super) agent_id: Id,
    #[serde(default)]
    pub(super) state: TaskState,
    #[serde(default, deserialize_with = "or_default")]
    pub(super) statuses: Vec<RawStatus>,
    #[serde(default, deserialize_with = "or_default")]
    pub(super) labels: RawLabels,
    #[serde(default, deserialize_with = "or_default")]
    pub(super) container: Container,
    #[serde(default)]
    pub(super) name: Option<String>,
    #[serde(default, deserialize_with = "or_default")]
    pub(super) discovery: RawDiscovery,
    #[serde(default, deserialize_with = "or_default")]
    pub(super) resources: Vec<RawResource>,
    #[serde(default)]
    pub(super) health_check: Option<IgnoredAny>,
}

impl RawTask {
    pub(super) fn read(self, names: &mut Interner) -> Option<Task> {
        let key = TaskKey {
            task: self.task_id.text()?.into(),
            framework: names.get(&self.framework_id.text()?),
        };
        let discovery_name = self
            .discovery
            .name
            .as_deref()
            .filter(|name| !name.is_empty());
        let name = ports::name(discovery_name.or(self.name.as_deref()), names);
        let task_labels = &self.labels.labels;
        let discovery = ports::discovery(self.discovery, task_labels, &self.resources, names);
        let executor = self.executor_id.text();
        let mut task = Task {
            executor: executor.filter(|id| **id != *key.task).map(Into::into),
            agent: names.optional(self.agent_id.text().as_deref()),
            labels: self.labels.read(),
            name,
            discovery: discovery.map(Arc::new),
            kind: self.container.kind(),
            has_health_check: self.health_check.is_some(),
            is_defined: true,
            status: Status {
                networks: self.container.networks(names),
                ..Status::default()
            },
            ..Task::undefined(key)
        };
        // Oldest first, one per state that the task was in.
        for older in self.statuses {
            task.update(older.read(names));
        }
        task.status.state = self.state;
        Some(task)
    }
}

#[derive(Deserialize, Default)]
pub(super) struct Container {
    #[serde(rename = "type", default, deserialize_with = "or_default")]
    kind: String,
    #[serde(default, deserialize_with = "or_default")]
    network_infos: Vec<NetworkInfo>,
    #[serde(default)]
    docker: Option<Docker>,
}

#[derive(Deserialize, Default)]
struct Docker {
    /// Mesos leaves out the default, `HOST`.
    #[serde(default)]
    network: Option<String>,
    #[serde(default, deserialize_with = "or_default")]
    port_mappings: Vec<RawPortMapping>,
}

impl Container {
    fn kind(&self) -> ContainerKind {
        let network = self
            .docker
            .as_ref()
            .and_then(|docker| docker.network.as_deref());
        match (self.kind.as_str(), network) {
            ("DOCKER", None | Some("HOST")) if self.network_infos.is_empty() => {
                ContainerKind::DockerOnHost
            }
            ("DOCKER", _) => ContainerKind::Docker,
            _ => ContainerKind::Mesos,
        }
    }

    fn networks(self, names: &mut Interner) -> Box<[Network]> {
        let mut networks = networks(self.network_infos, names).into_vec();
        let mappings = self
            .docker
            .map(|docker| ports::mappings(&docker.port_mappings));
        if let Some(mappings) = mappings.filter(|mappings| !mappings.is_empty()) {
            // Docker has one network.
            match networks.first_mut() {
                Some(first) => first.mappings = mappings,
                None => networks.push(Network {
                    mappings,
                    ..Network::default()
                }),
            }
        }
        networks.into()
    }
}

#[derive(Deserialize)]
pub(super) struct TaskUpdated {
    #[serde(default, deserialize_with = "or_default")]
    pub(super) framework_id: Id,
    #[serde(default)]
    pub(super) status: Option<RawStatus>,
    /// The latest state; may be newer than the status.
    #[serde(default)]
    pub(super) state: Option<TaskState>,
}

impl TaskUpdated {
    pub(super) fn read(self, names: &mut Interner) -> Option<Change> {
        let mut raw = self.status?;
        let task = std::mem::take(&mut raw.task_id).text()?;
        let executor = std::mem::take(&mut raw.executor_id).text();
        let agent = std::mem::take(&mut raw.agent_id).text();
        let mut status = raw.read(names);
        if let Some(state) = self.state {
            status.state = state;
        }
        Some(Change::TaskUpdated {
            executor: executor.filter(|id| *id != task).map(Into::into),
            key: TaskKey {
                framework: names.get(&self.framework_id.text()?),
                task: task.into(),
            },
            agent: names.optional(agent.as_deref()),
            status: Box::new(status),
        })
    }
}

#[derive(Deserialize, Default)]
pub(super) struct RawStatus {
    #[serde(default, deserialize_with = "or_default")]
    pub(super) task_id: Id,
    #[serde(default, deserialize_with = "or_default")]
    pub(super) executor_id: Id,
    #[serde(default, deserialize_with = "or_default")]
    pub(super) agent_id: Id,
    #[serde(default)]
    pub(super) state: TaskState,
    #[serde(default)]
    pub(super) timestamp: Option<f64>,
    #[serde(default)]
    pub(super) healthy: Option<bool>,
    #[serde(default, deserialize_with = "or_default")]
    pub(super) container_status: ContainerStatus,
}

#[derive(Deserialize, Default)]
pub(super) struct ContainerStatus {
    #[serde(default, deserialize_with = "or_default")]
    pub(super) container_id: Id,
    #[serde(default, deserialize_with = "or_default")]
    pub(super) network_infos: Vec<NetworkInfo>,
}

impl RawStatus {
    pub(super) fn read(self, names: &mut Interner) -> Status {
        let container = self.container_status.container_id.path();
        Status {
            state: self.state,
            container: container.filter(|id| !id.is_empty()).map(Into::into),
            networks: networks(self.container_status.network_infos, names),
            at: self.timestamp.and_then(milliseconds),
            healthy: self.healthy,
        }
    }
}

pub(super) fn milliseconds(seconds: f64) -> Option<i64> {
    let since = Duration::try_from_secs_f64(seconds).ok()?;
    since.as_millis().try_into().ok()
}

#[derive(Deserialize)]
pub(super) struct NetworkInfo {
    #[serde(default)]
    pub(super) name: Option<String>,
    #[serde(default, deserialize_with = "or_default")]
    pub(super) labels: RawLabels,
    #[serde(default, deserialize_with = "or_default")]
    pub(super) ip_addresses: Vec<Address>,
    #[serde(default, deserialize_with = "or_default")]
    port_mappings: Vec<RawPortMapping>,
}

#[derive(Deserialize)]
pub(super) struct Address {
    #[serde(default)]
    pub(super) ip_address: Option<String>,
}

pub(super) fn networks(infos: Vec<NetworkInfo>, names: &mut Interner) -> Box<[Network]> {
    infos
        .into_iter()
        .map(|info| Network {
            name: names.optional(info.name.as_deref()),
            mappings: ports::mappings(&info.port_mappings),
            is_virtual: info.labels.labels.iter().any(Label::names_virtual_network),
            labels: info.labels.read(),
            addresses: info
            .ip_addresses
            .iter()
            // `network/cni` appends the prefix length to IPv6 addresses.
            .filter_map(|address| address.ip_address.as_deref()?.split('/').next()?.parse().ok())
            .collect(),
        })
        .collect()
}

#[derive(Deserialize, Default)]
pub(super) struct RawLabels {
    #[serde(default, deserialize_with = "or_default")]
    pub(super) labels: Vec<Label>,
}

#[derive(Deserialize)]
pub(super) struct Label {
    #[serde(default, deserialize_with = "or_default")]
    pub(super) key: String,
    #[serde(default, deserialize_with = "or_default")]
    pub(super) value: String,
}

impl Label {
    /// Whether a network with it is one of Contrail.
    fn names_virtual_network(&self) -> bool {
        labels::OF_VIRTUAL_NETWORKS.contains(&self.key.as_str()) && !self.value.trim().is_empty()
    }
}

impl RawLabels {
    /// Uses the first of duplicate keys, like Mesos.
    pub(super) fn read(self) -> Labels {
        let mut keys = HashSet::new();
        self.labels
            .into_iter()
            .filter(|label| keys.insert(label.key.clone()))
            .map(|label| (label.key.into(), label.value.into()))
            .collect()
    }
}

#[derive(Deserialize)]
pub(super) struct RawAgent {
    #[serde(default, deserialize_with = "or_default")]
    pub(super) agent_info: AgentInfo,
    #[serde(default, deserialize_with = "or_default")]
    pub(super) active: bool,
    /// `slave(1)@10.0.0.5:5051`
    #[serde(default)]
    pub(super) pid: Option<String>,
}

#[derive(Deserialize, Default)]
pub(super) struct AgentInfo {
    #[serde(default, deserialize_with = "or_default")]
    pub(super) id: Id,
    #[serde(default, deserialize_with = "or_default")]
    pub(super) hostname: String,
    #[serde(default, deserialize_with = "or_default")]
    pub(super) attributes: Vec<Attribute>,
}

#[derive(Deserialize)]
pub(super) struct Attribute {
    #[serde(default, deserialize_with = "or_default")]
    pub(super) name: String,
    #[serde(default)]
    pub(super) text: Option<Id>,
}

impl RawAgent {
    pub(super) fn read(self, names: &mut Interner) -> Option<Agent> {
        let address = self.pid.as_deref().and_then(address_of_pid);
        Some(Agent {
            address,
            active: self.active,
            is_recovered: false,
            ..self.agent_info.read(names)?
        })
    }
}

impl AgentInfo {
    pub(super) fn read(self, names: &mut Interner) -> Option<Agent> {
        Some(Agent {
            id: names.get(&self.id.text()?),
            host: self.hostname.into(),
            address: None,
            active: false,
            is_recovered: true,
            attributes: self
                .attributes
                .into_iter()
                .filter_map(|attribute| Some((attribute.name.into(), attribute.text?.value.into())))
                .collect(),
        })
    }
}

pub(super) fn address_of_pid(pid: &str) -> Option<IpAddr> {
    let (host, _) = pid.rsplit_once('@')?.1.rsplit_once(':')?;
    host.trim_matches(['[', ']']).parse().ok()
}

#[derive(Deserialize)]
pub(super) struct RawFramework {
    #[serde(default, deserialize_with = "or_default")]
    pub(super) framework_info: FrameworkInfo,
    #[serde(default, deserialize_with = "or_default")]
    pub(super) active: bool,
}

#[derive(Deserialize, Default)]
pub(super) struct FrameworkInfo {
    #[serde(default, deserialize_with = "or_default")]
    pub(super) id: Id,
    #[serde(default, deserialize_with = "or_default")]
    pub(super) name: String,
}

impl RawFramework {
    pub(super) fn read(self, names: &mut Interner) -> Option<Framework> {
        Some(Framework {
            id: names.get(&self.framework_info.id.text()?),
            name: self.framework_info.name.into(),
            active: self.active,
        })
    }
}

#[derive(Deserialize)]
pub(super) struct RawExecutor {
    #[serde(default, deserialize_with = "or_default")]
    executor_info: ExecutorInfo,
    #[serde(default, deserialize_with = "or_default")]
    agent_id: Id,
}

#[derive(Deserialize, Default)]
struct ExecutorInfo {
    #[serde(default, deserialize_with = "or_default")]
    executor_id: Id,
    #[serde(default, deserialize_with = "or_default")]
    framework_id: Id,
}

impl RawExecutor {
    pub(super) fn read(self, names: &mut Interner) -> Option<Executor> {
        Some(Executor {
            framework: names.get(&self.executor_info.framework_id.text()?),
            agent: names.get(&self.agent_id.text()?),
            id: self.executor_info.executor_id.text()?.into(),
        })
    }
}

/// Decodes `null` as the default.
pub(super) fn or_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(
    deserializer: D,
) -> Result<T, D::Error> {
    Option::<T>::deserialize(deserializer).map(Option::unwrap_or_default)
}
