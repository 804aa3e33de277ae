//! A pod: several containers that share one executor and its network namespace.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::constraint::{self, PodConstraint};
use super::definition::{Defaults, Rejection, Violations, drop_nulls, read};
use super::health::PodHealthCheck;
use super::network::{
    Endpoint, Labels, Network, check_network_names, check_networks, is_host, name_networks,
};
use crate::marathon::id::{PathId, is_name};

/// A pod in canonical form.
///
/// Fields of type [`Value`] are kept and served without effect.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[expect(missing_docs, reason = "named and documented by Marathon's API")]
pub struct Pod {
    pub id: PathId,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: Labels,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub environment: BTreeMap<String, Value>,
    pub containers: Vec<PodContainer>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub volumes: Vec<Value>,
    #[serde(default)]
    pub networks: Vec<Network>,
    #[serde(default)]
    pub scaling: Scaling,
    #[serde(default)]
    pub scheduling: Scheduling,
    #[serde(default)]
    pub executor_resources: ExecutorResources,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<String>,
}

/// One container of a pod.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[expect(missing_docs, reason = "named and documented by Marathon's API")]
pub struct PodContainer {
    pub name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exec: Option<Exec>,
    pub resources: Resources,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub endpoints: Vec<Endpoint>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<Image>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub environment: BTreeMap<String, Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health_check: Option<PodHealthCheck>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub volume_mounts: Vec<Value>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub artifacts: Vec<Value>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: Labels,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lifecycle: Option<Value>,
}

/// What a container runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Exec {
    /// The command.
    pub command: Command,
    /// Whether the first word replaces the image's entry point.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub override_entrypoint: Option<bool>,
}

/// A command in one of its two forms.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
#[expect(missing_docs, reason = "named and documented by Marathon's API")]
pub enum Command {
    Shell { shell: String },
    Argv { argv: Vec<String> },
}

/// The resources of a container.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "named and documented by Marathon's API")]
pub struct Resources {
    pub cpus: f64,
    pub mem: f64,
    #[serde(default)]
    pub disk: f64,
    #[serde(default)]
    pub gpus: u32,
}

/// The resources of the executor.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[expect(missing_docs, reason = "named and documented by Marathon's API")]
pub struct ExecutorResources {
    pub cpus: f64,
    pub mem: f64,
    pub disk: f64,
}

impl Default for ExecutorResources {
    fn default() -> Self {
        Self {
            cpus: 0.1,
            mem: 32.0,
            disk: 10.0,
        }
    }
}

/// An image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Image {
    /// `DOCKER` or `APPC`.
    pub kind: String,
    /// The image's name.
    pub id: String,
    /// Whether to pull the image even if it is present.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub force_pull: Option<bool>,
}

/// The scaling of a pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scaling {
    /// `fixed`, the only kind.
    #[serde(default = "fixed")]
    pub kind: String,
    /// The number of instances.
    #[serde(default = "one")]
    pub instances: u32,
}

impl Default for Scaling {
    fn default() -> Self {
        Self {
            kind: fixed(),
            instances: one(),
        }
    }
}

fn fixed() -> String {
    "fixed".to_owned()
}
fn one() -> u32 {
    1
}

/// The scheduling of a pod.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[expect(missing_docs, reason = "named and documented by Marathon's API")]
pub struct Scheduling {
    pub backoff: PodBackoff,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upgrade: Option<Value>,
    pub placement: Placement,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kill_selection: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unreachable_strategy: Option<Value>,
}

/// The backoff before a failed pod is launched again, in seconds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[expect(missing_docs, reason = "named and documented by Marathon's API")]
pub struct PodBackoff {
    pub backoff: f64,
    pub backoff_factor: f64,
    pub max_launch_delay: f64,
}

impl Default for PodBackoff {
    fn default() -> Self {
        Self {
            backoff: 1.0,
            backoff_factor: 1.15,
            max_launch_delay: 300.0,
        }
    }
}

/// The resources that a pod accepts.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[expect(missing_docs, reason = "named and documented by Marathon's API")]
pub struct Placement {
    pub constraints: Vec<PodConstraint>,
    pub accepted_resource_roles: Vec<String>,
}

impl Pod {
    /// Validates a pod.
    fn validate(&self, defaults: &Defaults) -> Result<(), Violations> {
        let mut violations = Violations::default();
        check_networks(&self.networks, defaults, &mut violations);
        let constraints = self.scheduling.placement.constraints.iter();
        for (index, own) in constraints.enumerate() {
            let path = format!("/scheduling/placement/constraints({index})");
            constraint::validate(&own.to_constraint(), &path, &mut violations);
        }
        violations.check(
            !self.containers.is_empty(),
            "/containers",
            "must not be empty",
        );
        let mut names = BTreeSet::new();
        let mut endpoints = BTreeSet::new();
        for (index, container) in self.containers.iter().enumerate() {
            let path = format!("/containers({index})");
            violations.check(
                is_name(&container.name),
                format!("{path}/name"),
                "must fully match regular expression '^[a-z0-9]([a-z0-9-]*[a-z0-9])?$'",
            );
            violations.check(
                names.insert(&container.name),
                "/containers",
                "container names must be unique",
            );
            violations.check(
                container.exec.is_some() || container.image.is_some(),
                format!("{path}/exec"),
                "not defined",
            );
            if let Some(check) = &container.health_check {
                let endpoints = container.endpoints.iter();
                let endpoints: Vec<&str> = endpoints.map(|own| own.name.as_str()).collect();
                check.validate(&format!("{path}/healthCheck"), &endpoints, &mut violations);
            }
            for (index, endpoint) in container.endpoints.iter().enumerate() {
                let path = format!("{path}/endpoints({index})");
                violations.check(
                    endpoints.insert(&endpoint.name),
                    "/containers",
                    "Endpoint names are unique across all containers",
                );
                let is_host = is_host(&self.networks);
                violations.check(
                    is_host || endpoint.container_port.is_some(),
                    format!("{path}/containerPort"),
                    "is required when using container-mode networking",
                );
                violations.check(
                    !is_host || endpoint.host_port.is_some(),
                    format!("{path}/hostPort"),
                    "is required when using host-mode networking",
                );
                check_network_names(
                    &endpoint.network_names,
                    endpoint.host_port.is_some(),
                    &format!("{path}/networkNames"),
                    &self.networks,
                    &mut violations,
                );
            }
        }
        violations.into_result()
    }
}

/// Parses the JSON of a request into a canonical pod.
pub fn parse(mut request: Value, defaults: &Defaults) -> Result<Pod, Rejection> {
    drop_nulls(&mut request);
    let mut pod: Pod = read(request)?;
    pod.validate(defaults).map_err(Rejection::Invalid)?;
    if pod.networks.is_empty() {
        pod.networks.push(Network::host());
    }
    name_networks(&mut pod.networks, defaults);
    pod.role.get_or_insert_with(|| defaults.role.clone());
    Ok(pod)
}
