//! Services: from the tasks of Mesos to virtual IPs with backends and to names.
//!
//! ```text
//! vip             the value of a virtual-IP label
//! name            names of frameworks, tasks and services → DNS names
//! classification  what the managers know of networks
//! task            what one task adds: which tasks count, and which address is the backend
//! build           one service, one name: from what tasks add to it
//! index           everything together, kept up to date a change at a time
//! problem_list    the problems that operators see
//! computation     what the tasks ask for now, by the index
//! addresses       the addresses of named services: a pure state machine
//! address_book    the same with the store that keeps them
//! trust           how far the absence of a task in Mesos can be trusted: pure
//! publication     what is published, and what has changed: a pure state machine
//! publisher       follows the tasks, and does all of it in the terms of a leader
//! follow          follows Mesos in a manager without Contrail
//! contrail        services on virtual networks of Contrail
//! metrics         what is counted
//! ```
//!
//! Services follow from Mesos alone: Marathon copies the labels of ports there. The tables of what is a
//! virtual IP, which tasks count and which address is the backend are in the documentation of [`vip`],
//! [`name`], [`task`] and [`build`]. The publisher calls one function, [`ComputeServices`], whenever the
//! state of Mesos or the overlays have changed: [`compute`].
//!
//! # Differences from DC/OS
//!
//! - `/web` and `web` are one service. DC/OS has two under one name.
//! - What makes no service is a [`ServiceProblem`] that people see, such as a value without a port.
//! - One framework serves an IP VIP, and none serves the address of an agent, a container or a range.
//! - A port with `network-name` is on that network only.
//! - SCTP is known, a list such as `udp,tcp` is two protocols, and `[fd01:c::5]:80` is an IPv6 VIP.
//! - A label `vip-affinity` of a port, with the value `client` or a number of seconds (at most 86,400), sends
//!   the connections of a client to the same backend for that long; `client` is 10,800. Of several values
//!   for one service the largest counts.

mod address_book;
mod addresses;
mod build;
pub(crate) mod classification;
mod computation;
pub(crate) mod contrail;
mod follow;
mod index;
mod metrics;
mod name;
mod problem_list;
mod publication;
mod publisher;
mod task;
#[cfg(test)]
mod tests;
mod trust;
mod vip;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use contrail_mesos_api::cluster::{Backend, ServiceKey, TaskName};
use ipnet::IpNet;

use crate::config::ServicesOptions;
use crate::overlay::OverlayConfig;
use crate::reconcile::Reconciler;
use crate::stores::mesos::MesosView;

pub(crate) use addresses::RangeUsage;
pub(crate) use computation::compute;
pub(crate) use publication::{PublishedService, ServiceCounts};
pub(crate) use publisher::{QUEUE, Services};

/// Computes what the tasks ask for. It is called on a thread for blocking work, while no event of Mesos is
/// applied.
pub(crate) type ComputeServices =
    Arc<dyn Fn(&MesosView, &ServiceContext<'_>) -> DesiredServices + Send + Sync>;

/// What decides besides the tasks which of them are services, and from where they are reached.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ServiceContext<'a> {
    /// The ranges of named services, and the routed networks.
    pub options: &'a ServicesOptions,
    /// The overlays.
    pub overlays: &'a OverlayNetworks,
    /// Whether the view has all tasks. Otherwise nobody loses an IP VIP because its tasks are missing.
    pub is_full: bool,
    /// Knows the containers on virtual networks of Contrail, if there is one.
    pub reconciler: Option<&'a Arc<Reconciler>>,
}

/// What services need of the overlays.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct OverlayNetworks {
    /// Their names.
    pub names: BTreeSet<String>,
    /// Their subnets, and those of the tunnel endpoints: no IP VIP may be of them.
    pub subnets: Vec<IpNet>,
}

impl OverlayNetworks {
    /// Those of a configuration.
    pub(crate) fn of(config: &OverlayConfig) -> Self {
        let vteps = [
            Some(IpNet::V4(config.vtep_subnet)),
            config.vtep_subnet6.map(IpNet::V6),
        ];
        let overlays = config.overlays.iter();
        let subnets = overlays
            .clone()
            .flat_map(|overlay| overlay.parts().map(|(subnet, _)| subnet));
        Self {
            names: overlays.map(|overlay| overlay.name.clone()).collect(),
            subnets: vteps.into_iter().flatten().chain(subnets).collect(),
        }
    }
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
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct DesiredBackend {
    /// What is published.
    pub backend: Backend,
    /// The interface of a container on a virtual network of Contrail; none on other networks.
    pub interface: Option<ContrailInterface>,
}

/// The interface of a container on a virtual network.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ContrailInterface {
    /// The id of the outermost container.
    pub container: String,
    /// The address of the interface.
    pub address: std::net::IpAddr,
}

/// Something that an operator or the owner of an app must change.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
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
