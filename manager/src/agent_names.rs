//! The names of agents that have sent authenticated requests.

use std::collections::HashSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// More agents than a cluster has.
const MAX_NAMES: usize = 100_000;

/// The names of agents. It only grows, and is lost when the manager ends.
#[derive(Debug, Default)]
pub(crate) struct AgentNames(Mutex<HashSet<Box<str>>>);

impl AgentNames {
    fn lock(&self) -> MutexGuard<'_, HashSet<Box<str>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds the name of an agent.
    pub(crate) fn add(&self, name: &str) {
        let mut names = self.lock();
        if names.len() < MAX_NAMES && !names.contains(name) {
            names.insert(name.into());
        }
    }

    pub(crate) fn contains(&self, name: &str) -> bool {
        self.lock().contains(name)
    }
}
