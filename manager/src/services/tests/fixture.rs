//! Tasks as Marathon and Mesos write them, and what comes of them in short texts.

use std::sync::Arc;
use std::time::Duration;

use contrail_mesos_api::cluster::{Backend, BackendState, Reach};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::super::DesiredServices;
use super::super::classification::Classification;
use super::super::index::VipOwners;
use super::reference;
use crate::mesos_master::{State, Task, read_state};
use crate::stores::mesos::MesosView;

/// Agents `S1` and `S2` are at these addresses; `S3` is not known.
pub(super) const AGENTS: [(&str, &str); 2] = [("S1", "192.0.2.1"), ("S2", "192.0.2.2")];
/// Frameworks by id. Two have the same name, no DNS name comes of that of `H`, and that of `N` is a number.
pub(super) const FRAMEWORKS: [(&str, &str); 5] = [
    ("F", "marathon"),
    ("F2", "marathon"),
    ("G", "dev/marathon-2"),
    ("H", "%%"),
    ("N", "1"),
];

/// A task of an app.
#[derive(Clone, Debug)]
pub(super) struct TaskSpec {
    pub id: String,
    pub name: String,
    pub framework: &'static str,
    pub agent: &'static str,
    pub state: &'static str,
    pub healthy: Option<bool>,
    pub is_checked: bool,
    pub ports: Vec<Value>,
    /// The networks that the framework requested.
    pub requested: Vec<Value>,
    /// The networks of the status.
    pub networks: Vec<Value>,
    pub docker: Option<Value>,
    pub labels: Vec<(&'static str, &'static str)>,
    pub resources: Value,
    /// When its first status was sent.
    pub since: f64,
}

/// A running task of the app `/web` on the network of the host `S1`.
pub(super) fn web() -> TaskSpec {
    TaskSpec {
        id: "web.1".to_owned(),
        name: "web".to_owned(),
        framework: "F",
        agent: "S1",
        state: "TASK_RUNNING",
        healthy: None,
        is_checked: false,
        ports: vec![],
        requested: vec![],
        networks: vec![json!({"ip_addresses": [{"ip_address": "192.0.2.1"}]})],
        docker: None,
        labels: vec![],
        resources: json!([]),
        since: 1.0,
    }
}

fn labels(labels: &[(&str, &str)]) -> Value {
    let labels = labels.iter();
    let labels: Vec<_> = labels
        .map(|(key, value)| json!({"key": key, "value": value}))
        .collect();
    json!({ "labels": labels })
}

impl TaskSpec {
    pub(super) fn id(self, id: &str) -> Self {
        Self {
            id: id.to_owned(),
            ..self
        }
    }

    pub(super) fn name(self, name: &str) -> Self {
        Self {
            name: name.to_owned(),
            ..self
        }
    }

    pub(super) fn on_agent(self, agent: &'static str) -> Self {
        Self { agent, ..self }
    }

    pub(super) fn of(self, framework: &'static str) -> Self {
        Self { framework, ..self }
    }

    pub(super) fn state(self, state: &'static str) -> Self {
        Self { state, ..self }
    }

    /// With a health check of Mesos, and its result.
    pub(super) fn checked(self, healthy: Option<bool>) -> Self {
        Self {
            healthy,
            is_checked: true,
            ..self
        }
    }

    /// A discovery port.
    pub(super) fn port(mut self, number: u32, protocol: &str, of: &[(&str, &str)]) -> Self {
        self.ports.push(
            json!({"number": number, "name": "http", "protocol": protocol,
            "labels": labels(of)}),
        );
        self
    }

    /// A TCP port with one virtual IP.
    pub(super) fn vip(self, number: u32, value: &str) -> Self {
        self.port(number, "tcp", &[("VIP_0", value)])
    }

    /// As Marathon writes a port of a container network without a port of the host.
    pub(super) fn container_vip(self, number: u32, value: &str, network: &str) -> Self {
        let labels = [
            ("VIP_0", value),
            ("network-scope", "container"),
            ("network-name", network),
        ];
        self.port(number, "tcp", &labels)
    }

    /// As Marathon writes a port of a container network with a port of the host.
    pub(super) fn host_vip(self, number: u32, value: &str) -> Self {
        self.port(
            number,
            "tcp",
            &[("VIP_0", value), ("network-scope", "host")],
        )
    }

    /// One more network of the container, instead of that of the host.
    pub(super) fn on(mut self, network: &str, addresses: &[&str]) -> Self {
        if self.requested.is_empty() {
            self.networks.clear();
        }
        let addresses = addresses.iter();
        let addresses: Vec<_> = addresses
            .map(|address| json!({"ip_address": address}))
            .collect();
        self.requested.push(json!({"name": network}));
        self.networks
            .push(json!({"name": network, "ip_addresses": addresses}));
        self
    }

    /// Labels of its last network.
    pub(super) fn network_labels(mut self, of: &[(&str, &str)]) -> Self {
        self.requested.last_mut().unwrap()["labels"] = labels(of);
        self
    }

    /// Maps a port of the host on its last network.
    pub(super) fn mapped(mut self, host: u16, container: u16, protocol: &str) -> Self {
        let mapping =
            json!([{"host_port": host, "container_port": container, "protocol": protocol}]);
        self.requested.last_mut().unwrap()["port_mappings"] = mapping;
        self
    }

    /// As a container of a pod: only its status tells its networks.
    pub(super) fn in_pod(mut self) -> Self {
        for (requested, network) in self.requested.drain(..).zip(&mut self.networks) {
            network["port_mappings"] = requested["port_mappings"].clone();
        }
        self
    }

    pub(super) fn json(&self) -> Value {
        let id = |value: &str| json!({ "value": value });
        let status = json!({"state": self.state, "timestamp": self.since, "healthy": self.healthy,
            "container_status": {"container_id": id(&format!("c-{}", self.id)),
                "network_infos": self.networks}});
        let kind = if self.docker.is_some() {
            "DOCKER"
        } else {
            "MESOS"
        };
        json!({"task_id": id(&self.id), "framework_id": id(self.framework),
            "agent_id": id(self.agent), "name": "ignored where there is another",
            "state": self.state, "statuses": [status], "resources": self.resources,
            "labels": labels(&self.labels),
            "health_check": self.is_checked.then(|| json!({"type": "TCP"})),
            "container": {"type": kind, "network_infos": self.requested, "docker": self.docker},
            "discovery": {"visibility": "FRAMEWORK", "name": self.name,
                "ports": {"ports": self.ports}}})
    }
}

/// The state of Mesos with these tasks.
pub(super) fn state(tasks: &[TaskSpec]) -> State {
    let agents = AGENTS.map(|(id, address)| {
        json!({"agent_info": {"id": {"value": id}, "hostname": id}, "active": true,
            "pid": format!("slave(1)@{address}:5051")})
    });
    let frameworks = FRAMEWORKS.map(
        |(id, name)| json!({"framework_info": {"id": {"value": id}, "name": name}, "active": true}),
    );
    let tasks: Vec<_> = tasks.iter().map(TaskSpec::json).collect();
    let state = read_state(&json!({"get_state": {"get_tasks": {"tasks": tasks},
        "get_agents": {"agents": agents}, "get_frameworks": {"frameworks": frameworks},
        "get_executors": {}}}));
    assert!(state.is_complete(), "{:?}", state.skipped);
    state
}

/// The task as Mesos tells it.
pub(super) fn read(spec: &TaskSpec) -> Task {
    let mut tasks = state(std::slice::from_ref(spec)).tasks.into_values();
    *tasks.next().unwrap()
}

pub(super) fn view(tasks: &[TaskSpec]) -> MesosView {
    let mut view = MesosView::default();
    view.apply_snapshot(state(tasks), Instant::now(), Duration::ZERO);
    view
}

/// Networks `overlay` and `routed` are reached from everywhere. Containers with an address in 10.66.0.0/16
/// are on a virtual network, and the managers give addresses from 198.18.0.0/16.
pub(super) fn classification() -> Classification {
    Classification {
        cluster_networks: ["overlay".to_owned(), "routed".to_owned()].into(),
        reserved: vec!["198.18.0.0/16".parse().unwrap()],
        contrail: Some(Arc::new(|container, address| {
            container.starts_with("c-") && address.to_string().starts_with("10.66.")
        })),
    }
}

pub(super) fn compute(tasks: &[TaskSpec]) -> DesiredServices {
    reference::compute(&view(tasks), &classification(), &VipOwners::new())
}

/// A backend in a short text.
pub(super) fn text(backend: &Backend) -> String {
    let local = backend.local.map(|local| format!(" local {local}"));
    let reach = match backend.reach {
        Reach::Cluster => "",
        Reach::Host => " on its host",
        Reach::VirtualNetwork => " in its network",
    };
    let state = match backend.state {
        BackendState::Ready => "",
        BackendState::Draining => " draining",
    };
    format!(
        "{}{}{reach}{state}",
        backend.address,
        local.unwrap_or_default()
    )
}

/// Each service with its backends.
pub(super) fn services(desired: &DesiredServices) -> Vec<(String, Vec<String>)> {
    let services = desired.services.iter();
    services
        .map(|(key, service)| {
            let backends = service.backends.iter();
            let backends = backends.map(|backend| text(&backend.backend)).collect();
            (key.to_string(), backends)
        })
        .collect()
}
