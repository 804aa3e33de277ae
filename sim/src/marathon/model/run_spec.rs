//! Run specs: what apps and pods have in common.

use std::time::Duration;

use super::app::{App, KillSelection};
use super::constraint::{Constraint, PodConstraint};
use super::network::{Network, is_host};
use super::pod::Pod;
use crate::marathon::id::PathId;

/// An app or a pod.
#[derive(Clone, Debug, PartialEq)]
#[expect(missing_docs, reason = "the names say it")]
pub enum RunSpec {
    App(Box<App>),
    Pod(Box<Pod>),
}

/// The backoff before a failed instance is launched again.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Backoff {
    /// The initial delay.
    pub initial: Duration,
    /// The factor of each further delay.
    pub factor: f64,
    /// The maximum delay.
    pub max: Duration,
}

impl RunSpec {
    /// Its path.
    #[must_use]
    pub fn id(&self) -> &PathId {
        match self {
            Self::App(app) => &app.id,
            Self::Pod(pod) => &pod.id,
        }
    }

    /// The desired number of instances.
    #[must_use]
    pub fn instances(&self) -> usize {
        let instances = match self {
            Self::App(app) => app.instances,
            Self::Pod(pod) => pod.scaling.instances,
        };
        usize::try_from(instances).unwrap_or(usize::MAX)
    }

    /// The same run spec with another number of instances.
    #[must_use]
    pub fn with_instances(&self, instances: usize) -> Self {
        let mut other = self.clone();
        let instances = u32::try_from(instances).unwrap_or(u32::MAX);
        match &mut other {
            Self::App(app) => app.instances = instances,
            Self::Pod(pod) => pod.scaling.instances = instances,
        }
        other
    }

    /// Its networks.
    #[must_use]
    pub fn networks(&self) -> &[Network] {
        match self {
            Self::App(app) => &app.networks,
            Self::Pod(pod) => &pod.networks,
        }
    }

    /// Its role.
    #[must_use]
    pub fn role(&self) -> &str {
        let role = match self {
            Self::App(app) => &app.role,
            Self::Pod(pod) => &pod.role,
        };
        role.as_deref().unwrap_or("*")
    }

    /// The roles whose reservations it accepts; `*` means unreserved resources.
    #[must_use]
    pub fn accepted_resource_roles(&self) -> Vec<&str> {
        let accepted: &[String] = match self {
            Self::App(app) => app.accepted_resource_roles.as_deref().unwrap_or_default(),
            Self::Pod(pod) => &pod.scheduling.placement.accepted_resource_roles,
        };
        if accepted.is_empty() {
            vec!["*", self.role()]
        } else {
            accepted.iter().map(String::as_str).collect()
        }
    }

    /// On which agents its instances may run.
    #[must_use]
    pub fn constraints(&self) -> Vec<Constraint> {
        match self {
            Self::App(app) => app.constraints.clone(),
            Self::Pod(pod) => {
                let constraints = pod.scheduling.placement.constraints.iter();
                constraints.map(PodConstraint::to_constraint).collect()
            }
        }
    }

    /// How many health checks a task has; `container` is the name of a pod's container.
    #[must_use]
    pub fn health_checks(&self, container: Option<&str>) -> usize {
        match self {
            Self::App(app) => app.health_checks.len(),
            Self::Pod(pod) => {
                let mut containers = pod.containers.iter();
                let own = containers.find(|own| Some(own.name.as_str()) == container);
                usize::from(own.is_some_and(|own| own.health_check.is_some()))
            }
        }
    }

    /// Which instances are killed first when it is scaled down.
    #[must_use]
    pub fn kill_selection(&self) -> KillSelection {
        match self {
            Self::App(app) => app.kill_selection,
            Self::Pod(pod) => match pod.scheduling.kill_selection.as_deref() {
                Some("OldestFirst" | "OLDEST_FIRST") => KillSelection::OldestFirst,
                _ => KillSelection::YoungestFirst,
            },
        }
    }

    /// The backoff before a failed instance is launched again.
    #[must_use]
    pub fn backoff(&self) -> Backoff {
        let seconds = |seconds: f64| Duration::try_from_secs_f64(seconds).unwrap_or_default();
        match self {
            Self::App(app) => Backoff {
                initial: Duration::from_secs(app.backoff_seconds),
                factor: app.backoff_factor,
                max: Duration::from_secs(app.max_launch_delay_seconds),
            },
            Self::Pod(pod) => {
                let backoff = &pod.scheduling.backoff;
                Backoff {
                    initial: seconds(backoff.backoff),
                    factor: backoff.backoff_factor,
                    max: seconds(backoff.max_launch_delay),
                }
            }
        }
    }

    /// The host ports of one instance, in the order of its mappings, definitions or endpoints:
    /// none, any (0), or this one.
    #[must_use]
    pub fn host_ports(&self) -> Vec<Option<u16>> {
        match self {
            Self::App(app) if is_host(&app.networks) => {
                let definitions = app.port_definitions.as_deref().unwrap_or_default();
                let wanted = |port: u16| Some(if app.require_ports { port } else { 0 });
                definitions.iter().map(|port| wanted(port.port)).collect()
            }
            Self::App(app) => {
                let mappings = app.port_mappings().iter();
                mappings.map(|mapping| mapping.host_port).collect()
            }
            Self::Pod(pod) => {
                let endpoints = pod.containers.iter().flat_map(|part| &part.endpoints);
                endpoints.map(|endpoint| endpoint.host_port).collect()
            }
        }
    }

    /// Whether only the number of instances differs from `other`.
    #[must_use]
    pub fn only_scales(&self, other: &Self) -> bool {
        let mut other = other.clone();
        match (self, &mut other) {
            (Self::App(own), Self::App(other)) => other.instances = own.instances,
            (Self::Pod(own), Self::Pod(other)) => other.scaling = own.scaling.clone(),
            _ => return false,
        }
        *self == other
    }
}
