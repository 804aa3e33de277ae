//! What is enforced, and what the managers learn of this host's containers.

use std::net::IpAddr;
use std::sync::Arc;

use contrail_mesos::endpoints::LocalEndpoint;
use contrail_mesos::net::nft::groups::{GroupPolicy, MemberSet};
use contrail_mesos_api::cluster::{Admission, Endpoint, EndpointsReport, Membership};
use contrail_mesos_api::text::hex;
use serde::Serialize;
use sha2::{Digest as _, Sha256};
use tokio::sync::watch;

/// How many addresses of a group are shown.
const MAX_SHOWN_ADDRESSES: usize = 1000;

/// What other parts of the daemon see of the groups.
#[derive(Clone, Debug)]
pub struct GroupsView {
    /// What is enforced.
    pub status: watch::Receiver<Arc<GroupsStatus>>,
    /// What is reported to the managers; none before the containers are known.
    pub report: watch::Receiver<Option<Arc<EndpointsReport>>>,
}

impl Default for GroupsView {
    /// The view of a daemon without groups: nothing ever changes.
    fn default() -> Self {
        Self {
            status: watch::Sender::default().subscribe(),
            report: watch::Sender::default().subscribe(),
        }
    }
}

/// What is enforced on this host.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct GroupsStatus {
    /// Whether there are tables.
    pub is_active: bool,
    /// The containers of this host on networks that isolate groups.
    pub endpoints: Vec<EnforcedEndpoint>,
    /// The members of the groups that these containers need.
    pub groups: Vec<GroupMembers>,
    /// The isolated overlays of this host.
    pub isolated_overlays: Vec<String>,
}

/// A container of this host on a network that isolates groups.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct EnforcedEndpoint {
    /// The container's id.
    pub container: String,
    /// The network's name.
    pub network: String,
    /// The overlay's name, if the network is part of one.
    pub overlay: Option<String>,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// Its groups.
    #[serde(flatten)]
    pub membership: Membership,
    /// What else reaches it.
    pub admission: Admission,
}

/// The addresses from which something is allowed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct GroupMembers {
    /// The group's name; none for the containers without a group.
    pub group: Option<String>,
    /// Whether the containers that name it as a security group are among them.
    pub with_security_groups: bool,
    /// How many addresses there are.
    pub count: usize,
    /// The first of them.
    pub addresses: Vec<IpAddr>,
}

impl GroupsStatus {
    pub(super) fn new(policy: &GroupPolicy, endpoints: &[LocalEndpoint]) -> Self {
        let endpoint = |endpoint: &LocalEndpoint| EnforcedEndpoint {
            container: endpoint.container.to_string(),
            network: endpoint.network.clone(),
            overlay: endpoint.overlay.clone(),
            addresses: endpoint.addresses.clone(),
            membership: endpoint.policy.membership.clone(),
            admission: endpoint.policy.admission,
        };
        let members = policy.members.iter().map(|(set, addresses)| GroupMembers {
            group: match set {
                MemberSet::Group(name) | MemberSet::Named(name) => Some(name.clone()),
                MemberSet::Ungrouped => None,
            },
            with_security_groups: matches!(set, MemberSet::Named(_)),
            count: addresses.len(),
            addresses: addresses
                .iter()
                .copied()
                .take(MAX_SHOWN_ADDRESSES)
                .collect(),
        });
        let mut isolated_overlays: Vec<_> = policy
            .isolated
            .iter()
            .map(|overlay| overlay.name.clone())
            .collect();
        isolated_overlays.dedup();
        Self {
            is_active: !policy.is_empty(),
            endpoints: endpoints.iter().map(endpoint).collect(),
            groups: members.collect(),
            isolated_overlays,
        }
    }

    /// The id of the container of this host with that address.
    #[must_use]
    pub fn container(&self, address: IpAddr) -> Option<&str> {
        let mut endpoints = self.endpoints.iter();
        let endpoint = endpoints.find(|endpoint| endpoint.addresses.contains(&address))?;
        Some(&endpoint.container)
    }
}

/// What is reported of these endpoints of `node`: those on overlays.
pub(super) fn report(node: &str, endpoints: &[LocalEndpoint]) -> EndpointsReport {
    let on_overlays = endpoints
        .iter()
        .filter(|endpoint| endpoint.overlay.is_some() && !endpoint.addresses.is_empty());
    let mut endpoints: Vec<_> = on_overlays
        .map(|endpoint| Endpoint {
            node: node.to_owned(),
            id: format!("{}/{}", endpoint.container, endpoint.network),
            addresses: endpoint.addresses.clone(),
            membership: endpoint.policy.membership.clone(),
        })
        .collect();
    endpoints.sort_by(|one, other| one.id.cmp(&other.id));
    // Serialization fails only for maps whose keys are not strings; there are none.
    let bytes = serde_json::to_vec(&endpoints).unwrap_or_default();
    EndpointsReport {
        digest: hex(&Sha256::digest(bytes)),
        endpoints,
    }
}
