//! The overlays and the nodes.

use contrail_mesos_api::cluster::{NodeCondition, NodeStatus};
use maud::{Markup, html};

use super::sections::{MAX_ROWS, duration_text, truncation_note};
use crate::admin::json;
use crate::cluster::Cluster;

/// The overlays, and how much of them is used.
pub(super) fn overlays(cluster: &Cluster) -> Markup {
    let rows = json::overlay_rows(cluster);
    html! {
        section #overlays {
            h2 { "Overlays " small { (rows.len()) } }
            @if rows.is_empty() { p.soft { "None is published." } } @else {
                table {
                    thead { tr {
                        th { "Overlay" } th { "VNI" } th { "State" } th { "Subnets" } th.number { "Given" } th.number { "Room for" }
                    } }
                    tbody {
                        @for row in rows.iter().take(MAX_ROWS) {
                            tr data-overlay=(row.name) {
                                td data-name="Overlay" { (row.name) }
                                td data-name="VNI" { (row.vni) }
                                td data-name="State" { div {
                                    @if !row.enabled { span.tag { "disabled" } }
                                    @else if row.subnets.iter().any(|subnet| subnet.free == 0) { span.tag.bad { "used up" } }
                                    @else { span.tag.good { "enabled" } }
                                    @if row.groups.is_some() { " " span.tag { "groups" } }
                                    @if row.isolated { " " span.tag { "isolated" } }
                                    @if row.lends_blocks { " " span.tag { "blocks" } }
                                } }
                                td data-name="Subnets" { ul { @for subnet in &row.subnets {
                                    li { (subnet.subnet) " in /" (subnet.prefix) }
                                } } }
                                td.number data-name="Given" { ul { @for subnet in &row.subnets { li { (subnet.used) } } } }
                                td.number data-name="Room for" { ul { @for subnet in &row.subnets { li { (subnet.total) } } } }
                            }
                        }
                    }
                }
                (truncation_note(rows.len(), "/v1/overlays"))
            }
        }
    }
}

/// The nodes: those with problems first.
pub(super) fn nodes(cluster: &Cluster) -> Markup {
    let mut nodes = cluster.statuses();
    let is_well =
        |node: &NodeStatus| node.condition == NodeCondition::Current && node.problems.is_empty();
    nodes.sort_by_key(is_well);
    let revision = cluster.revision();
    html! {
        section #nodes {
            h2 {
                "Nodes " small {
                    (nodes.len())
                    @if let Some(revision) = revision { ", revision " span #revision { (revision) } }
                }
            }
            @if nodes.is_empty() { p.soft { "None is known." } } @else {
                table {
                    thead { tr {
                        th { "Node" } th { "Address" } th { "State" } th { "Applied" } th { "Reported" } th.number { "Endpoints" } th { "Problems" }
                    } }
                    tbody {
                        @for node in nodes.iter().take(MAX_ROWS) { (row(node)) }
                    }
                }
                (truncation_note(nodes.len(), "/v1/nodes"))
            }
        }
    }
}

fn row(node: &NodeStatus) -> Markup {
    use NodeCondition as Condition;
    let condition = node.condition;
    html! {
        tr data-node=(node.name) {
            td data-name="Node" { (node.name) }
            td data-name="Address" { (node.address.map_or("–".to_owned(), |address| address.to_string())) }
            td data-name="State" { div {
                span.tag.good[condition == Condition::Current]
                    .warn[matches!(condition, Condition::Behind | Condition::Unseen)]
                    .bad[matches!(condition, Condition::Disconnected | Condition::Refused)] { (condition) }
            } }
            td data-name="Applied" { (node.applied.map_or("–".to_owned(), |applied| applied.to_string())) }
            td data-name="Reported" {
                (node.reported_seconds.map_or("–".to_owned(), |seconds| format!("{} ago", duration_text(seconds))))
            }
            td.number data-name="Endpoints" {
                (node.endpoints.map_or("–".to_owned(), |count| count.to_string()))
            }
            td data-name="Problems" { ul { @for problem in &node.problems { li { (problem) } } } }
        }
    }
}
