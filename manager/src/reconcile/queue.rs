//! What is to be looked at, each once at a time, and what failed again after a pause that grows.

use std::collections::{BTreeSet, HashMap};
use std::hash::Hash;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use backon::{BackoffBuilder as _, ExponentialBuilder};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

/// Pauses after failures grow from the one to the other.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_mins(5));
/// So many failures on, a pause is the longest.
const MOST_FAILURES: u32 = 10;

#[derive(Debug)]
struct Entry {
    /// When it is due; none while somebody works on it.
    due: Option<Instant>,
    /// Since when it has been asked for while somebody worked on it.
    again: Option<Instant>,
    failures: u32,
    /// Since when it has been asked for, and not been done.
    since: Instant,
    /// Why it failed last.
    error: Option<Box<str>>,
}

/// Something that is on the queue, as people see it.
#[derive(Clone, Debug)]
pub(crate) struct Waiting<K> {
    pub key: K,
    /// Since when.
    pub since: Instant,
    /// When it is due; none while somebody works on it.
    pub due: Option<Instant>,
    /// How often it has failed, and why last.
    pub failures: u32,
    pub error: Option<Box<str>>,
}

#[derive(Debug)]
struct Inner<K> {
    entries: HashMap<K, Entry>,
    due: BTreeSet<(Instant, K)>,
}

/// The queue.
#[derive(Debug)]
pub(super) struct Queue<K> {
    inner: Mutex<Inner<K>>,
    changed: Notify,
}

impl<K: Copy + Eq + Ord + Hash> Queue<K> {
    pub(super) fn new() -> Self {
        Self {
            inner: Mutex::new(Inner {
                entries: HashMap::new(),
                due: BTreeSet::new(),
            }),
            changed: Notify::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner<K>> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks to look at something. What has failed and waits is not looked at any sooner.
    pub(super) fn push(&self, key: K) {
        self.push_since(key, Instant::now());
    }

    /// The same, for the sake of what happened then.
    pub(super) fn push_since(&self, key: K, since: Instant) {
        let mut inner = self.lock();
        if let Some(entry) = inner.entries.get_mut(&key) {
            if entry.due.is_none() {
                entry.again.get_or_insert(since);
            }
            return;
        }
        let now = Instant::now();
        inner.entries.insert(
            key,
            Entry {
                due: Some(now),
                again: None,
                failures: 0,
                since,
                error: None,
            },
        );
        inner.due.insert((now, key));
        drop(inner);
        self.changed.notify_one();
    }

    /// Something that is due, for the caller alone until it is [`Queue::done`].
    fn take(&self) -> Result<K, Option<Instant>> {
        let mut inner = self.lock();
        let Some((due, key)) = inner.due.first().copied() else {
            return Err(None);
        };
        if due > Instant::now() {
            return Err(Some(due));
        }
        inner.due.remove(&(due, key));
        if let Some(entry) = inner.entries.get_mut(&key) {
            entry.due = None;
        }
        if !inner.due.is_empty() {
            // One who pushes wakes one; whoever else waits learns of the rest from here.
            self.changed.notify_one();
        }
        Ok(key)
    }

    /// The next thing that is due; waits for one.
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

    /// The next thing that is due now.
    #[cfg(test)]
    pub(super) fn try_next(&self) -> Option<K> {
        self.take().ok()
    }

    /// The caller has looked at it, and failed for that reason; says how long until it is looked
    /// at again then.
    pub(super) fn done(&self, key: K, failed: Option<&str>) -> Option<Duration> {
        let mut inner = self.lock();
        let entry = inner.entries.get_mut(&key)?;
        let pause = if failed.is_some() {
            entry.failures = (entry.failures + 1).min(MOST_FAILURES);
            pause(entry.failures)
        } else if let Some(again) = entry.again {
            entry.failures = 0;
            entry.since = again;
            Duration::ZERO
        } else {
            inner.entries.remove(&key);
            return None;
        };
        let due = Instant::now() + pause;
        entry.due = Some(due);
        entry.again = None;
        entry.error = failed.map(Into::into);
        inner.due.insert((due, key));
        drop(inner);
        self.changed.notify_one();
        failed.map(|_| pause)
    }

    /// Since when something that somebody works on was asked for.
    pub(super) fn since(&self, key: K) -> Option<Instant> {
        Some(self.lock().entries.get(&key)?.since)
    }

    /// What waits or is worked on: what has failed first, and then what waits longest. At most so
    /// many, of how many, and how many of all have failed.
    pub(super) fn waiting(&self, limit: usize) -> (Vec<Waiting<K>>, usize, usize) {
        let inner = self.lock();
        let mut found: Vec<(bool, Instant, K)> = vec![];
        for (key, entry) in &inner.entries {
            found.push((entry.error.is_none(), entry.since, *key));
        }
        let failing = found.iter().filter(|(well, ..)| !well).count();
        if found.len() > limit {
            found.select_nth_unstable(limit);
            found.truncate(limit);
        }
        found.sort_unstable();
        let waiting = found.into_iter().filter_map(|(_, since, key)| {
            let entry = inner.entries.get(&key)?;
            Some(Waiting {
                key,
                since,
                due: entry.due,
                failures: entry.failures,
                error: entry.error.clone(),
            })
        });
        (waiting.collect(), inner.entries.len(), failing)
    }

    /// How many things wait or are worked on.
    pub(super) fn len(&self) -> usize {
        self.lock().entries.len()
    }
}

fn pause(failures: u32) -> Duration {
    let pauses = ExponentialBuilder::default()
        .with_min_delay(PAUSES.0)
        .with_max_delay(PAUSES.1)
        .with_jitter()
        .without_max_times()
        .build();
    let mut pauses = pauses.skip(failures.saturating_sub(1) as usize);
    pauses.next().unwrap_or(PAUSES.1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_key_is_there_once_and_with_one_worker() {
        let queue = Queue::new();
        queue.push(1);
        queue.push(1);
        assert_eq!(queue.next().await, 1);
        assert_eq!(queue.try_next(), None);
        // What is asked for meanwhile is looked at after.
        queue.push(1);
        assert_eq!(queue.try_next(), None);
        assert_eq!(queue.done(1, None), None);
        assert_eq!(queue.next().await, 1);
        assert_eq!(queue.done(1, None), None);
        assert_eq!((queue.try_next(), queue.len()), (None, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn what_fails_waits_longer_each_time_and_stops_nothing_else() {
        let queue = Queue::new();
        queue.push(1);
        let mut last = Duration::ZERO;
        for failure in 0..6 {
            assert_eq!(queue.next().await, 1);
            let pause = queue.done(1, Some("full")).unwrap();
            // Twice as long, and up to as much again by chance.
            assert!(pause >= PAUSES.0 * 2_u32.pow(failure), "{pause:?}");
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
        assert!(last <= PAUSES.1 * 2, "{last:?}");
        queue.next().await;
        queue.done(1, None);
        assert_eq!(queue.len(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn what_has_failed_is_shown_first() {
        let queue = Queue::new();
        let begun = Instant::now();
        for key in 0..5 {
            queue.push(key);
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        for _ in 0..4 {
            let key = queue.next().await;
            // Asked for again meanwhile: it waits since then only.
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
    async fn many_workers_share_what_is_pushed_at_once() {
        let queue = std::sync::Arc::new(Queue::new());
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
