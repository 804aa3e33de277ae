//! The interfaces that this process has attached, is attaching, or is detaching.
//!
//! Attach and detach of one interface never overlap: each holds its entry's lock while it works,
//! and an attach that gets the lock after its entry was removed does nothing.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::BridgeIntent;
use crate::provider::{Intent, ProviderError, refused};

/// How far a container's interface is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum InterfaceState {
    Attaching,
    Attached,
    /// Its link may be deleted without a report.
    Detaching,
    /// Its link was deleted, which was reported.
    Lost,
}

/// One interface of one container.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) intent: Intent<BridgeIntent>,
    state: Mutex<InterfaceState>,
    work: Mutex<()>,
}

impl Entry {
    fn new(intent: &Intent<BridgeIntent>, state: InterfaceState) -> Arc<Self> {
        Arc::new(Self {
            intent: intent.clone(),
            state: Mutex::new(state),
            work: Mutex::new(()),
        })
    }

    /// Waits until no other thread changes the interface.
    pub(super) fn lock(&self) -> MutexGuard<'_, ()> {
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn state(&self) -> InterfaceState {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the state from `from` to `to`; returns false if it is not `from`.
    pub(super) fn transition(&self, from: InterfaceState, to: InterfaceState) -> bool {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let matches = *state == from;
        if matches {
            *state = to;
        }
        matches
    }
}

/// All interfaces, by the name of the host end.
#[derive(Debug, Default)]
pub(super) struct Registry {
    entries: Mutex<HashMap<String, Arc<Entry>>>,
}

impl Registry {
    fn entries(&self) -> MutexGuard<'_, HashMap<String, Arc<Entry>>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds an interface that is about to be attached.
    pub(super) fn begin_attach(
        &self,
        intent: &Intent<BridgeIntent>,
    ) -> Result<Arc<Entry>, ProviderError> {
        let mut entries = self.entries();
        let name = &intent.provider.host_interface;
        if let Some(entry) = entries.get(name) {
            let message = match entry.state() {
                InterfaceState::Attaching => "is being attached already",
                InterfaceState::Attached | InterfaceState::Lost => {
                    "is attached already; detach it first"
                }
                InterfaceState::Detaching => "is being detached; wait until that is done",
            };
            return Err(refused(
                &intent.network,
                format!(
                    "the interface {} of container {} {message}",
                    intent.interface, intent.container
                ),
            ));
        }
        let entry = Entry::new(intent, InterfaceState::Attaching);
        entries.insert(name.clone(), Arc::clone(&entry));
        Ok(entry)
    }

    /// Adds an interface that was attached before a restart.
    pub(super) fn adopt(&self, intent: &Intent<BridgeIntent>) {
        self.entries().insert(
            intent.provider.host_interface.clone(),
            Entry::new(intent, InterfaceState::Attached),
        );
    }

    pub(super) fn get(&self, name: &str) -> Option<Arc<Entry>> {
        self.entries().get(name).cloned()
    }

    /// Marks an interface as detaching, whatever its state.
    pub(super) fn begin_detach(&self, name: &str) -> Option<Arc<Entry>> {
        let entry = self.get(name)?;
        *entry.state.lock().unwrap_or_else(PoisonError::into_inner) = InterfaceState::Detaching;
        Some(entry)
    }

    pub(super) fn remove(&self, name: &str) {
        self.entries().remove(name);
    }

    /// Removes this entry, but not a newer one with the same name.
    pub(super) fn remove_entry(&self, entry: &Arc<Entry>) {
        let mut entries = self.entries();
        let name = &entry.intent.provider.host_interface;
        if entries
            .get(name)
            .is_some_and(|current| Arc::ptr_eq(current, entry))
        {
            entries.remove(name);
        }
    }

    /// Whether any interface is on that bridge.
    pub(super) fn uses_bridge(&self, bridge: &str) -> bool {
        self.entries()
            .values()
            .any(|entry| entry.intent.provider.bridge == bridge)
    }

    pub(super) fn list(&self) -> Vec<Arc<Entry>> {
        self.entries().values().cloned().collect()
    }
}
