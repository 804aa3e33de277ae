//! A work queue: each key is queued once, is handled by one worker at a time, and is retried after a
//! growing delay when it fails.

use std::collections::{BTreeSet, HashMap};
use std::hash::Hash;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use contrail_mesos_api::backoff::Backoff;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

const MIN_RETRY_DELAY: Duration = Duration::from_secs(1);
const MAX_RETRY_DELAY: Duration = Duration::from_mins(5);
/// From this number of failures on, the delay is the longest.
const MAX_COUNTED_FAILURES: u32 = 10;

#[derive(Debug)]
struct Entry {
    /// When it is due; `None` while a worker handles it.
    due: Option<Instant>,
    /// When it was pushed again while a worker handles it.
    pushed_again: Option<Instant>,
    failures: u32,
    /// When it was first pushed since it was last done.
    since: Instant,
    /// The last error.
    error: Option<Box<str>>,
}

/// An entry of the queue, to be shown.
#[derive(Clone, Debug)]
pub(crate) struct QueueEntry<K> {
    pub key: K,
    /// When it was first pushed since it was last done.
    pub since: Instant,
    /// When it is due; `None` while a worker handles it.
    pub due: Option<Instant>,
    pub failures: u32,
    /// The last error.
    pub error: Option<Box<str>>,
}

#[derive(Debug)]
struct QueueState<K> {
    entries: HashMap<K, Entry>,
    due: BTreeSet<(Instant, K)>,
}

/// The queue.
#[derive(Debug)]
pub(super) struct WorkQueue<K> {
    state: Mutex<QueueState<K>>,
    changed: Notify,
}

impl<K: Copy + Eq + Ord + Hash> WorkQueue<K> {
    pub(super) fn new() -> Self {
        Self {
            state: Mutex::new(QueueState {
                entries: HashMap::new(),
                due: BTreeSet::new(),
            }),
            changed: Notify::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, QueueState<K>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues a key. One that waits for a retry is not handled any sooner.
    pub(super) fn push(&self, key: K) {
        self.push_since(key, Instant::now());
    }

    /// Queues a key because of an event at `since`.
    pub(super) fn push_since(&self, key: K, since: Instant) {
        let mut state = self.lock();
        if let Some(entry) = state.entries.get_mut(&key) {
            if entry.due.is_none() {
                entry.pushed_again.get_or_insert(since);
            }
            return;
        }
        let now = Instant::now();
        state.entries.insert(
            key,
            Entry {
                due: Some(now),
                pushed_again: None,
                failures: 0,
                since,
                error: None,
            },
        );
        state.due.insert((now, key));
        drop(state);
        self.changed.notify_one();
    }

    /// A key that is due, for the caller alone until [`WorkQueue::done`]; otherwise when one is due.
    fn take(&self) -> Result<K, Option<Instant>> {
        let mut state = self.lock();
        let Some((due, key)) = state.due.first().copied() else {
            return Err(None);
        };
        if due > Instant::now() {
            return Err(Some(due));
        }
        state.due.remove(&(due, key));
        if let Some(entry) = state.entries.get_mut(&key) {
            entry.due = None;
        }
        if !state.due.is_empty() {
            // A push wakes one worker, which wakes the next one if there is more.
            self.changed.notify_one();
        }
        Ok(key)
    }

    /// Waits for a key that is due.
    pub(super) async fn next(&self) -> K {
        loop {
            let changed = self.changed.notified();
            match self.take() {
                Ok(key) => return key,
                Err(None) => changed.await,
                Err(Some(due)) => tokio::select! {
                    () = changed => {}
                    () = sleep_until(due) => {}
                },
            }
        }
    }

    /// A key that is due now.
    #[cfg(test)]
    pub(super) fn try_next(&self) -> Option<K> {
        self.take().ok()
    }

    /// The caller has handled the key. After an error, returns the delay before the retry.
    pub(super) fn done(&self, key: K, error: Option<&str>) -> Option<Duration> {
        let mut state = self.lock();
        let entry = state.entries.get_mut(&key)?;
        let delay = if error.is_some() {
            entry.failures = (entry.failures + 1).min(MAX_COUNTED_FAILURES);
            retry_delay(entry.failures)
        } else if let Some(pushed) = entry.pushed_again {
            entry.failures = 0;
            entry.since = pushed;
            Duration::ZERO
        } else {
            state.entries.remove(&key);
            return None;
        };
        let due = Instant::now() + delay;
        entry.due = Some(due);
        entry.pushed_again = None;
        entry.error = error.map(Into::into);
        state.due.insert((due, key));
        drop(state);
        self.changed.notify_one();
        error.map(|_| delay)
    }

    /// When a key was first pushed since it was last done.
    pub(super) fn since(&self, key: K) -> Option<Instant> {
        Some(self.lock().entries.get(&key)?.since)
    }

    /// The entries that have failed, then those that wait longest: at most `limit` of them; how
    /// many entries there are, and how many of all have failed.
    pub(super) fn waiting(&self, limit: usize) -> (Vec<QueueEntry<K>>, usize, usize) {
        let state = self.lock();
        let mut order: Vec<(bool, Instant, K)> = state
            .entries
            .iter()
            .map(|(key, entry)| (entry.error.is_none(), entry.since, *key))
            .collect();
        let failing = order.iter().filter(|(is_well, ..)| !is_well).count();
        if order.len() > limit {
            order.select_nth_unstable(limit);
            order.truncate(limit);
        }
        order.sort_unstable();
        let entries = order
            .into_iter()
            .filter_map(|(_, since, key)| {
                let entry = state.entries.get(&key)?;
                Some(QueueEntry {
                    key,
                    since,
                    due: entry.due,
                    failures: entry.failures,
                    error: entry.error.clone(),
                })
            })
            .collect();
        (entries, state.entries.len(), failing)
    }

    /// The number of entries.
    pub(super) fn len(&self) -> usize {
        self.lock().entries.len()
    }
}

fn retry_delay(failures: u32) -> Duration {
    let mut delays = Backoff::new(MIN_RETRY_DELAY, MAX_RETRY_DELAY).delays();
    for _ in 1..failures {
        delays.next_delay();
    }
    delays.next_delay()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn queue_key_is_queued_once_and_handled_by_one_worker() {
        let queue = WorkQueue::new();
        queue.push(1);
        queue.push(1);
        assert_eq!(queue.next().await, 1);
        assert_eq!(queue.try_next(), None);
        // A key that is pushed meanwhile is handled afterwards.
        queue.push(1);
        assert_eq!(queue.try_next(), None);
        assert_eq!(queue.done(1, None), None);
        assert_eq!(queue.next().await, 1);
        assert_eq!(queue.done(1, None), None);
        assert_eq!((queue.try_next(), queue.len()), (None, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn queue_retry_delay_grows_and_blocks_no_other_key() {
        let queue = WorkQueue::new();
        queue.push(1);
        let mut last = Duration::ZERO;
        for failure in 0..6 {
            assert_eq!(queue.next().await, 1);
            let pause = queue.done(1, Some("full")).unwrap();
            // Twice as long, plus jitter.
            assert!(pause >= MIN_RETRY_DELAY * 2_u32.pow(failure), "{pause:?}");
            last = last.max(pause);
            queue.push(2);
            assert_eq!(queue.next().await, 2);
            queue.done(2, None);
            queue.push(1);
            assert_eq!(queue.try_next(), None);
        }
        for _ in 0..100 {
            assert_eq!(queue.next().await, 1);
            last = queue.done(1, Some("full")).unwrap();
        }
        assert!(last <= MAX_RETRY_DELAY * 2, "{last:?}");
        queue.next().await;
        queue.done(1, None);
        assert_eq!(queue.len(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn queue_entries_list_failures_first() {
        let queue = WorkQueue::new();
        let begun = Instant::now();
        for key in 0..5 {
            queue.push(key);
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        for _ in 0..4 {
            let key = queue.next().await;
            // Pushed again meanwhile: it waits since then only.
            queue.push(key);
            queue.done(key, (key == 3).then_some("full"));
        }
        let (waiting, length, failing) = queue.waiting(2);
        assert_eq!((length, failing), (5, 1));
        assert_eq!((waiting[0].key, waiting[0].failures), (3, 1));
        assert_eq!(waiting[0].error.as_deref(), Some("full"));
        assert_eq!(waiting[0].since, begun + Duration::from_secs(3));
        assert_eq!((waiting[1].key, waiting[1].failures), (4, 0));
        assert_eq!(queue.since(0), Some(begun + Duration::from_secs(5)));
        assert_eq!(queue.waiting(9).0.len(), 5);
    }

    #[tokio::test]
    async fn queue_wakes_many_workers_for_pushed_keys() {
        let queue = std::sync::Arc::new(WorkQueue::new());
        let workers = (0..8).map(|_| {
            let queue = queue.clone();
            tokio::spawn(async move {
                for _ in 0..100 {
                    let key = queue.next().await;
                    tokio::task::yield_now().await;
                    queue.done(key, None);
                }
            })
        });
        let workers: Vec<_> = workers.collect();
        for key in 0..800 {
            queue.push(key);
        }
        for worker in workers {
            worker.await.unwrap();
        }
        assert_eq!(queue.len(), 0);
    }
}
