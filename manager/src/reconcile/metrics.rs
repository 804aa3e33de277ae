//! Metrics of the reconciler.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabels {
    outcome: &'static str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct UpdateLabels {
    source: &'static str,
    update: &'static str,
}

/// The metrics.
#[derive(Debug)]
pub(crate) struct ReconcileMetrics {
    outcomes: Family<OutcomeLabels, Counter>,
    updates: Family<UpdateLabels, Counter>,
    /// Time of a full listing of the VNC API.
    pub listing: Histogram,
    /// Time of a resync.
    pub resync: Histogram,
    /// Time from an event to the end of the write that it caused.
    pub write_lag: Histogram,
}

impl Default for ReconcileMetrics {
    fn default() -> Self {
        let listing_buckets = [0.01, 0.05, 0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 15.0, 30.0, 60.0];
        let resync_buckets = [
            0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
        ];
        let lag_buckets = [
            0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0,
        ];
        Self {
            outcomes: Family::default(),
            updates: Family::default(),
            listing: Histogram::new(listing_buckets),
            resync: Histogram::new(resync_buckets),
            write_lag: Histogram::new(lag_buckets),
        }
    }
}

impl ReconcileMetrics {
    /// Counts a container or orphan that was handled.
    pub(super) fn count_outcome(&self, outcome: &'static str) {
        self.outcomes
            .get_or_create(&OutcomeLabels { outcome })
            .inc();
    }

    /// Counts a list, event or loss of a source.
    pub(super) fn count_update(&self, source: &'static str, update: &'static str) {
        self.updates
            .get_or_create(&UpdateLabels { source, update })
            .inc();
    }

    /// Registers all of them.
    pub(crate) fn register(&self, registry: &mut Registry) {
        registry.register(
            "reconciled",
            "Reconciled containers and orphans, by outcome",
            self.outcomes.clone(),
        );
        registry.register(
            "source_updates",
            "Full lists, events and connection losses of the sources",
            self.updates.clone(),
        );
        for (name, help, histogram) in [
            (
                "contrail_reading",
                "Duration of reading everything from the VNC API",
                &self.listing,
            ),
            (
                "comparison",
                "Duration of comparing everything with the desired state",
                &self.resync,
            ),
            (
                "write_lag",
                "Time from an event, or a list that shows a difference, to the end of the write",
                &self.write_lag,
            ),
        ] {
            registry.register_with_unit(name, help, Unit::Seconds, histogram.clone());
        }
    }
}
