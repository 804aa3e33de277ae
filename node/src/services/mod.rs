//! Services: what this host and its containers address to a virtual IP reaches a backend.

use std::sync::Arc;

use contrail_mesos_api::cluster::Revision;
use tokio::sync::watch;

use crate::cluster_state::Services;

/// What other parts of the daemon see of the data path of services.
#[derive(Clone, Debug)]
pub struct ServicesView {
    /// What the kernel has. Nothing before the first comparison.
    pub applied: watch::Receiver<Arc<AppliedServices>>,
}

/// The services whose data path is in place.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AppliedServices {
    /// The revision of the cluster's state that they come from; none before the first comparison.
    pub revision: Option<Revision>,
    /// The services as the kernel has them.
    pub services: Services,
}
