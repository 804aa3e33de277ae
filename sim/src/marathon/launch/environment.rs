//! The environment of a task.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::Launch;
use crate::marathon::model::app::App;
use crate::marathon::model::network::is_host;
use crate::marathon::model::pod::{Pod, PodContainer};

type Variables = BTreeMap<String, String>;

/// The limit for names and values of labels; longer ones are left out.
const MAX_VARIABLE_LENGTH: usize = 512;
const LABEL_PREFIX: &str = "MARATHON_APP_LABEL_";
/// The first number for container ports that have none.
const FIRST_GENERATED_PORT: u16 = 1025;

fn message(variables: &Variables) -> Value {
    let variable = |(name, value)| json!({"name": name, "value": value});
    json!({"variables": variables.iter().map(variable).collect::<Value>()})
}

/// For the task of an app; `host_ports` are in the order of its mappings or definitions.
#[must_use]
pub(super) fn app(
    app: &App,
    launch: &Launch<'_>,
    task_id: &str,
    host_ports: &[Option<u16>],
) -> Value {
    let mut all = Variables::new();
    let mut set = |name: &str, value: String| all.insert(name.to_owned(), value);
    set("MESOS_TASK_ID", task_id.to_owned());
    set("MARATHON_APP_ID", app.id.to_string());
    set("MARATHON_APP_VERSION", launch.version.to_string());
    set("MARATHON_APP_RESOURCE_CPUS", decimal(app.cpus));
    set("MARATHON_APP_RESOURCE_MEM", decimal(app.mem));
    set("MARATHON_APP_RESOURCE_DISK", decimal(app.disk));
    set("MARATHON_APP_RESOURCE_GPUS", app.gpus.to_string());
    if let Some(image) = app.image() {
        set("MARATHON_APP_DOCKER_IMAGE", image.to_owned());
    }
    set("HOST", launch.hostname.to_owned());
    add_labels(&mut all, app.labels.iter());
    let (requested, names): (Vec<u16>, Vec<Option<&str>>) = if is_host(&app.networks) {
        let ports = app.port_definitions.iter().flatten();
        ports.map(|port| (port.port, port.name.as_deref())).unzip()
    } else {
        let ports = app.port_mappings().iter();
        ports
            .map(|port| (port.container_port, port.name.as_deref()))
            .unzip()
    };
    all.extend(ports(&requested, host_ports, &names));
    add_own(&mut all, &app.env);
    message(&all)
}

/// For one container of a pod; `host_ports` are in the order of all the pod's endpoints.
#[must_use]
pub(super) fn pod_container(
    pod: &Pod,
    container: &PodContainer,
    launch: &Launch<'_>,
    task_id: &str,
    host_ports: &[Option<u16>],
) -> Value {
    let mut all = Variables::new();
    add_own(&mut all, &pod.environment);
    add_own(&mut all, &container.environment);
    let resources = &container.resources;
    let mut set = |name: &str, value: String| all.insert(name.to_owned(), value);
    set("HOST", launch.hostname.to_owned());
    set("MESOS_TASK_ID", task_id.to_owned());
    set("MESOS_EXECUTOR_ID", launch.instance.executor_id());
    set("MARATHON_APP_ID", pod.id.to_string());
    set("MARATHON_APP_VERSION", launch.version.to_string());
    set("MARATHON_CONTAINER_ID", container.name.clone());
    set("MARATHON_CONTAINER_RESOURCE_CPUS", decimal(resources.cpus));
    set("MARATHON_CONTAINER_RESOURCE_MEM", decimal(resources.mem));
    set("MARATHON_CONTAINER_RESOURCE_DISK", decimal(resources.disk));
    set(
        "MARATHON_CONTAINER_RESOURCE_GPUS",
        resources.gpus.to_string(),
    );
    add_labels(&mut all, pod.labels.iter().chain(&container.labels));
    let endpoints = pod.containers.iter().flat_map(|part| &part.endpoints);
    for (endpoint, host_port) in endpoints.zip(host_ports) {
        let name = escape(&endpoint.name);
        let inside = endpoint.container_port;
        let reached = if is_host(&pod.networks) {
            *host_port
        } else {
            inside
        };
        let ports = [
            ("ENDPOINT", reached),
            ("EP_HOST", *host_port),
            ("EP_CONTAINER", inside),
        ];
        for (prefix, port) in ports {
            if let Some(port) = port {
                all.insert(format!("{prefix}_{name}"), port.to_string());
            }
        }
    }
    message(&all)
}

/// Formats a number as Java does, always with a decimal point.
fn decimal(amount: f64) -> String {
    format!("{amount:?}")
}

fn escape(name: &str) -> String {
    let mut escaped = String::new();
    for character in name.to_uppercase().chars() {
        if character.is_ascii_alphanumeric() || character == '_' {
            escaped.push(character);
        } else if !escaped.ends_with('_') {
            escaped.push('_');
        }
    }
    escaped
}

fn add_own(all: &mut Variables, own: &BTreeMap<String, Value>) {
    for (name, value) in own {
        // Anything else refers to a secret, and secrets are not simulated.
        if let Some(value) = value.as_str() {
            all.insert(name.clone(), value.to_owned());
        }
    }
}

fn add_labels<'a>(all: &mut Variables, labels: impl Iterator<Item = (&'a String, &'a String)>) {
    let mut names = Vec::new();
    for (key, value) in labels {
        if key.len() < MAX_VARIABLE_LENGTH - LABEL_PREFIX.len() && value.len() < MAX_VARIABLE_LENGTH
        {
            let name = escape(key);
            all.insert(format!("{LABEL_PREFIX}{name}"), value.clone());
            names.push(name);
        }
    }
    all.insert("MARATHON_APP_LABELS".to_owned(), names.join(" "));
}

/// `PORT`, `PORT<index>`, `PORT_<requested>`, `PORT_<NAME>` and `PORTS`.
fn ports(requested: &[u16], host_ports: &[Option<u16>], names: &[Option<&str>]) -> Variables {
    let mut all = Variables::new();
    if host_ports.is_empty() {
        return all;
    }
    let used: BTreeSet<u16> = requested
        .iter()
        .copied()
        .chain(host_ports.iter().copied().flatten())
        .collect();
    let mut generated = (FIRST_GENERATED_PORT..).filter(|port| !used.contains(port));
    let mut assigned = Vec::new();
    let mut generated_ports = Vec::new();
    for (index, (&requested, &host_port)) in requested.iter().zip(host_ports).enumerate() {
        let (number, declared) = match (host_port, requested) {
            (Some(port), 0) => (port, port),
            (Some(port), requested) => (port, requested),
            (None, 0) => {
                let port = generated.next().unwrap_or(FIRST_GENERATED_PORT);
                generated_ports.push(port);
                (port, port)
            }
            (None, requested) => (requested, requested),
        };
        all.insert(format!("PORT{index}"), number.to_string());
        all.insert(format!("PORT_{declared}"), number.to_string());
        if let Some(port) = host_port {
            assigned.push(port);
            if let Some(Some(name)) = names.get(index) {
                all.insert(format!("PORT_{}", name.to_uppercase()), port.to_string());
            }
        }
    }
    assigned.extend(generated_ports);
    if let Some(first) = assigned.first() {
        all.insert("PORT".to_owned(), first.to_string());
    }
    let list: Vec<String> = assigned.iter().map(u16::to_string).collect();
    all.insert("PORTS".to_owned(), list.join(","));
    all
}
