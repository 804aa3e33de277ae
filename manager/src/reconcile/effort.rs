//! What has been done so far, counted: what a bench and tests tell linear from worse by.

use std::sync::atomic::{AtomicU64, Ordering};

/// How much has been done since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Effort {
    /// Lists that were taken over from Mesos, Marathon and the VNC API.
    pub lists: [u64; 3],
    /// Those of them that were taken into account by the last look at everything.
    pub seen: [u64; 3],
    /// Looks at everything.
    pub looks: u64,
    /// Changes of Mesos that were taken over.
    pub changes: u64,
    /// Containers that were decided on, by looks at everything and one by one.
    pub decided: u64,
    /// Stores that were copied as a whole because somebody held a snapshot of it.
    pub copied: u64,
}

/// The sources, as places in [`Effort::lists`].
#[derive(Clone, Copy, Debug)]
pub(super) enum Source {
    Mesos,
    Marathon,
    Contrail,
}

#[derive(Debug, Default)]
pub(super) struct Counters {
    lists: [AtomicU64; 3],
    seen: [AtomicU64; 3],
    looks: AtomicU64,
    changes: AtomicU64,
    decided: AtomicU64,
}

impl Counters {
    pub(super) fn listed(&self, source: Source) {
        self.lists[source as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn changed(&self) {
        self.changes.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn decided(&self, containers: usize) {
        self.decided.fetch_add(containers as u64, Ordering::Relaxed);
    }

    /// What a look at everything that begins now takes into account.
    pub(super) fn begin(&self) -> [u64; 3] {
        self.lists.each_ref().map(|one| one.load(Ordering::Relaxed))
    }

    /// A look at everything that began with that is at its end.
    pub(super) fn looked(&self, lists: [u64; 3]) {
        for (seen, lists) in self.seen.iter().zip(lists) {
            seen.store(lists, Ordering::Relaxed);
        }
        self.looks.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn effort(&self, copied: u64) -> Effort {
        let counts =
            |counts: &[AtomicU64; 3]| counts.each_ref().map(|one| one.load(Ordering::Relaxed));
        Effort {
            lists: counts(&self.lists),
            seen: counts(&self.seen),
            looks: self.looks.load(Ordering::Relaxed),
            changes: self.changes.load(Ordering::Relaxed),
            decided: self.decided.load(Ordering::Relaxed),
            copied,
        }
    }
}
