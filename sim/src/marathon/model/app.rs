//! An app: one command, with a number of instances.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::constraint::{self, Constraint};
use super::definition::{Defaults, Rejection, Violations, read};
use super::health::HealthCheck;
use super::legacy;
use super::network::{
    Labels, Mode, Network, PortDefinition, PortMapping, check_network_names, check_networks,
    is_host, name_networks,
};
use crate::marathon::id::PathId;

/// An app in canonical form.
///
/// Fields of type [`Value`] are kept and served without effect.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[expect(missing_docs, reason = "named and documented by Marathon's API")]
pub struct App {
    pub id: PathId,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cmd: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub args: Option<Vec<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, Value>,
    #[serde(default = "one")]
    pub instances: u32,
    #[serde(default = "one_cpu")]
    pub cpus: f64,
    #[serde(default = "default_mem")]
    pub mem: f64,
    #[serde(default)]
    pub disk: f64,
    #[serde(default)]
    pub gpus: u32,
    #[serde(default)]
    pub executor: String,
    #[serde(default)]
    pub constraints: Vec<Constraint>,
    #[serde(default)]
    pub fetch: Vec<Value>,
    #[serde(default)]
    pub health_checks: Vec<HealthCheck>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub readiness_checks: Vec<Value>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dependencies: Vec<String>,
    #[serde(default = "one_second")]
    pub backoff_seconds: u64,
    #[serde(default = "default_backoff_factor")]
    pub backoff_factor: f64,
    #[serde(default = "default_launch_delay")]
    pub max_launch_delay_seconds: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<Container>,
    #[serde(default)]
    pub labels: Labels,
    #[serde(default)]
    pub networks: Vec<Network>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port_definitions: Option<Vec<PortDefinition>>,
    #[serde(default)]
    pub require_ports: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accepted_resource_roles: Option<Vec<String>>,
    #[serde(default)]
    pub kill_selection: KillSelection,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task_kill_grace_period_seconds: Option<u64>,
    #[serde(default = "default_upgrade_strategy")]
    pub upgrade_strategy: Value,
    #[serde(default = "default_unreachable_strategy")]
    pub unreachable_strategy: Value,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<String>,
}

/// Which instances are killed first when an app is scaled down.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum KillSelection {
    /// The youngest.
    #[default]
    YoungestFirst,
    /// The oldest.
    OldestFirst,
}

/// The containerizer of an app.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum EngineType {
    /// That of Mesos, which has isolators.
    #[default]
    Mesos,
    /// The Docker daemon.
    Docker,
}

/// The container of an app.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Container {
    /// The containerizer.
    #[serde(rename = "type")]
    pub engine: EngineType,
    /// The image, for either containerizer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub docker: Option<Docker>,
    /// Kept and served without effect.
    pub volumes: Vec<Value>,
    /// The port mappings on container networks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port_mappings: Option<Vec<PortMapping>>,
}

/// An image, and how to pull and run it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Docker {
    /// The image's name.
    pub image: String,
    /// Whether to pull the image even if it is present.
    pub force_pull_image: bool,
    /// Options of `docker run`.
    pub parameters: Vec<Value>,
    /// Whether the container is privileged.
    pub privileged: bool,
    /// The credentials of the registry.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pull_config: Option<Value>,
}

fn one() -> u32 {
    1
}
fn one_cpu() -> f64 {
    1.0
}
fn default_mem() -> f64 {
    128.0
}
fn one_second() -> u64 {
    1
}
fn default_backoff_factor() -> f64 {
    1.15
}
fn default_launch_delay() -> u64 {
    300
}
fn default_upgrade_strategy() -> Value {
    json!({"minimumHealthCapacity": 1, "maximumOverCapacity": 1})
}
fn default_unreachable_strategy() -> Value {
    json!({"inactiveAfterSeconds": 0, "expungeAfterSeconds": 0})
}

impl App {
    /// The port mappings; empty on the host network.
    #[must_use]
    pub fn port_mappings(&self) -> &[PortMapping] {
        self.container
            .as_ref()
            .and_then(|container| container.port_mappings.as_deref())
            .unwrap_or_default()
    }

    /// The image's name, if the app has one.
    #[must_use]
    pub fn image(&self) -> Option<&str> {
        let docker = self.container.as_ref()?.docker.as_ref()?;
        Some(&docker.image)
    }

    /// The service ports, in the order of the mappings or definitions.
    #[must_use]
    pub fn service_ports(&self) -> Vec<u16> {
        if is_host(&self.networks) {
            let definitions = self.port_definitions.as_deref().unwrap_or_default();
            definitions.iter().map(|port| port.port).collect()
        } else {
            let mappings = self.port_mappings().iter();
            mappings.map(|mapping| mapping.service_port).collect()
        }
    }

    /// Assigns a number from `free` to every service port that has none.
    pub fn assign_service_ports(&mut self, free: &mut dyn Iterator<Item = u16>) {
        let host = is_host(&self.networks);
        let definitions = self.port_definitions.iter_mut().flatten();
        let mappings = self
            .container
            .iter_mut()
            .filter_map(|container| container.port_mappings.as_mut())
            .flatten();
        let open: Vec<&mut u16> = if host {
            definitions.map(|port| &mut port.port).collect()
        } else {
            mappings.map(|mapping| &mut mapping.service_port).collect()
        };
        for port in open.into_iter().filter(|port| **port == 0) {
            *port = free.next().unwrap_or(0);
        }
    }

    /// Validates an app whose deprecated forms are already rewritten.
    fn validate(&self, defaults: &Defaults) -> Result<(), Violations> {
        let mut violations = Violations::default();
        let runnable = match (&self.cmd, &self.args) {
            (Some(_), Some(_)) => false,
            (None, None) => self.image().is_some(),
            _ => true,
        };
        violations.check(
            runnable,
            "/",
            "AppDefinition must either contain one of 'cmd' or 'args', and/or a 'container'.",
        );
        for (name, amount) in [("cpus", self.cpus), ("mem", self.mem), ("disk", self.disk)] {
            violations.check(
                amount >= 0.0,
                format!("/{name}"),
                "must be greater than or equal to 0.0",
            );
        }
        violations.check(
            self.backoff_factor >= 1.0,
            "/backoffFactor",
            "must be greater than or equal to 1.0",
        );
        check_networks(&self.networks, defaults, &mut violations);
        if let Some(container) = &self.container {
            let image = container.docker.as_ref().map(|docker| &docker.image);
            violations.check(
                image.is_none_or(|image| !image.is_empty()),
                "/container/docker/image",
                "must not be empty",
            );
            violations.check(
                container.engine == EngineType::Mesos || container.docker.is_some(),
                "/container/docker",
                "not defined",
            );
        }
        self.check_port_mappings(&mut violations);
        self.check_health_checks(&mut violations);
        for (index, constraint) in self.constraints.iter().enumerate() {
            let path = format!("/constraints({index})");
            constraint::validate(constraint, &path, &mut violations);
        }
        violations.into_result()
    }

    fn check_health_checks(&self, violations: &mut Violations) {
        let ports = if is_host(&self.networks) {
            // Without definitions the app gets one.
            self.port_definitions.as_ref().map_or(1, Vec::len)
        } else {
            self.port_mappings().len()
        };
        for (index, check) in self.health_checks.iter().enumerate() {
            check.validate(&format!("/healthChecks({index})"), ports, violations);
        }
    }

    fn check_port_mappings(&self, violations: &mut Violations) {
        let mut names = BTreeSet::new();
        for (index, mapping) in self.port_mappings().iter().enumerate() {
            let path = format!("/container/portMappings({index})");
            violations.check(
                matches!(mapping.protocol.as_str(), "tcp" | "udp" | "udp,tcp"),
                format!("{path}/protocol"),
                "must be one of 'tcp', 'udp', 'udp,tcp'",
            );
            let unique = mapping.name.as_ref().is_none_or(|name| names.insert(name));
            violations.check(
                unique,
                "/container/portMappings",
                "Port names must be unique.",
            );
            check_network_names(
                &mapping.network_names,
                mapping.host_port.is_some(),
                &format!("{path}/networkNames"),
                &self.networks,
                violations,
            );
        }
    }
}

/// Parses the JSON of a request into a canonical app.
pub fn parse(request: Value, defaults: &Defaults) -> Result<App, Rejection> {
    let canonical = legacy::canonical(request, &defaults.mesos_bridge_name)?;
    let mut app: App = read(canonical)?;
    app.validate(defaults).map_err(Rejection::Invalid)?;
    normalize(&mut app, defaults);
    Ok(app)
}

/// Fills in Marathon's defaults, once a definition is valid.
fn normalize(app: &mut App, defaults: &Defaults) {
    if app.networks.is_empty() {
        app.networks.push(Network::host());
    }
    name_networks(&mut app.networks, defaults);
    app.role.get_or_insert_with(|| defaults.role.clone());
    app.health_checks
        .iter_mut()
        .for_each(HealthCheck::normalize);
    if is_host(&app.networks) {
        app.port_definitions.get_or_insert_with(|| {
            vec![PortDefinition {
                name: Some("default".to_owned()),
                ..PortDefinition::default()
            }]
        });
        return;
    }
    app.require_ports = false;
    let bridged = app
        .networks
        .iter()
        .any(|network| network.mode == Mode::Bridge);
    let container = app.container.get_or_insert_default();
    for mapping in container.port_mappings.iter_mut().flatten() {
        // In bridge mode every port is mapped to the host.
        if bridged {
            mapping.host_port.get_or_insert(0);
        }
    }
}
