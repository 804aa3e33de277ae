//! The overlays and the nodes.

use contrail_mesos_api::cluster::{Admission, Object, Overlay};
use ipnet::IpNet;
use serde::Serialize;
use serde_json::{Value, json};

use super::paginate::{ListQuery, paginate};
use super::responses::list_response;
use crate::cluster::Cluster;

/// How many events of nodes are returned.
const MAX_EVENTS: usize = 100;

/// An overlay.
#[derive(Clone, Debug, Serialize)]
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
#[derive(Clone, Debug, Serialize)]
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

/// The overlays, and how much of each is used.
pub(super) fn overlays(cluster: &Cluster, query: &ListQuery) -> Value {
    let rows = overlay_rows(cluster)
        .into_iter()
        .map(|row| (row.name.clone(), row));
    let (_, endpoints) = cluster.usage();
    let endpoints: Vec<_> = endpoints
        .iter()
        .map(|usage| {
            json!({
                "subnet": usage.subnet,
                "used": usage.used,
                "free": usage.free,
                "total": usage.total,
            })
        })
        .collect();
    let underlay = cluster
        .definitions()
        .into_iter()
        .find_map(|object| match object {
            Object::Underlay(underlay) => Some(underlay),
            _ => None,
        });
    let fields = json!({
        "revision": cluster.revision(),
        "underlay": underlay,
        "endpoints": endpoints,
    });
    let page = paginate(rows, query.after.as_ref(), query.limit);
    list_response("overlays", page, fields)
}

/// The nodes, and what happened to them.
pub(super) fn nodes(cluster: &Cluster, query: &ListQuery) -> Value {
    let rows = cluster
        .statuses()
        .into_iter()
        .map(|node| (node.name.clone(), node));
    let mut events = cluster.events();
    events.truncate(MAX_EVENTS);
    let fields = json!({ "revision": cluster.revision(), "events": events });
    let page = paginate(rows, query.after.as_ref(), query.limit);
    list_response("nodes", page, fields)
}
