//! The metrics of the nodes and overlays.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use contrail_mesos_api::cluster::{NodeCondition, NodeStatus, Revision};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::ConstGauge;

use super::encode_gauge;
use crate::cluster::Cluster;

/// For how long after its report a node counts as one that reports.
const RECENT_REPORT_SECONDS: u64 = 300;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ConditionLabels {
    condition: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct SubnetLabels {
    overlay: String,
    subnet: String,
}

/// Reads what is published, and the reports of the nodes.
#[derive(Debug)]
pub(super) struct ClusterCollector(pub Arc<Cluster>);

/// How many changes the slowest connected node has not applied yet.
fn largest_lag(nodes: &[NodeStatus], current: Revision) -> u64 {
    let behind = nodes
        .iter()
        .filter(|node| node.condition == NodeCondition::Behind);
    let lag = behind.map(|node| match node.applied {
        Some(applied) if applied.term == current.term => {
            current.counter.saturating_sub(applied.counter)
        }
        // It has applied nothing of this term, not even the snapshot that the term began with.
        _ => current.counter + 1,
    });
    lag.max().unwrap_or_default()
}

/// How many different values the nodes have that have reported lately. Without a value they are left out.
fn distinct<'a>(nodes: &'a [NodeStatus], value: impl Fn(&'a NodeStatus) -> &'a str) -> u64 {
    let reporting = nodes
        .iter()
        .filter(|node| (node.reported_seconds).is_some_and(|age| age < RECENT_REPORT_SECONDS));
    let values: BTreeSet<&str> = reporting
        .map(value)
        .filter(|value| !value.is_empty())
        .collect();
    values.len() as u64
}

impl Collector for ClusterCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let nodes = self.0.statuses();
        let current = self.0.revision().unwrap_or_default();
        let mut counts: BTreeMap<NodeCondition, u64> =
            NodeCondition::ALL.map(|condition| (condition, 0)).into();
        for node in &nodes {
            *counts.entry(node.condition).or_default() += 1;
        }
        let mut family = encoder.encode_descriptor(
            "nodes",
            "Nodes, by whether they are connected and have applied the current revision.",
            None,
            MetricType::Gauge,
        )?;
        for (condition, count) in counts {
            let labels = ConditionLabels {
                condition: condition.code(),
            };
            ConstGauge::new(count).encode(family.encode_family(&labels)?)?;
        }
        let endpoints = self.0.endpoint_counts();
        let with_problems = nodes.iter().filter(|node| !node.problems.is_empty());
        for (name, help, value) in [
            (
                "nodes_with_problems",
                "Nodes that report a problem, or that could not be given everything.",
                with_problems.count() as u64,
            ),
            (
                "nodes_versions",
                "Different versions of node daemons that report.",
                distinct(&nodes, |node| &node.versions.node),
            ),
            (
                "nodes_configurations",
                "Different configuration files of nodes that report.",
                distinct(&nodes, |node| &node.configuration),
            ),
            (
                "nodes_lag",
                "How many changes the slowest connected node has not applied yet.",
                largest_lag(&nodes, current),
            ),
            (
                "revision_term",
                "The term of the published revision, or 0.",
                current.term,
            ),
            (
                "revision_counter",
                "The counter of the published revision: the changes since its term began.",
                current.counter,
            ),
            (
                "endpoints",
                "Published containers on overlays that isolate groups.",
                endpoints.published as u64,
            ),
            (
                "endpoints_refused",
                "Containers that nodes have reported, but that are not published.",
                endpoints.refused as u64,
            ),
            (
                "endpoints_nodes",
                "Nodes that have reported their containers since the term began.",
                endpoints.complete_nodes as u64,
            ),
            (
                "security_groups",
                "Published security groups.",
                self.0.security_groups().len() as u64,
            ),
        ] {
            encode_gauge(&mut encoder, name, help, value)?;
        }
        self.encode_usage(&mut encoder)
    }
}

impl ClusterCollector {
    fn encode_usage(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let (overlays, endpoints) = self.0.usage();
        let overlays = overlays.iter().map(|usage| {
            let labels = SubnetLabels {
                overlay: usage.overlay.clone(),
                subnet: usage.subnet.to_string(),
            };
            (labels, usage.used, usage.free)
        });
        let subnets: Vec<_> = overlays.collect();
        let endpoints: Vec<_> = endpoints
            .iter()
            .map(|usage| (usage.subnet.to_string(), usage.used, usage.free))
            .collect();
        for (name, help, is_used) in [
            (
                "overlay_subnets_used",
                "Subnets of an overlay that nodes have.",
                true,
            ),
            (
                "overlay_subnets_free",
                "Subnets of an overlay that no node has.",
                false,
            ),
        ] {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for (labels, used, free) in &subnets {
                let value = if is_used { *used } else { *free };
                ConstGauge::new(value).encode(family.encode_family(labels)?)?;
            }
        }
        for (name, help, is_used) in [
            (
                "overlay_endpoints_used",
                "Addresses of tunnel endpoints that nodes have.",
                true,
            ),
            (
                "overlay_endpoints_free",
                "Addresses of tunnel endpoints that no node has.",
                false,
            ),
        ] {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for (subnet, used, free) in &endpoints {
                let value = if is_used { *used } else { *free };
                let labels = [("subnet", subnet.as_str())];
                ConstGauge::new(value).encode(family.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn values_of_nodes_that_report_are_counted_once() {
        let node = |name: &str, version: &str, age: Option<u64>| -> NodeStatus {
            let node = json!({"name": name, "address": null, "condition": "current", "applied": null,
                "reported_seconds": age, "versions": {"node": version}});
            serde_json::from_value(node).unwrap()
        };
        let mut nodes = vec![
            node("a", "1.0.0", Some(0)),
            node("b", "1.0.0", Some(RECENT_REPORT_SECONDS - 1)),
            // One that is gone, one that has not reported to this leader, and one without a version.
            node("c", "0.9.0", Some(RECENT_REPORT_SECONDS)),
            node("d", "0.8.0", None),
            node("e", "", Some(0)),
        ];
        let versions = |nodes: &[NodeStatus]| distinct(nodes, |node| &node.versions.node);
        assert_eq!(versions(&nodes), 1);
        nodes.push(node("f", "1.1.0", Some(5)));
        assert_eq!(versions(&nodes), 2);
        assert_eq!(versions(&[]), 0);
    }
}
