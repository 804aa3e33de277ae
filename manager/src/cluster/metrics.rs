//! Metrics of the watches, and of what nodes report of their endpoints.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// Why a watch ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WatchEnd {
    /// Its client closed the connection, or took nothing for too long.
    Disconnected,
    /// Its client was so slow that its position left the history.
    TooSlow,
    /// The term ended.
    TermEnded,
    /// The manager stops.
    Stopped,
}

impl WatchEnd {
    fn code(self) -> &'static str {
        match self {
            Self::Disconnected => "disconnected",
            Self::TooSlow => "too_slow",
            Self::TermEnded => "term_ended",
            Self::Stopped => "stopped",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct BeginLabels {
    begin: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct EndLabels {
    reason: &'static str,
}

/// The metrics of all watches. Clones share the values.
#[derive(Clone, Debug, Default)]
pub(crate) struct WatchMetrics {
    open: Gauge,
    begun: Family<BeginLabels, Counter>,
    ended: Family<EndLabels, Counter>,
    items: Counter,
}

impl WatchMetrics {
    pub(crate) fn register(&self, registry: &mut Registry) {
        registry.register("watches", "Open watches of nodes", self.open.clone());
        registry.register(
            "watches_begun",
            "Watches that began, with a snapshot or after a known revision",
            self.begun.clone(),
        );
        registry.register(
            "watches_ended",
            "Watches that ended, by reason",
            self.ended.clone(),
        );
        registry.register(
            "watch_items",
            "Items sent to watches, except heartbeats",
            self.items.clone(),
        );
    }

    pub(super) fn begin(&self, is_resumed: bool) {
        let begin = if is_resumed { "resumed" } else { "snapshot" };
        self.begun.get_or_create(&BeginLabels { begin }).inc();
        self.open.inc();
    }

    pub(super) fn end(&self, reason: WatchEnd) {
        let reason = reason.code();
        self.ended.get_or_create(&EndLabels { reason }).inc();
        self.open.dec();
    }

    pub(super) fn count_items(&self, items: usize) {
        self.items.inc_by(items as u64);
    }

    #[cfg(test)]
    pub(crate) fn items(&self) -> u64 {
        self.items.get()
    }

    #[cfg(test)]
    pub(super) fn ended(&self, reason: WatchEnd) -> u64 {
        let reason = reason.code();
        self.ended.get_or_create(&EndLabels { reason }).get()
    }

    #[cfg(test)]
    pub(super) fn open(&self) -> i64 {
        self.open.get()
    }
}

/// The metrics of the nodes' endpoints. Clones share the values.
#[derive(Clone, Debug, Default)]
pub(crate) struct EndpointMetrics {
    reports: Counter,
    changes: Counter,
}

impl EndpointMetrics {
    pub(crate) fn register(&self, registry: &mut Registry) {
        registry.register(
            "endpoints_reports",
            "Reports of nodes with all their containers on overlays that isolate groups",
            self.reports.clone(),
        );
        registry.register(
            "endpoints_changes",
            "Containers on overlays that isolate groups that were published, changed or withdrawn",
            self.changes.clone(),
        );
    }

    pub(super) fn count_report(&self) {
        self.reports.inc();
    }

    pub(super) fn count_changes(&self, changes: usize) {
        self.changes.inc_by(changes as u64);
    }
}
