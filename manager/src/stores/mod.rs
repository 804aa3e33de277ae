//! What Marathon, Mesos and the VNC API say, each kept once and read by many.
//!
//! ```text
//! source     whether what is kept is to be believed, since when, and why not
//! status     the same, for operators and metrics
//! mesos      tasks by the machine of their container, agents, executors
//! marathon   apps and pods: their networks' labels, and which tasks they have
//! contrail   our objects in the VNC API; `read` fills it page by page
//! ```
//!
//! Ids that several of them name are kept once for all.
//!
//! A snapshot costs nothing and stays as it is. What changes a store copies it only while somebody
//! holds a snapshot, so a stream of events is taken in as fast as it comes.

pub(super) mod contrail;
pub(super) mod marathon;
pub(super) mod mesos;
pub(super) mod read;
pub(super) mod source;
pub(super) mod status;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use crate::names::Network;
use crate::vnc::FqName;
use contrail::ContrailView;
use marathon::MarathonView;
use mesos::MesosView;

use crate::intern::Interner;

/// One store.
#[derive(Debug, Default)]
pub(super) struct Store<T> {
    held: RwLock<Arc<T>>,
    copied: AtomicU64,
}

impl<T: Clone> Store<T> {
    /// What there is now.
    pub(super) fn snapshot(&self) -> Arc<T> {
        Arc::clone(&self.held.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Looks at what there is now, for a moment.
    pub(super) fn read<R>(&self, look: impl FnOnce(&T) -> R) -> R {
        look(&self.held.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Puts something else in its place.
    pub(super) fn replace(&self, new: impl FnOnce(&T) -> T) {
        let mut held = self.held.write().unwrap_or_else(PoisonError::into_inner);
        let new = new(&held);
        *held = Arc::new(new);
    }

    /// Changes what there is.
    pub(super) fn change<R>(&self, change: impl FnOnce(&mut T) -> R) -> R {
        let mut held = self.held.write().unwrap_or_else(PoisonError::into_inner);
        if Arc::get_mut(&mut held).is_none() {
            self.copied.fetch_add(1, Ordering::Relaxed);
        }
        change(Arc::make_mut(&mut held))
    }
}

/// All stores.
#[derive(Debug, Default)]
pub(super) struct Stores {
    pub mesos: Store<MesosView>,
    pub marathon: Store<MarathonView>,
    pub contrail: Store<ContrailView>,
    /// The networks that our containers are on, with their subnets. For people.
    pub networks: Store<HashMap<FqName, Network>>,
    texts: Mutex<Interner>,
}

impl Stores {
    /// The texts that they share.
    pub(super) fn texts(&self) -> MutexGuard<'_, Interner> {
        self.texts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How often a store was copied as a whole because somebody held a snapshot of it.
    pub(super) fn copied(&self) -> u64 {
        let copied = [
            &self.mesos.copied,
            &self.marathon.copied,
            &self.contrail.copied,
        ];
        copied.map(|one| one.load(Ordering::Relaxed)).iter().sum()
    }
}
