//! Containers that could not be made, and of which something may be left.
//!
//! They are removed in the background, unless the agent asks for them again first. What is
//! remembered here dies with the manager, and is forgotten when another one may lead: the agent's
//! own clean-up then finds what is left.

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

/// Longest pause between two tries.
const LONGEST_PAUSE: Duration = Duration::from_mins(1);

/// What may be removed of a container that could not be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Undo {
    /// Nothing: it was complete before, and may be in use.
    Never,
    /// All, unless it is complete: who knows who completed it.
    Unlinked,
    /// All: the very request that failed began it.
    Always,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    undo: Undo,
    /// The term in which that was known; in another one somebody may have completed it.
    term: Option<u64>,
    due: Instant,
    pause: Duration,
}

/// What is to be undone.
#[derive(Debug)]
pub(super) struct Undos {
    entries: Mutex<HashMap<Uuid, Entry>>,
    changed: Notify,
    first: Duration,
}

impl Undos {
    pub(super) fn new(first: Duration) -> Self {
        Self {
            entries: Mutex::default(),
            changed: Notify::new(),
            first,
        }
    }

    fn entries(&self) -> MutexGuard<'_, HashMap<Uuid, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn later(&self, machine: Uuid, undo: Undo, term: Option<u64>) {
        let mut entries = self.entries();
        let pause = entries
            .get(&machine)
            .map_or(self.first, |entry| (entry.pause * 2).min(LONGEST_PAUSE));
        let due = Instant::now() + pause;
        let entry = Entry {
            undo,
            term,
            due,
            pause,
        };
        entries.insert(machine, entry);
        drop(entries);
        self.changed.notify_one();
    }

    pub(super) fn forget(&self, machine: Uuid) {
        self.entries().remove(&machine);
    }

    fn entry(&self, machine: Uuid) -> Option<Entry> {
        self.entries().get(&machine).copied()
    }

    fn due(&self) -> Vec<Uuid> {
        let now = Instant::now();
        let entries = self.entries();
        let due = entries.iter().filter(|(_, entry)| entry.due <= now);
        due.map(|(machine, _)| *machine).collect()
    }

    fn next(&self) -> Option<Instant> {
        self.entries().values().map(|entry| entry.due).min()
    }
}

impl Containers {
    /// How many containers are left to be removed because they could not be made.
    #[must_use]
    pub fn unfinished(&self) -> usize {
        self.undos.entries().len()
    }

    /// Removes what is left of containers that could not be made, as long as it is polled.
    pub async fn tidy(&self) {
        loop {
            let changed = self.undos.changed.notified();
            match self.undos.next() {
                None => changed.await,
                Some(due) => tokio::select! {
                    () = changed => {}
                    () = sleep_until(due) => {
                        join_all(self.undos.due().into_iter().map(|machine| self.tidy_one(machine))).await;
                    }
                },
            }
        }
    }

    async fn tidy_one(&self, machine: Uuid) {
        let work = async {
            let _held = self.locks.lock(machine).await;
            // The agent may have asked again in the meantime.
            match self.undos.entry(machine) {
                Some(entry) if entry.term == self.fence.term() => {
                    self.undo(machine, entry.undo).await;
                }
                _ => self.undos.forget(machine),
            }
            Ok(())
        };
        if self.fence.hold(work).await.is_err()
            && let Some(entry) = self.undos.entry(machine)
        {
            self.undos.later(machine, entry.undo, entry.term);
        }
    }

    /// Removes what there is of a container, now or else later. Its lock is held.
    pub(super) async fn undo(&self, machine: Uuid, undo: Undo) {
        let started = Instant::now();
        let undone = self.try_undo(machine, undo).await;
        let elapsed = started.elapsed();
        let outcome = match &undone {
            Ok(false) => {
                self.undos.forget(machine);
                return;
            }
            Ok(true) => {
                log::info!(machine:%, elapsed:?; "what was made of a container is undone");
                self.undos.forget(machine);
                (Action::Deleted, "what was made is undone".to_owned())
            }
            Err(error) if error.is_transient() => {
                log::warn!(machine:%, elapsed:?, error:%; "cannot undo yet what was made of a container");
                self.undos.later(machine, undo, self.fence.term());
                (Action::Failed, format!("cannot undo it yet: {error}"))
            }
            Err(error) => {
                log::error!(machine:%, elapsed:?, error:%; "cannot undo what was made of a container");
                self.undos.forget(machine);
                (Action::Failed, format!("cannot undo it: {error}"))
            }
        };
        let outcome = (outcome.0, outcome.1.as_str());
        self.history
            .record(machine, None, Actor::Rollback, elapsed, outcome);
    }

    /// Says whether there was anything.
    async fn try_undo(&self, machine: Uuid, undo: Undo) -> Result<bool, ManagerError> {
        let Some(state) = self.state(machine).await? else {
            return Ok(false);
        };
        let ours = self.is_ours(&state.machine.common.annotations);
        if !ours || undo == Undo::Never || (undo == Undo::Unlinked && state.is_linked()) {
            return Ok(false);
        }
        self.dismantle(machine, &state).await?;
        Ok(true)
    }
}
