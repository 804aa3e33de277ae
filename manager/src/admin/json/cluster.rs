//! The overlays and the nodes.

#![allow(
    clippy::struct_field_names,
    reason = "the fields are those of the JSON, where a list is named after what is in it"
)]

use contrail_mesos_api::cluster::{Admission, NodeStatus, Object, Overlay, Revision, Underlay};
use ipnet::IpNet;
use schemars::JsonSchema;
use serde::Serialize;

use super::paginate::{ListQuery, PageEnd, paginate};
use crate::cluster::{Cluster, NodeEvent};

/// How many events of nodes are returned.
const MAX_EVENTS: usize = 100;

/// An overlay.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub(crate) struct OverlayRow {
    pub name: String,
    pub vni: u32,
    pub mtu: Option<u32>,
    pub enabled: bool,
    /// What reaches its containers besides members of their groups; none if it does not isolate groups.
    pub groups: Option<Admission>,
    /// Whether containers of other overlays cannot reach its containers.
    pub isolated: bool,
    /// Whether nodes borrow blocks of it.
    pub lends_blocks: bool,
    pub subnets: Vec<SubnetRow>,
}

/// One family of an overlay. A node takes one part of it, or borrows blocks.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub(crate) struct SubnetRow {
    pub subnet: IpNet,
    pub prefix: u8,
    pub used: u64,
    pub free: u64,
    pub total: u64,
}

/// The overlays, ordered by name.
pub(crate) fn overlay_rows(cluster: &Cluster) -> Vec<OverlayRow> {
    let (usage, _) = cluster.usage();
    let row = |overlay: Overlay| {
        let of = usage.iter().filter(|usage| usage.overlay == overlay.name);
        let subnets = of.map(|usage| SubnetRow {
            subnet: usage.subnet,
            prefix: usage.prefix,
            used: usage.used,
            free: usage.free,
            total: usage.total,
        });
        OverlayRow {
            vni: overlay.vni,
            mtu: overlay.mtu,
            enabled: overlay.enabled,
            groups: overlay.groups,
            isolated: overlay.isolated,
            lends_blocks: overlay.lends_blocks,
            subnets: subnets.collect(),
            name: overlay.name,
        }
    };
    let objects = cluster.definitions().into_iter();
    objects
        .filter_map(|object| match object {
            Object::Overlay(overlay) => Some(row(overlay)),
            _ => None,
        })
        .collect()
}

/// How much of a subnet of tunnel endpoints is used.
#[derive(Clone, Debug, Serialize, JsonSchema)]
struct EndpointSubnetRow {
    subnet: IpNet,
    used: u64,
    free: u64,
    total: u64,
}

/// The overlays.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub(super) struct Overlays {
    /// The current revision; null if this manager publishes nothing.
    revision: Option<Revision>,
    /// What all overlays share.
    underlay: Option<Underlay>,
    /// The subnets of the nodes' tunnel endpoints.
    endpoints: Vec<EndpointSubnetRow>,
    overlays: Vec<OverlayRow>,
    #[serde(flatten)]
    page: PageEnd,
}

/// The overlays, and how much of each is used.
pub(super) fn overlays(cluster: &Cluster, query: &ListQuery) -> Overlays {
    let rows = overlay_rows(cluster)
        .into_iter()
        .map(|row| (row.name.clone(), row));
    let (_, endpoints) = cluster.usage();
    let endpoints = endpoints.iter().map(|usage| EndpointSubnetRow {
        subnet: usage.subnet,
        used: usage.used,
        free: usage.free,
        total: usage.total,
    });
    let underlay = cluster
        .definitions()
        .into_iter()
        .find_map(|object| match object {
            Object::Underlay(underlay) => Some(underlay),
            _ => None,
        });
    let (overlays, page) = paginate(rows, query.after.as_ref(), query.limit).finish();
    Overlays {
        revision: cluster.revision(),
        underlay,
        endpoints: endpoints.collect(),
        overlays,
        page,
    }
}

/// The nodes.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub(super) struct Nodes {
    /// The current revision; null if this manager publishes nothing.
    revision: Option<Revision>,
    /// The last events, the latest first.
    events: Vec<NodeEvent>,
    nodes: Vec<NodeStatus>,
    #[serde(flatten)]
    page: PageEnd,
}

/// The nodes, and what happened to them.
pub(super) fn nodes(cluster: &Cluster, query: &ListQuery) -> Nodes {
    let rows = cluster
        .statuses()
        .into_iter()
        .map(|node| (node.name.clone(), node));
    let mut events = cluster.events();
    events.truncate(MAX_EVENTS);
    let (nodes, page) = paginate(rows, query.after.as_ref(), query.limit).finish();
    Nodes {
        revision: cluster.revision(),
        events,
        nodes,
        page,
    }
}
