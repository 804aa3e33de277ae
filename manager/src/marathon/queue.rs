//! A queue of updates whose producer never blocks.

use std::collections::{HashSet, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::event::Key;
use super::model::Listing;
use super::update::Update;
use contrail_mesos_api::http::CallError;

/// If more keys than this are queued, a new listing is cheaper.
pub(super) const MAX_QUEUED_KEYS: usize = 1 << 16;

#[derive(Debug, Default)]
pub(super) struct CoalescingQueue {
    state: Mutex<QueueState>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct QueueState {
    lost: Option<CallError>,
    snapshot: Option<Box<Listing>>,
    keys: VecDeque<Key>,
    queued: HashSet<Key>,
}

impl CoalescingQueue {
    fn state(&self) -> MutexGuard<'_, QueueState> {
        // The state is consistent whenever the lock is released, so poisoning is harmless.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reports that the stream is lost. Queued keys stay; the next listing covers them too.
    pub(super) fn lost(&self, error: CallError) {
        let mut state = self.state();
        if let Some(listing) = &mut state.snapshot {
            listing.followed = false;
        }
        state.lost = Some(error);
        drop(state);
        self.changed.notify_one();
    }

    /// Queues a listing. It replaces an older one and all queued keys.
    pub(super) fn snapshot(&self, listing: Listing) {
        let mut state = self.state();
        state.snapshot = Some(Box::new(listing));
        state.keys.clear();
        state.queued.clear();
        drop(state);
        self.changed.notify_one();
    }

    /// Queues a key. Returns `false` if the queue is full and a listing is needed.
    pub(super) fn push_key(&self, key: Key) -> bool {
        let mut state = self.state();
        if state.queued.len() >= MAX_QUEUED_KEYS {
            return state.queued.contains(&key);
        }
        if state.queued.insert(key.clone()) {
            state.keys.push_back(key);
        }
        drop(state);
        self.changed.notify_one();
        true
    }

    /// The next update. Cancel-safe: an update is removed only when it is returned.
    pub(super) async fn next(&self) -> Update {
        loop {
            if let Some(update) = self.state().take() {
                return update;
            }
            self.changed.notified().await;
        }
    }
}

impl QueueState {
    fn take(&mut self) -> Option<Update> {
        if let Some(error) = self.lost.take() {
            return Some(Update::Lost(error));
        }
        if let Some(listing) = self.snapshot.take() {
            return Some(Update::Snapshot(listing));
        }
        let key = self.keys.pop_front()?;
        self.queued.remove(&key);
        Some(Update::Changed(key))
    }
}
