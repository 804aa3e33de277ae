//! What this process has attached, is attaching, or is detaching.
//!
//! Attach and detach of one interface never overlap: each holds its entry's lock while it works,
//! and an attach that comes to its turn after its entry was taken away does nothing.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::super::{Intent, ProviderError};
use super::{own, refused};

/// How far a container's interface is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Attaching,
    Attached,
    /// Its link may go: nobody is told.
    Detaching,
    /// Its link went away, and that was told.
    Lost,
}

/// One interface of one container.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) intent: Intent,
    state: Mutex<State>,
    work: Mutex<()>,
}

impl Entry {
    fn new(intent: &Intent, state: State) -> Arc<Self> {
        Arc::new(Self {
            intent: intent.clone(),
            state: Mutex::new(state),
            work: Mutex::new(()),
        })
    }

    /// Waits for whoever works on the interface.
    pub(super) fn lock(&self) -> MutexGuard<'_, ()> {
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn state(&self) -> State {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Goes from one state to another; false if it is not in the first.
    pub(super) fn go(&self, from: State, to: State) -> bool {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let is_there = *state == from;
        if is_there {
            *state = to;
        }
        is_there
    }
}

/// All interfaces, by the name of the host's end.
#[derive(Debug, Default)]
pub(super) struct Registry {
    entries: Mutex<HashMap<String, Arc<Entry>>>,
}

impl Registry {
    fn entries(&self) -> MutexGuard<'_, HashMap<String, Arc<Entry>>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An attach begins.
    pub(super) fn begin(&self, intent: &Intent) -> Result<Arc<Entry>, ProviderError> {
        let mut entries = self.entries();
        let name = &own(intent).host_interface;
        if let Some(entry) = entries.get(name) {
            let message = match entry.state() {
                State::Attaching => "is being attached already",
                State::Attached | State::Lost => "is attached already; detach it first",
                State::Detaching => "is being detached; wait until that is done",
            };
            return Err(refused(
                &intent.network,
                format!(
                    "the interface {} of container {} {message}",
                    intent.interface, intent.container
                ),
            ));
        }
        let entry = Entry::new(intent, State::Attaching);
        entries.insert(name.clone(), Arc::clone(&entry));
        Ok(entry)
    }

    /// An interface of before a restart.
    pub(super) fn adopt(&self, intent: &Intent) {
        let name = own(intent).host_interface.clone();
        self.entries()
            .insert(name, Entry::new(intent, State::Attached));
    }

    pub(super) fn get(&self, name: &str) -> Option<Arc<Entry>> {
        self.entries().get(name).cloned()
    }

    /// Puts an entry into a state, whatever it was in.
    pub(super) fn set(&self, name: &str, to: State) -> Option<Arc<Entry>> {
        let entry = self.get(name)?;
        *entry.state.lock().unwrap_or_else(PoisonError::into_inner) = to;
        Some(entry)
    }

    pub(super) fn remove(&self, name: &str) {
        self.entries().remove(name);
    }

    /// Takes one very entry away; a newer one of the same name stays.
    pub(super) fn remove_this(&self, entry: &Arc<Entry>) {
        let mut entries = self.entries();
        let name = &own(&entry.intent).host_interface;
        if entries
            .get(name)
            .is_some_and(|found| Arc::ptr_eq(found, entry))
        {
            entries.remove(name);
        }
    }

    /// Whether any interface is on that bridge.
    pub(super) fn uses(&self, bridge: &str) -> bool {
        self.entries()
            .values()
            .any(|entry| own(&entry.intent).bridge == bridge)
    }

    pub(super) fn all(&self) -> Vec<Arc<Entry>> {
        self.entries().values().cloned().collect()
    }
}
