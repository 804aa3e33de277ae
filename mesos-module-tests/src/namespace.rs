//! Work inside a network namespace.
//!
//! Invariant: a thread that has entered a namespace ends there; no shared thread ever enters one.

use std::fs::File;
use std::panic::resume_unwind;
use std::path::Path;
use std::thread;

use anyhow::{Context as _, Result};
use nix::sched::{CloneFlags, setns};

/// Takes the calling thread, and those that it starts, into a network namespace.
pub fn enter(namespace: &Path) -> Result<()> {
    let file = File::open(namespace)
        .with_context(|| format!("no network namespace at {}", namespace.display()))?;
    setns(file, CloneFlags::CLONE_NEWNET)
        .with_context(|| format!("cannot enter the network namespace {}", namespace.display()))
}

/// Runs `work` in a network namespace, on a thread of its own. A panic of it goes on in the caller.
pub fn in_namespace<T: Send>(namespace: &Path, work: impl FnOnce() -> T + Send) -> Result<T> {
    thread::scope(|scope| {
        let thread = scope.spawn(|| enter(namespace).map(|()| work()));
        thread.join().unwrap_or_else(|panic| resume_unwind(panic))
    })
}
