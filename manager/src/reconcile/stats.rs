//! Counts of what was done, by which a benchmark and tests tell linear cost from worse.

use std::sync::atomic::{AtomicU64, Ordering};

/// What was done since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReconcileStats {
    /// Full lists applied from Mesos, Marathon and the VNC API.
    pub lists: [u64; 3],
    /// Those of `lists` that the last resync took into account.
    pub resynced_lists: [u64; 3],
    /// Completed resyncs.
    pub resyncs: u64,
    /// Events applied from Mesos.
    pub mesos_events: u64,
    /// Decisions on containers, by resyncs and from the queue.
    pub decisions: u64,
    /// Writes that copied a whole store because a snapshot of it existed.
    pub store_copies: u64,
}

/// A source, as an index of [`ReconcileStats::lists`].
#[derive(Clone, Copy, Debug)]
pub(super) enum SourceIndex {
    Mesos,
    Marathon,
    Contrail,
}

#[derive(Debug, Default)]
pub(super) struct Counters {
    lists: [AtomicU64; 3],
    resynced_lists: [AtomicU64; 3],
    resyncs: AtomicU64,
    mesos_events: AtomicU64,
    decisions: AtomicU64,
}

impl Counters {
    pub(super) fn count_list(&self, source: SourceIndex) {
        self.lists[source as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn count_mesos_event(&self) {
        self.mesos_events.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn count_decisions(&self, containers: usize) {
        self.decisions
            .fetch_add(containers as u64, Ordering::Relaxed);
    }

    /// The lists that a resync that begins now takes into account.
    pub(super) fn begin_resync(&self) -> [u64; 3] {
        load(&self.lists)
    }

    /// The resync that began with these lists is complete.
    pub(super) fn end_resync(&self, lists: [u64; 3]) {
        for (resynced, lists) in self.resynced_lists.iter().zip(lists) {
            resynced.store(lists, Ordering::Relaxed);
        }
        self.resyncs.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn stats(&self, store_copies: u64) -> ReconcileStats {
        ReconcileStats {
            lists: load(&self.lists),
            resynced_lists: load(&self.resynced_lists),
            resyncs: self.resyncs.load(Ordering::Relaxed),
            mesos_events: self.mesos_events.load(Ordering::Relaxed),
            decisions: self.decisions.load(Ordering::Relaxed),
            store_copies,
        }
    }
}

fn load(counters: &[AtomicU64; 3]) -> [u64; 3] {
    counters
        .each_ref()
        .map(|counter| counter.load(Ordering::Relaxed))
}
