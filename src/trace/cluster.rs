//! What this node knows of the cluster: what the node daemon answers or, without it, has written last.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

use contrail_mesos_api::cluster::{
    Backend, BackendState, Endpoint, Node, NodeSubnets, Overlay, Reach, SecurityGroup, Service,
    ServiceKey, ServiceProtocol, ServiceSettings,
};
use contrail_mesos_api::files::read_regular_file;
use ipnet::IpNet;
use serde::Deserialize;

use crate::preflight::read_json_from_node_daemon;

/// The most bytes of an answer: endpoints of a large cluster are tens of megabytes.
const MAX_CLUSTER_BYTES: u64 = 256 << 20;

/// The parts of the cluster's state that a trace needs.
#[derive(Clone, Debug, Default, Deserialize)]
pub(super) struct KnownCluster {
    pub(super) node: String,
    #[serde(default)]
    pub(super) overlays: BTreeMap<String, Overlay>,
    #[serde(default)]
    pub(super) nodes: BTreeMap<String, Node>,
    #[serde(default)]
    pub(super) security_groups: BTreeMap<String, SecurityGroup>,
    #[serde(default)]
    endpoints: BTreeMap<String, BTreeMap<String, Endpoint>>,
    #[serde(default)]
    service_settings: Option<ServiceSettings>,
    #[serde(default)]
    pub(super) services: BTreeMap<ServiceKey, Arc<Service>>,
}

#[derive(Deserialize)]
struct StoredCluster {
    state: KnownCluster,
}

impl KnownCluster {
    /// Reads it; empty if there is none. Blocks.
    pub(super) fn read(state_dir: &Path, socket: &Path) -> Self {
        if let Ok(known) = read_json_from_node_daemon(socket, "/v1/cluster", MAX_CLUSTER_BYTES) {
            return known;
        }
        let stored = read_regular_file(&state_dir.join("node").join("cluster.json")).ok();
        let stored = stored.and_then(|bytes| serde_json::from_slice::<StoredCluster>(&bytes).ok());
        stored.map_or_else(Self::default, |stored| stored.state)
    }

    /// The node, other than this one, whose subnet has the address, and the overlay of that subnet.
    pub(super) fn node_of(&self, address: IpAddr) -> Option<(&Node, &NodeSubnets)> {
        let others = self.nodes.values().filter(|node| node.name != self.node);
        let mut subnets = others.flat_map(|node| node.subnets.iter().map(move |one| (node, one)));
        subnets.find(|(_, subnets)| subnets.subnets().any(|net| net.contains(&address)))
    }

    /// The endpoint of another node with that address.
    pub(super) fn endpoint(&self, address: IpAddr) -> Option<&Endpoint> {
        let others = self
            .endpoints
            .iter()
            .filter(|(node, _)| **node != self.node);
        let mut endpoints = others.flat_map(|(_, endpoints)| endpoints.values());
        endpoints.find(|endpoint| endpoint.addresses.contains(&address))
    }

    /// The endpoints of other nodes whose ids begin with that text.
    pub(super) fn endpoints_named<'a>(
        &'a self,
        prefix: &'a str,
    ) -> impl Iterator<Item = &'a Endpoint> {
        let others = self
            .endpoints
            .iter()
            .filter(|(node, _)| **node != self.node);
        others
            .flat_map(|(_, endpoints)| endpoints.values())
            .filter(move |endpoint| endpoint.id.starts_with(prefix))
    }

    /// The overlay whose subnet has the address.
    pub(super) fn overlay_of(&self, address: IpAddr) -> Option<&Overlay> {
        let has = |overlay: &&Overlay| overlay.subnets().any(|net: IpNet| net.contains(&address));
        self.overlays.values().find(has)
    }

    /// The service with that address, port and protocol.
    pub(super) fn service(&self, address: IpAddr, port: u16, protocol: u8) -> Option<&Service> {
        let mut services = self.services.values();
        let service = services.find(|service| {
            let key = &service.service;
            service.addresses.contains(&address)
                && (key.port, key.protocol.number()) == (port, protocol)
        });
        service.map(|service| &**service)
    }

    /// Whether an address is one of services alone.
    pub(super) fn is_service_address(&self, address: IpAddr) -> bool {
        let settings = self.service_settings.as_ref();
        settings.is_some_and(|settings| {
            let is_in_range = settings.ranges.iter().any(|range| range.contains(&address));
            is_in_range && !settings.dns.contains(&address)
        })
    }
}

/// What this node knows of services and overlays, for tests of connectivity.
#[derive(Debug)]
pub(crate) struct KnownServices(KnownCluster);

impl KnownServices {
    /// Reads it; empty if there is none. Blocks.
    pub(crate) fn read(state_dir: &Path, socket: &Path) -> Self {
        Self(KnownCluster::read(state_dir, socket))
    }

    /// Whether containers of other overlays cannot reach those of this one.
    pub(crate) fn is_isolated_overlay(&self, name: &str) -> bool {
        let overlay = self.0.overlays.get(name);
        overlay.is_some_and(|overlay| overlay.isolated)
    }

    /// Whether the overlay isolates groups.
    pub(crate) fn isolates_groups(&self, name: &str) -> bool {
        let overlay = self.0.overlays.get(name);
        overlay.is_some_and(|overlay| overlay.groups.is_some())
    }

    /// The name and address of a TCP service with a ready backend that other hosts reach.
    pub(crate) fn tcp_service(&self, is_v4: bool) -> Option<(String, SocketAddr)> {
        let is_usable = |backend: &Backend| {
            backend.state == BackendState::Ready
                && backend.reach == Reach::Cluster
                && backend.address.is_ipv4() == is_v4
        };
        self.0.services.iter().find_map(|(key, service)| {
            let has_backend = service.backends.iter().any(is_usable);
            let mut addresses = service.addresses.iter().copied();
            let address = addresses.find(|address| address.is_ipv4() == is_v4)?;
            (key.protocol == ServiceProtocol::Tcp && has_backend)
                .then(|| (key.to_string(), SocketAddr::new(address, key.port)))
        })
    }
}
