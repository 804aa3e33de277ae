//! Times of recent agent requests: a container requested recently is never deleted as unused.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use uuid::Uuid;

/// How long a request is remembered: longer than any sensible grace period.
const REQUEST_TTL: Duration = Duration::from_hours(24);
/// Below this number of entries, expired ones are not looked for.
const MIN_ENTRIES_TO_EXPIRE: usize = 1024;

/// When each container was last requested.
#[derive(Debug, Default)]
pub(super) struct RecentRequests(Mutex<Requests>);

#[derive(Debug, Default)]
struct Requests {
    by_vm: HashMap<Uuid, Instant>,
    /// From this number of entries on, expired ones are removed.
    expire_from: usize,
}

impl RecentRequests {
    fn lock(&self) -> MutexGuard<'_, Requests> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn record(&self, vm: Uuid) {
        let now = Instant::now();
        let mut requests = self.lock();
        requests.by_vm.insert(vm, now);
        if requests.by_vm.len() > requests.expire_from.max(MIN_ENTRIES_TO_EXPIRE) {
            requests.by_vm.retain(|_, at| now - *at < REQUEST_TTL);
            requests.expire_from = requests.by_vm.len() * 2;
        }
    }

    pub(super) fn remove(&self, vm: Uuid) {
        self.lock().by_vm.remove(&vm);
    }

    pub(super) fn last(&self, vm: Uuid) -> Option<Instant> {
        self.lock().by_vm.get(&vm).copied()
    }
}
