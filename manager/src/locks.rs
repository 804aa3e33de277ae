//! One lock for each container, for as long as somebody holds or wants it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::OwnedMutexGuard;
use uuid::Uuid;

type Map = HashMap<Uuid, Arc<tokio::sync::Mutex<()>>>;

/// The locks in use.
#[derive(Clone, Debug, Default)]
pub(super) struct Locks(Arc<Mutex<Map>>);

/// A lock that is held.
#[derive(Debug)]
pub(super) struct Held {
    locks: Locks,
    key: Uuid,
    guard: Option<OwnedMutexGuard<()>>,
}

/// What of a lock is in the map while somebody waits for it, were it abandoned.
struct Waiting<'a>(&'a Locks, Uuid);

impl Locks {
    fn map(&self) -> MutexGuard<'_, Map> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for the lock of `key`, in the order of the calls.
    pub(super) async fn lock(&self, key: Uuid) -> Held {
        let lock = self.map().entry(key).or_default().clone();
        let waiting = Waiting(self, key);
        let guard = lock.lock_owned().await;
        std::mem::forget(waiting);
        Held {
            locks: self.clone(),
            key,
            guard: Some(guard),
        }
    }

    /// Forgets the lock of `key` unless somebody else holds or awaits it.
    fn tidy(&self, key: Uuid) {
        let mut map = self.map();
        if map
            .get(&key)
            .is_some_and(|lock| Arc::strong_count(lock) == 1)
        {
            map.remove(&key);
        }
    }

    #[cfg(test)]
    pub(super) fn count(&self) -> usize {
        self.map().len()
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.tidy(self.1);
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.guard = None;
        self.locks.tidy(self.key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_key_is_held_by_one_and_forgotten_after_the_last() {
        let locks = Locks::default();
        let key = Uuid::from_u128(1);
        let held = locks.lock(key).await;
        let other = locks.lock(Uuid::from_u128(2)).await;
        assert_eq!(locks.count(), 2);
        let waiter = tokio::spawn({
            let locks = locks.clone();
            async move { drop(locks.lock(key).await) }
        });
        tokio::task::yield_now().await;
        assert!(!waiter.is_finished());
        let abandoned = tokio::spawn({
            let locks = locks.clone();
            async move { drop(locks.lock(Uuid::from_u128(2)).await) }
        });
        tokio::task::yield_now().await;
        abandoned.abort();
        assert!(abandoned.await.unwrap_err().is_cancelled());
        drop(other);
        drop(held);
        waiter.await.unwrap();
        assert_eq!(locks.count(), 0);
    }
}
