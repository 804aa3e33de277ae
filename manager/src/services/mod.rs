//! Services: from the tasks of Mesos to virtual IPs with backends and to names.
//!
//! ```text
//! addresses     the addresses of named services: a pure state machine
//! address_book  the same with the store that keeps them
//! trust         how far the absence of a task in Mesos can be trusted: pure
//! publication   what is published, and what has changed: a pure state machine
//! publisher     follows the tasks, and does all of it in the terms of a leader
//! follow        follows Mesos in a manager without Contrail
//! metrics       what is counted
//! ```
//!
//! The publisher calls one function, [`ComputeServices`], whenever the state of Mesos or the names of the
//! overlays have changed. [`compute`] is that of the manager. It computes everything: the publisher
//! compares the result with what is published.

mod address_book;
mod addresses;
mod follow;
mod metrics;
mod publication;
mod publisher;
#[cfg(test)]
mod tests;
mod trust;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use contrail_mesos_api::cluster::{Backend, ServiceKey, TaskName};

use crate::config::ServicesOptions;
use crate::reconcile::Reconciler;
use crate::stores::mesos::MesosView;

pub(crate) use addresses::RangeUsage;
pub(crate) use publication::PublishedService;
pub(crate) use publisher::{QUEUE, Services};

/// Computes what the tasks ask for. It is called on a thread for blocking work, while no event of Mesos is
/// applied.
pub(crate) type ComputeServices =
    Arc<dyn Fn(&MesosView, &ServiceContext<'_>) -> DesiredServices + Send + Sync>;

/// The function of the manager.
pub(crate) fn compute() -> ComputeServices {
    // No task asks for a service before the function of the tasks is here.
    Arc::new(|_, _| DesiredServices::default())
}

/// What decides besides the tasks which of them are services, and from where they are reached.
#[derive(Clone, Copy, Debug)]
#[allow(dead_code, reason = "the function of the tasks reads it")]
pub(crate) struct ServiceContext<'a> {
    /// The ranges of named services, and the routed networks.
    pub options: &'a ServicesOptions,
    /// The names of the overlays.
    pub overlays: &'a BTreeSet<String>,
    /// Knows the containers on virtual networks of Contrail, if there is one.
    pub reconciler: Option<&'a Arc<Reconciler>>,
}

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
