//! One lock for each container, while it is held or awaited.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::OwnedMutexGuard;
use uuid::Uuid;

type LockMap = HashMap<Uuid, Arc<tokio::sync::Mutex<()>>>;

/// The locks in use.
#[derive(Clone, Debug, Default)]
pub(crate) struct KeyedLocks(Arc<Mutex<LockMap>>);

/// Holds the lock of one key.
#[derive(Debug)]
pub(crate) struct KeyGuard {
    locks: KeyedLocks,
    key: Uuid,
    guard: Option<OwnedMutexGuard<()>>,
}

/// Removes the map's entry if the future that waits for the lock is dropped.
struct WaitGuard<'a>(&'a KeyedLocks, Uuid);

impl KeyedLocks {
    fn map(&self) -> MutexGuard<'_, LockMap> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for the lock of `key`, first come first served.
    pub(crate) async fn lock(&self, key: Uuid) -> KeyGuard {
        let lock = self.map().entry(key).or_default().clone();
        let waiting = WaitGuard(self, key);
        let guard = lock.lock_owned().await;
        std::mem::forget(waiting);
        KeyGuard {
            locks: self.clone(),
            key,
            guard: Some(guard),
        }
    }

    /// Removes the entry of `key` unless the lock is held or awaited elsewhere.
    fn remove_unused(&self, key: Uuid) {
        let mut map = self.map();
        if map
            .get(&key)
            .is_some_and(|lock| Arc::strong_count(lock) == 1)
        {
            map.remove(&key);
        }
    }

    #[cfg(test)]
    pub(crate) fn count(&self) -> usize {
        self.map().len()
    }
}

impl Drop for WaitGuard<'_> {
    fn drop(&mut self) {
        self.0.remove_unused(self.1);
    }
}

impl Drop for KeyGuard {
    fn drop(&mut self) {
        self.guard = None;
        self.locks.remove_unused(self.key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn keyed_lock_is_exclusive_and_removed_after_its_last_user() {
        let locks = KeyedLocks::default();
        let key = Uuid::from_u128(1);
        let guard = locks.lock(key).await;
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
        drop(guard);
        waiter.await.unwrap();
        assert_eq!(locks.count(), 0);
    }
}
