//! The `NetworkInfo`s of tasks and executors.
//!
//! Apps of the Mesos containerizer: name, labels (the message is always present), one empty
//! address, and the mappings that have a host port. Pods: the same without an address. Apps of the
//! Docker containerizer: only the first network's name.

use serde_json::{Value, json};

use crate::marathon::model::app::App;
use crate::marathon::model::network::{Labels, Network};
use crate::marathon::model::pod::Pod;

/// A `Labels` message.
#[must_use]
pub(super) fn labels(labels: &Labels) -> Value {
    let label = |(key, value)| json!({"key": key, "value": value});
    json!({"labels": labels.iter().map(label).collect::<Value>()})
}

/// One mapping for Mesos, and its networks.
struct Mapping<'a> {
    networks: &'a [String],
    message: Value,
}

impl Mapping<'_> {
    /// A mapping without names is for every network; one with several different names for none.
    fn is_for(&self, network: &Network) -> bool {
        let same = |name| Some(name) == network.name.as_ref();
        self.networks.iter().all(same)
    }
}

fn mapping<'a>(
    host_port: u16,
    container_port: Option<u16>,
    protocol: Option<&str>,
    networks: &'a [String],
) -> Mapping<'a> {
    let inside = container_port.filter(|port| *port != 0);
    let mut message = json!({
        "host_port": host_port,
        "container_port": inside.unwrap_or(host_port),
    });
    if let Some(protocol) = protocol {
        message["protocol"] = json!(protocol);
    }
    Mapping { networks, message }
}

fn infos(networks: &[Network], bridge: &str, mappings: &[Mapping<'_>]) -> Vec<Value> {
    let info = |network: &Network| {
        let name = network.mesos_name(bridge)?;
        let mut info = json!({"name": name, "labels": labels(&network.labels)});
        let mine: Vec<&Value> = mappings
            .iter()
            .filter(|mapping| mapping.is_for(network))
            .map(|mapping| &mapping.message)
            .collect();
        if !mine.is_empty() {
            info["port_mappings"] = json!(mine);
        }
        Some(info)
    };
    networks.iter().filter_map(info).collect()
}

/// For an app of the Mesos containerizer; `host_ports` are in the order of its mappings.
#[must_use]
pub(super) fn app(app: &App, host_ports: &[Option<u16>], bridge: &str) -> Vec<Value> {
    let mappings: Vec<Mapping<'_>> = app
        .port_mappings()
        .iter()
        .zip(host_ports)
        .filter_map(|(declared, host_port)| {
            Some(mapping(
                (*host_port)?,
                Some(declared.container_port),
                Some(&declared.protocol),
                &declared.network_names,
            ))
        })
        .collect();
    let mut infos = infos(&app.networks, bridge, &mappings);
    for info in &mut infos {
        info["ip_addresses"] = json!([{}]);
    }
    infos
}

/// For an app of the Docker containerizer.
#[must_use]
pub(super) fn docker_app(app: &App) -> Vec<Value> {
    let name = app.networks.iter().find_map(|net| net.name.as_ref());
    name.map(|name| json!({"name": name})).into_iter().collect()
}

/// For a pod; `host_ports` are in the order of all its endpoints.
#[must_use]
pub(super) fn pod(pod: &Pod, host_ports: &[Option<u16>], bridge: &str) -> Vec<Value> {
    let endpoints = pod.containers.iter().flat_map(|part| &part.endpoints);
    let mut mappings = Vec::new();
    for (endpoint, host_port) in endpoints.zip(host_ports) {
        let Some(host_port) = *host_port else {
            continue;
        };
        let mut add = |protocol: Option<&str>| {
            mappings.push(mapping(
                host_port,
                endpoint.container_port,
                protocol,
                &endpoint.network_names,
            ));
        };
        if endpoint.protocol.is_empty() {
            add(None);
        }
        for protocol in &endpoint.protocol {
            add(Some(protocol));
        }
    }
    infos(&pod.networks, bridge, &mappings)
}
