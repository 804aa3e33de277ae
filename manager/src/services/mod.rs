//! Services: from the tasks of Mesos to virtual IPs with backends and to names.

use std::collections::BTreeMap;

use contrail_mesos_api::cluster::{Backend, ServiceKey, TaskName};

/// What the tasks ask for. A pure function of the stores computes it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct DesiredServices {
    /// The services. Named ones have no addresses yet.
    pub services: BTreeMap<ServiceKey, DesiredService>,
    /// The names of tasks, by name.
    pub task_names: BTreeMap<String, TaskName>,
    /// What makes no service, or not the one that a user may expect; ordered.
    pub problems: Vec<ServiceProblem>,
}

/// A service without addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct DesiredService {
    /// The backends, ordered by [`DesiredBackend::backend`], distinct.
    pub backends: Vec<DesiredBackend>,
    /// As that of [`contrail_mesos_api::cluster::Service`].
    pub affinity: Option<u32>,
    /// The names of the frameworks whose tasks are its backends; sorted, distinct.
    pub frameworks: Vec<String>,
}

/// A backend, with what Contrail needs.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct DesiredBackend {
    /// What is published.
    pub backend: Backend,
    /// The interface of a container on a virtual network of Contrail; none on other networks.
    pub interface: Option<ContrailInterface>,
}

/// The interface of a container on a virtual network.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ContrailInterface {
    /// The id of the outermost container.
    pub container: String,
    /// The address of the interface.
    pub address: std::net::IpAddr,
}

/// Something that an operator or the owner of an app must change.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ServiceProblem {
    /// The name of the framework.
    pub framework: String,
    /// The name of the task.
    pub task: String,
    /// The label or port that it is about, as the framework wrote it.
    pub subject: String,
    /// What is wrong, and what to write instead.
    pub message: String,
}
