//! What the managers know of networks, besides what Mesos tells.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

/// Whether the outermost container of this id has an interface with this address on a virtual network.
pub(crate) type IsContrailInterface = Arc<dyn Fn(&str, IpAddr) -> bool + Send + Sync>;

/// What the managers know of networks.
#[derive(Clone, Default)]
pub(crate) struct Classification {
    /// The names of networks whose addresses all hosts reach: overlays, and `routed_networks`.
    pub cluster_networks: BTreeSet<String>,
    /// Addresses that no IP VIP may have: the ranges of named services, and the subnets of the overlays and
    /// of their tunnel endpoints.
    pub reserved: Vec<IpNet>,
    /// None without Contrail. Then labels of a network that name a virtual network mean nothing.
    pub contrail: Option<IsContrailInterface>,
}

impl fmt::Debug for Classification {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Classification")
            .field("cluster_networks", &self.cluster_networks)
            .field("reserved", &self.reserved)
            .field("contrail", &self.contrail.is_some())
            .finish()
    }
}
