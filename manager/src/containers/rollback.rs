//! Deletes what is left of containers that could not be created.
//!
//! It runs in the background, unless the agent requests the container again first. The queue dies
//! with the manager, and an entry is dropped when another manager may have led since: the agent's
//! own clean-up then deletes what is left.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::future::join_all;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};
use uuid::Uuid;

use super::Containers;
use crate::error::ManagerError;
use crate::history::{Action, Actor};
use crate::logging::millis;

const MAX_RETRY_DELAY: Duration = Duration::from_mins(1);

/// What may be deleted of a container that could not be created.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rollback {
    /// Nothing: it was complete before, and may be in use.
    Never,
    /// Everything, unless it is complete: another request may have completed it.
    IfUnlinked,
    /// Everything: the request that failed began it.
    Always,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    rollback: Rollback,
    /// The term in which it failed; in another one another manager may have completed it.
    term: Option<u64>,
    due: Instant,
    delay: Duration,
}

/// The rollbacks that are still to be done.
#[derive(Debug)]
pub(super) struct RollbackQueue {
    entries: Mutex<HashMap<Uuid, Entry>>,
    changed: Notify,
    first_delay: Duration,
}

impl RollbackQueue {
    pub(super) fn new(first_delay: Duration) -> Self {
        Self {
            entries: Mutex::default(),
            changed: Notify::new(),
            first_delay,
        }
    }

    fn entries(&self) -> MutexGuard<'_, HashMap<Uuid, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Schedules a rollback, each time for the same container after a longer delay.
    pub(super) fn schedule(&self, vm: Uuid, rollback: Rollback, term: Option<u64>) {
        let mut entries = self.entries();
        let delay = entries.get(&vm).map_or(self.first_delay, |entry| {
            (entry.delay * 2).min(MAX_RETRY_DELAY)
        });
        let due = Instant::now() + delay;
        let entry = Entry {
            rollback,
            term,
            due,
            delay,
        };
        entries.insert(vm, entry);
        drop(entries);
        self.changed.notify_one();
    }

    pub(super) fn cancel(&self, vm: Uuid) {
        self.entries().remove(&vm);
    }

    fn get(&self, vm: Uuid) -> Option<Entry> {
        self.entries().get(&vm).copied()
    }

    fn due(&self) -> Vec<Uuid> {
        let now = Instant::now();
        self.entries()
            .iter()
            .filter(|(_, entry)| entry.due <= now)
            .map(|(vm, _)| *vm)
            .collect()
    }

    fn next_due(&self) -> Option<Instant> {
        self.entries().values().map(|entry| entry.due).min()
    }
}

impl Containers {
    /// The number of containers that could not be created and are not rolled back yet.
    #[must_use]
    pub fn unfinished(&self) -> usize {
        self.rollbacks.entries().len()
    }

    /// Rolls back containers that could not be created, as long as it is polled.
    pub async fn run_rollbacks(&self) {
        loop {
            let changed = self.rollbacks.changed.notified();
            match self.rollbacks.next_due() {
                None => changed.await,
                Some(due) => tokio::select! {
                    () = changed => {}
                    () = sleep_until(due) => {
                        let due = self.rollbacks.due();
                        join_all(due.into_iter().map(|vm| self.run_rollback(vm))).await;
                    }
                },
            }
        }
    }

    async fn run_rollback(&self, vm: Uuid) {
        let work = async {
            let _guard = self.locks.lock(vm).await;
            // The agent may have requested the container again meanwhile.
            match self.rollbacks.get(vm) {
                Some(entry) if entry.term == self.fence.term() => {
                    self.roll_back(vm, entry.rollback).await;
                }
                _ => self.rollbacks.cancel(vm),
            }
            Ok(())
        };
        if self.fence.run_in_term(work).await.is_err()
            && let Some(entry) = self.rollbacks.get(vm)
        {
            self.rollbacks.schedule(vm, entry.rollback, entry.term);
        }
    }

    /// Rolls a container back now, or schedules that. Its lock is held.
    pub(super) async fn roll_back(&self, vm: Uuid, rollback: Rollback) {
        let started = Instant::now();
        let result = self.try_rollback(vm, rollback).await;
        let elapsed = started.elapsed();
        let (action, description) = match result {
            Ok(false) => {
                self.rollbacks.cancel(vm);
                return;
            }
            Ok(true) => {
                log::info!(machine:% = vm, elapsed_ms = millis(elapsed); "incomplete container rolled back");
                self.rollbacks.cancel(vm);
                (Action::Deleted, "rolled back".to_owned())
            }
            Err(error) if error.is_transient() => {
                log::warn!(machine:% = vm, elapsed_ms = millis(elapsed), error:%; "cannot roll back the incomplete container; retrying");
                self.rollbacks.schedule(vm, rollback, self.fence.term());
                (Action::Failed, format!("cannot roll back yet: {error}"))
            }
            Err(error) => {
                log::error!(machine:% = vm, elapsed_ms = millis(elapsed), error:%; "cannot roll back the incomplete container");
                self.rollbacks.cancel(vm);
                (Action::Failed, format!("cannot roll back: {error}"))
            }
        };
        let outcome = (action, description.as_str());
        self.history
            .record(vm, None, Actor::Rollback, elapsed, outcome);
    }

    /// Returns whether there was anything to delete.
    async fn try_rollback(&self, vm: Uuid, rollback: Rollback) -> Result<bool, ManagerError> {
        let Some(state) = self.read_state(vm).await? else {
            return Ok(false);
        };
        let is_ours = self.is_ours(&state.vm.common.annotations);
        let is_excluded = match rollback {
            Rollback::Never => true,
            Rollback::IfUnlinked => state.is_linked(),
            Rollback::Always => false,
        };
        if !is_ours || is_excluded {
            return Ok(false);
        }
        self.delete_objects(vm, &state).await?;
        Ok(true)
    }
}
