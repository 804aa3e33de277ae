//! The metrics of the sources, the stores and the queue.

use std::fmt;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Unit;

use super::encode_gauge;
use crate::reconcile::Reconciler;
use crate::stores::status::SourceStatus;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct SourceLabels {
    source: &'static str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct AgentLabels {
    connected: &'static str,
}

/// Reads the stores and the queue of the reconciler.
#[derive(Debug)]
pub(super) struct StoreCollector(pub Arc<Reconciler>);

impl Collector for StoreCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let stores = self.0.stores();
        encode_sources(
            &stores.source_status(self.0.follows_marathon()),
            &mut encoder,
        )?;
        let (tasks, frameworks, connected, agents) = stores.mesos.read(|view| {
            let connected = view.agents().filter(|agent| agent.active).count();
            (
                view.tasks().len(),
                view.frameworks().len(),
                connected,
                view.agents().len(),
            )
        });
        let apps = stores.marathon.read(|view| view.specs().len());
        let (containers, routers, orphans) = stores
            .contrail
            .read(|view| (view.vms.len(), view.routers.len(), view.orphans.len()));
        let (_, queued, failing) = self.0.queued(0);
        for (name, help, value) in [
            ("tasks", "Tasks in Mesos that have not ended.", tasks),
            ("frameworks", "Frameworks in Mesos.", frameworks),
            ("apps", "Apps and pods in Marathon.", apps),
            (
                "containers_known",
                "Containers of this cluster in the VNC API.",
                containers,
            ),
            (
                "virtual_routers_known",
                "Virtual-routers in the VNC API.",
                routers,
            ),
            (
                "orphans",
                "Objects of this cluster in the VNC API that belong to no container.",
                orphans,
            ),
            (
                "queue_length",
                "Containers and orphans that wait in the queue or are being reconciled.",
                queued,
            ),
            (
                "queue_failing",
                "Containers and orphans in the queue that have failed and wait for a retry.",
                failing,
            ),
        ] {
            encode_gauge(&mut encoder, name, help, value as u64)?;
        }
        let mut family =
            encoder.encode_descriptor("agents", "Agents in Mesos.", None, MetricType::Gauge)?;
        for (label, count) in [("true", connected), ("false", agents - connected)] {
            let labels = AgentLabels { connected: label };
            ConstGauge::new(count as u64).encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }
}

fn encode_sources(
    sources: &[SourceStatus],
    encoder: &mut DescriptorEncoder<'_>,
) -> Result<(), fmt::Error> {
    type ReadValue = fn(&SourceStatus) -> Option<u64>;
    let metrics: [(_, _, _, ReadValue); 3] = [
        (
            "source_fresh",
            "Whether the source is connected and has listed everything since.",
            None,
            |source| Some(u64::from(source.fresh)),
        ),
        (
            "source_trusted",
            "Whether the last list was complete and did not shrink sharply.",
            None,
            |source| Some(u64::from(source.trusted_seconds.is_some())),
        ),
        (
            "source_age",
            "Time since the source last listed everything; absent before the first list.",
            Some(Unit::Seconds),
            |source| source.age_seconds,
        ),
    ];
    for (name, help, unit, read) in metrics {
        let mut family = encoder.encode_descriptor(name, help, unit.as_ref(), MetricType::Gauge)?;
        for source in sources {
            if let Some(value) = read(source) {
                let labels = SourceLabels {
                    source: source.source,
                };
                ConstGauge::new(value).encode(family.encode_family(&labels)?)?;
            }
        }
    }
    Ok(())
}
