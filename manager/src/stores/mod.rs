//! The state of Mesos, Marathon and the VNC API, each stored once and read by many.
//!
//! ```text
//! source     whether a source can be trusted, since when, and why not
//! status     the same, for operators and metrics
//! mesos      tasks by the virtual-machine of their container, agents, executors
//! touched    what has changed in the view of Mesos
//! marathon   apps and pods: the labels of their networks, and their tasks
//! contrail   our objects in the VNC API
//! listing    reads them, page by page
//! ```
//!
//! Ids that several of them name are stored once.
//!
//! A snapshot costs nothing and never changes. A write copies the store only while a snapshot of
//! it exists, so a stream of events is applied as fast as it comes.

pub(crate) mod contrail;
pub(crate) mod listing;
pub(crate) mod marathon;
pub(crate) mod mesos;
pub(crate) mod source;
pub(crate) mod status;
pub(crate) mod touched;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use tokio::sync::watch;

use crate::intern::Interner;
use crate::model::Network;
use crate::vnc::FqName;
use contrail::ContrailView;
use marathon::MarathonView;
use mesos::MesosView;

/// One store.
#[derive(Debug, Default)]
pub(crate) struct Store<T> {
    current: RwLock<Arc<T>>,
    copies: AtomicU64,
    /// Notified of every change.
    changed: watch::Sender<()>,
}

impl<T: Clone> Store<T> {
    /// The current state, which later writes do not change.
    pub(crate) fn snapshot(&self) -> Arc<T> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Reads the current state. Writers wait meanwhile.
    pub(crate) fn read<R>(&self, read: impl FnOnce(&T) -> R) -> R {
        read(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Replaces the state as a whole.
    pub(crate) fn replace(&self, new: impl FnOnce(&T) -> T) {
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        let new = new(&current);
        *current = Arc::new(new);
        drop(current);
        self.changed.send_replace(());
    }

    /// Changes with each change of the state.
    pub(crate) fn subscribe(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// Changes the state in place.
    pub(crate) fn change<R>(&self, change: impl FnOnce(&mut T) -> R) -> R {
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        if Arc::get_mut(&mut current).is_none() {
            self.copies.fetch_add(1, Ordering::Relaxed);
        }
        let result = change(Arc::make_mut(&mut current));
        drop(current);
        self.changed.send_replace(());
        result
    }
}

/// All stores.
#[derive(Debug, Default)]
pub(crate) struct Stores {
    /// Services follow it, too.
    pub mesos: Arc<Store<MesosView>>,
    pub marathon: Store<MarathonView>,
    pub contrail: Store<ContrailView>,
    /// The networks of our containers, with their subnets. Shown only.
    pub networks: Store<HashMap<FqName, Network>>,
    interner: Mutex<Interner>,
}

impl Stores {
    /// The strings that the stores share.
    pub(crate) fn interner(&self) -> MutexGuard<'_, Interner> {
        self.interner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How often a write copied a whole store because a snapshot of it existed.
    pub(crate) fn copies(&self) -> u64 {
        [
            &self.mesos.copies,
            &self.marathon.copies,
            &self.contrail.copies,
        ]
        .iter()
        .map(|copies| copies.load(Ordering::Relaxed))
        .sum()
    }
}
