//! What the reconcile has done, for those who measure.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

/// What became of something that was looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    outcome: &'static str,
}

/// What a source said.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Said {
    source: &'static str,
    update: &'static str,
}

/// The counts.
#[derive(Debug)]
pub(crate) struct Tally {
    outcomes: Family<Outcome, Counter>,
    updates: Family<Said, Counter>,
    /// Duration of reading everything from the VNC API.
    pub reading: Histogram,
    /// Duration of comparing everything with the desired state.
    pub comparison: Histogram,
    /// From an event to the end of what was written because of it.
    pub lag: Histogram,
}

impl Default for Tally {
    fn default() -> Self {
        let long = [0.01, 0.05, 0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 15.0, 30.0, 60.0];
        let short = [
            0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
        ];
        let lags = [
            0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0,
        ];
        Self {
            outcomes: Family::default(),
            updates: Family::default(),
            reading: Histogram::new(long),
            comparison: Histogram::new(short),
            lag: Histogram::new(lags),
        }
    }
}

impl Tally {
    /// One thing was looked at.
    pub(super) fn outcome(&self, outcome: &'static str) {
        self.outcomes.get_or_create(&Outcome { outcome }).inc();
    }

    /// A source has said something.
    pub(super) fn update(&self, source: &'static str, update: &'static str) {
        self.updates.get_or_create(&Said { source, update }).inc();
    }

    /// Has all of it shown.
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
                &self.reading,
            ),
            (
                "comparison",
                "Duration of comparing everything with the desired state",
                &self.comparison,
            ),
            (
                "write_lag",
                "Time from an event, or a list that shows a difference, to the end of the write",
                &self.lag,
            ),
        ] {
            registry.register_with_unit(name, help, Unit::Seconds, histogram.clone());
        }
    }
}
