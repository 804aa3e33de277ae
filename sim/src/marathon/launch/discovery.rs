//! `TaskInfo.discovery`, for service discovery.

use serde_json::{Value, json};

use super::network::labels;
use crate::marathon::id::PathId;
use crate::marathon::model::app::App;
use crate::marathon::model::network::{Endpoint, Labels, Network, is_host};

/// `DiscoveryInfo` with the name of the run spec.
fn info(id: &PathId, ports: &[Value]) -> Value {
    json!({
        "visibility": "FRAMEWORK",
        "name": id.to_hostname(),
        "ports": {"ports": ports},
    })
}

/// One declared port.
struct DeclaredPort<'a> {
    name: Option<&'a str>,
    protocols: Vec<&'a str>,
    labels: &'a Labels,
    networks: &'a [String],
    inside: Option<u16>,
}

impl DeclaredPort<'_> {
    /// One entry per protocol, with additional labels.
    fn entries(&self, number: u16, more: &[(&str, &str)]) -> Vec<Value> {
        let mut all = self.labels.clone();
        for (key, value) in more {
            all.insert((*key).to_owned(), (*value).to_owned());
        }
        let entry = |protocol: &&str| {
            let mut port = json!({"number": number, "protocol": protocol});
            if let Some(name) = self.name {
                port["name"] = json!(name);
            }
            if !all.is_empty() {
                port["labels"] = labels(&all);
            }
            port
        };
        self.protocols.iter().map(entry).collect()
    }

    /// The entries of a port on container networks: the host port if there is one, else the
    /// container port on each network.
    fn scoped(&self, host_port: Option<u16>, networks: &[Network], bridge: &str) -> Vec<Value> {
        if let Some(port) = host_port {
            return self.entries(port, &[("network-scope", "host")]);
        }
        let named =
            |name: &str| self.networks.is_empty() || self.networks.iter().any(|n| n == name);
        networks
            .iter()
            .filter_map(|network| network.mesos_name(bridge))
            .filter(|name| named(name))
            .flat_map(|name| {
                let scope = [("network-scope", "container"), ("network-name", name)];
                self.entries(self.inside.unwrap_or(0), &scope)
            })
            .collect()
    }
}

/// For an app; `host_ports` are in the order of its mappings or definitions.
#[must_use]
pub(super) fn app(app: &App, host_ports: &[Option<u16>], bridge: &str) -> Value {
    let mut ports = Vec::new();
    if is_host(&app.networks) {
        let definitions = app.port_definitions.iter().flatten();
        for (definition, host_port) in definitions.zip(host_ports) {
            let declared = DeclaredPort {
                name: definition.name.as_deref(),
                protocols: definition.protocol.split(',').collect(),
                labels: &definition.labels,
                networks: &[],
                inside: None,
            };
            ports.extend(declared.entries(host_port.unwrap_or(0), &[]));
        }
    } else {
        for (mapping, host_port) in app.port_mappings().iter().zip(host_ports) {
            let declared = DeclaredPort {
                name: mapping.name.as_deref(),
                protocols: mapping.protocol.split(',').collect(),
                labels: &mapping.labels,
                networks: &mapping.network_names,
                inside: Some(mapping.container_port),
            };
            ports.extend(declared.scoped(*host_port, &app.networks, bridge));
        }
    }
    info(&app.id, &ports)
}

/// For one container of the pod `id`; `host_ports` are in the order of its endpoints.
#[must_use]
pub(super) fn pod_container(
    id: &PathId,
    networks: &[Network],
    endpoints: &[Endpoint],
    host_ports: &[Option<u16>],
    bridge: &str,
) -> Value {
    let mut ports = Vec::new();
    for (endpoint, host_port) in endpoints.iter().zip(host_ports) {
        let declared = DeclaredPort {
            name: Some(&endpoint.name),
            protocols: endpoint.protocol.iter().map(String::as_str).collect(),
            labels: &endpoint.labels,
            networks: &endpoint.network_names,
            inside: endpoint.container_port,
        };
        if is_host(networks) {
            ports.extend(declared.entries(host_port.unwrap_or(0), &[]));
        } else {
            ports.extend(declared.scoped(*host_port, networks, bridge));
        }
    }
    info(id, &ports)
}
