//! What waits for the consumer. Whoever fills it never waits.

use std::collections::{HashSet, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::event::Key;
use super::model::Listing;
use super::update::Update;
use contrail_mesos_api::http::CallError;

/// More keys than this are not worth looking at one by one.
pub(super) const MAX_QUEUED_KEYS: usize = 1 << 16;

#[derive(Debug, Default)]
pub(super) struct CoalescingQueue {
    waiting: Mutex<Waiting>,
    filled: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    lost: Option<CallError>,
    snapshot: Option<Box<Listing>>,
    keys: VecDeque<Key>,
    known: HashSet<Key>,
}

impl CoalescingQueue {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        // Every change is complete when the lock is released.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The stream is lost. What was touched is in the next list too.
    pub(super) fn lost(&self, error: CallError) {
        let mut waiting = self.waiting();
        if let Some(listing) = &mut waiting.snapshot {
            listing.followed = false;
        }
        waiting.lost = Some(error);
        drop(waiting);
        self.filled.notify_one();
    }

    /// A list. It takes the place of an older one, and of all that was touched before it.
    pub(super) fn snapshot(&self, listing: Listing) {
        let mut waiting = self.waiting();
        waiting.snapshot = Some(Box::new(listing));
        waiting.keys.clear();
        waiting.known.clear();
        drop(waiting);
        self.filled.notify_one();
    }

    /// False if there are too many keys already: then a list is due.
    pub(super) fn touch(&self, key: Key) -> bool {
        let mut waiting = self.waiting();
        if waiting.known.len() >= MAX_QUEUED_KEYS {
            return waiting.known.contains(&key);
        }
        if waiting.known.insert(key.clone()) {
            waiting.keys.push_back(key);
        }
        drop(waiting);
        self.filled.notify_one();
        true
    }

    /// The next update. Cancel-safe: it is taken when it is returned.
    pub(super) async fn next(&self) -> Update {
        loop {
            if let Some(update) = self.waiting().take() {
                return update;
            }
            self.filled.notified().await;
        }
    }
}

impl Waiting {
    fn take(&mut self) -> Option<Update> {
        if let Some(error) = self.lost.take() {
            return Some(Update::Lost(error));
        }
        if let Some(listing) = self.snapshot.take() {
            return Some(Update::Snapshot(listing));
        }
        let key = self.keys.pop_front()?;
        self.known.remove(&key);
        Some(Update::Changed(key))
    }
}
