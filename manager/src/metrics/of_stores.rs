//! What is measured of the stores and the queue.

use std::fmt;

use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Unit;

use crate::introspect::rows::{SourceRow, sources};
use crate::reconcile::Reconciler;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Of {
    source: &'static str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Connected {
    connected: &'static str,
}

/// What a metric says of a source.
type Look = fn(&SourceRow) -> Option<i64>;

fn whole(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// All of it, as it is now.
pub(super) fn encode(
    reconciler: &Reconciler,
    encoder: &mut DescriptorEncoder<'_>,
) -> Result<(), fmt::Error> {
    encode_sources(&sources(reconciler), encoder)?;
    let stores = reconciler.stores();
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
    let (machines, routers, orphans) = stores
        .contrail
        .read(|view| (view.machines.len(), view.routers.len(), view.orphans.len()));
    let (_, queued, failing) = reconciler.queued(0);
    for (name, help, value) in [
        ("tasks", "Tasks that Mesos says have not ended", tasks),
        ("frameworks", "Frameworks that Mesos knows", frameworks),
        ("apps", "Apps and pods that Marathon lists", apps),
        (
            "containers_known",
            "Containers of ours that the VNC API has",
            machines,
        ),
        (
            "virtual_routers_known",
            "Virtual-routers that the VNC API has",
            routers,
        ),
        (
            "orphans",
            "Objects of ours in the VNC API that belong to nothing",
            orphans,
        ),
        (
            "queue_length",
            "Containers and orphaned objects that wait to be looked at, or are being corrected",
            queued,
        ),
        (
            "queue_failing",
            "Those of the queue that have failed, and wait to be tried again",
            failing,
        ),
    ] {
        let gauge = ConstGauge::new(whole(value));
        gauge.encode(encoder.encode_descriptor(name, help, None, MetricType::Gauge)?)?;
    }
    let help = "Agents that Mesos knows";
    let mut family = encoder.encode_descriptor("agents", help, None, MetricType::Gauge)?;
    for (connected, count) in [("true", connected), ("false", agents - connected)] {
        let gauge = ConstGauge::new(whole(count));
        gauge.encode(family.encode_family(&Connected { connected })?)?;
    }
    Ok(())
}

fn encode_sources(
    sources: &[SourceRow],
    encoder: &mut DescriptorEncoder<'_>,
) -> Result<(), fmt::Error> {
    let kind = MetricType::Gauge;
    let looks: [(_, _, _, Look); 3] = [
        (
            "source_fresh",
            "Whether the source is followed, and has listed everything since",
            None,
            |row| Some(i64::from(row.fresh)),
        ),
        (
            "source_trusted",
            "Whether all that the source said lately was whole and undoubted",
            None,
            |row| Some(i64::from(row.trusted_seconds.is_some())),
        ),
        (
            "source_age",
            "How long ago the source last listed everything; none before it has",
            Some(Unit::Seconds),
            |row| i64::try_from(row.age_seconds?).ok(),
        ),
    ];
    for (name, help, unit, look) in looks {
        let mut family = encoder.encode_descriptor(name, help, unit.as_ref(), kind)?;
        for row in sources {
            if let Some(value) = look(row) {
                let of = Of { source: row.source };
                ConstGauge::new(value).encode(family.encode_family(&of)?)?;
            }
        }
    }
    Ok(())
}
