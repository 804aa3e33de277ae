//! Teardown steps that are still pending at the vRouter agent or the manager.
//!
//! A file `<state_dir>/contrail/pending-teardown/<virtual machine>.json` exists, durable, from
//! before the first step of a container's teardown until after its last.

use std::collections::HashMap;
use std::io::{self, ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use atomic_write_file::AtomicWriteFile;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use uuid::Uuid;

use crate::provider::{BoxError, blocking};
use contrail_mesos_api::container::ContainerId;
use contrail_mesos_api::files::read_regular_file;

/// How long the file of a new teardown may take to be written.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);

/// A container whose teardown is not complete: it is detached from this host, and the vRouter agent or
/// the manager has not been told yet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PendingTeardown {
    /// The uuid of its virtual-machine object.
    pub vm_uuid: Uuid,
    /// Its id; `None` if it is not known.
    #[serde(default)]
    pub container: Option<ContainerId>,
    /// Its links on the host.
    #[serde(default)]
    pub(super) links: Vec<String>,
    /// The interfaces that may be registered with the vRouter agent: those that had a port file.
    #[serde(default)]
    pub(super) registered: Vec<Uuid>,
}

impl PendingTeardown {
    /// What may be left of it at its peers, a sentence each.
    #[must_use]
    pub fn remainder(&self) -> Vec<String> {
        let machine = self.vm_uuid;
        let mut sentences = vec![format!(
            "in Contrail: the virtual-machine {machine} with its interfaces, addresses and floating IPs"
        )];
        let registered: Vec<String> = self.registered.iter().map(ToString::to_string).collect();
        if !registered.is_empty() {
            sentences.push(format!(
                "at the vRouter agent of this host, until it restarts: the ports {}",
                registered.join(", ")
            ));
        }
        sentences
    }
}

/// Gives up the pending teardowns of a container without the configuration of its peers: removes them from
/// the state directory, and returns them. By the name that [`pending_containers`] returns. Blocks on the
/// file system.
pub fn forget_pending_container(state_dir: &Path, name: &str) -> io::Result<Vec<PendingTeardown>> {
    let teardowns = PendingTeardowns::open(state_dir)?;
    let mut forgotten = vec![];
    for teardown in teardowns.all() {
        let container = teardown.container.as_ref().map(ToString::to_string);
        if container.as_deref() == Some(name) || teardown.vm_uuid.to_string() == name {
            std::fs::remove_file(teardowns.path(teardown.vm_uuid))?;
            forgotten.push(teardown);
        }
    }
    Ok(forgotten)
}

/// A pending teardown that this process knows of.
#[derive(Clone)]
pub(super) struct TeardownEntry {
    pub(super) teardown: PendingTeardown,
    /// Held while the teardown is executed.
    pub(super) lock: Arc<tokio::sync::Mutex<()>>,
    /// When this process learned of it.
    pub(super) since: Instant,
}

/// The containers with a pending teardown below a state directory, for a report: each by its id, or
/// by the uuid of its virtual machine if the id is not known. Blocks on the file system.
pub fn pending_containers(state_dir: &Path) -> io::Result<Vec<String>> {
    let teardowns = PendingTeardowns::open(state_dir)?;
    let name = |entry: &TeardownEntry| match &entry.teardown.container {
        Some(container) => container.to_string(),
        None => entry.teardown.vm_uuid.to_string(),
    };
    let mut names: Vec<String> = teardowns.entries().values().map(name).collect();
    names.sort();
    Ok(names)
}

/// How many pending teardowns there are below a state directory: reads no file. Blocks on the file
/// system.
pub fn count_pending(state_dir: &Path) -> io::Result<usize> {
    let entries = match std::fs::read_dir(directory_of(state_dir)) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(0),
        entries => entries?,
    };
    let is_teardown = |path: &Path| {
        path.extension()
            .is_some_and(|extension| extension == "json")
    };
    let mut count = 0;
    for entry in entries {
        count += usize::from(is_teardown(&entry?.path()));
    }
    Ok(count)
}

fn directory_of(state_dir: &Path) -> PathBuf {
    state_dir.join("contrail").join("pending-teardown")
}

/// The pending teardowns of one state directory.
pub(super) struct PendingTeardowns {
    directory: PathBuf,
    entries: Mutex<HashMap<Uuid, TeardownEntry>>,
}

impl PendingTeardowns {
    /// Loads the pending teardowns of `state_dir`. Blocks on the file system.
    pub(super) fn open(state_dir: &Path) -> io::Result<Self> {
        let teardowns = Self {
            directory: directory_of(state_dir),
            entries: Mutex::default(),
        };
        teardowns.load()?;
        Ok(teardowns)
    }

    /// Adds the teardowns that other processes, such as the command line, have recorded, and drops those
    /// that others have completed or given up. Blocks on the file system.
    pub(super) fn load(&self) -> io::Result<()> {
        let is_gone = |vm_uuid: &Uuid, entry: &TeardownEntry| {
            // A new one may not be written yet.
            entry.since.elapsed() > WRITE_TIMEOUT
                && matches!(self.path(*vm_uuid).try_exists(), Ok(false))
        };
        let known: Vec<_> = self.entries().clone().into_iter().collect();
        for (vm_uuid, entry) in known {
            if is_gone(&vm_uuid, &entry) {
                self.entries().remove(&vm_uuid);
            }
        }
        let entries = match std::fs::read_dir(&self.directory) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            entries => entries?,
        };
        for entry in entries {
            let path = entry?.path();
            if path.extension().is_none_or(|extension| extension != "json") {
                continue;
            }
            let teardown = read_regular_file(&path)
                .and_then(|bytes| Ok(serde_json::from_slice::<PendingTeardown>(&bytes)?));
            match teardown {
                Ok(teardown) if self.path(teardown.vm_uuid) == path => self.insert(teardown),
                Ok(teardown) => log::warn!(
                    "ignoring {}: it is about container {}",
                    path.display(),
                    teardown.vm_uuid
                ),
                // Completed in the meantime.
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => log::warn!("cannot read {}: {error}", path.display()),
            }
        }
        Ok(())
    }

    fn path(&self, vm_uuid: Uuid) -> PathBuf {
        self.directory.join(format!("{vm_uuid}.json"))
    }

    fn entries(&self) -> MutexGuard<'_, HashMap<Uuid, TeardownEntry>> {
        // Every critical section is a single map operation.
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn insert(&self, teardown: PendingTeardown) {
        self.entries()
            .entry(teardown.vm_uuid)
            .or_insert_with(|| TeardownEntry {
                teardown,
                lock: Arc::default(),
                since: Instant::now(),
            });
    }

    /// All pending teardowns that this process knows of, by container.
    pub(super) fn all(&self) -> Vec<PendingTeardown> {
        let entries = self.entries();
        let mut all: Vec<_> = entries
            .values()
            .map(|entry| entry.teardown.clone())
            .collect();
        all.sort_by(|a, b| (&a.container, a.vm_uuid).cmp(&(&b.container, b.vm_uuid)));
        all
    }

    /// The virtual machines with a pending teardown.
    pub(super) fn vm_uuids(&self) -> Vec<Uuid> {
        self.entries().keys().copied().collect()
    }

    pub(super) fn get(&self, vm_uuid: Uuid) -> Option<TeardownEntry> {
        self.entries().get(&vm_uuid).cloned()
    }

    /// Makes a teardown durable.
    pub(super) async fn record(&self, teardown: PendingTeardown) -> Result<(), BoxError> {
        let path = self.path(teardown.vm_uuid);
        let json = serde_json::to_vec(&teardown)?;
        self.insert(teardown);
        blocking(move || {
            if let Some(directory) = path.parent() {
                std::fs::create_dir_all(directory)?;
            }
            let mut file = AtomicWriteFile::open(&path)?;
            file.write_all(&json)?;
            file.commit()
        })
        .await?;
        Ok(())
    }

    /// Removes a completed teardown.
    pub(super) async fn remove(&self, vm_uuid: Uuid) -> Result<(), BoxError> {
        let path = self.path(vm_uuid);
        blocking(move || match std::fs::remove_file(path) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        })
        .await?;
        self.entries().remove(&vm_uuid);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn teardown(number: u128) -> PendingTeardown {
        PendingTeardown {
            vm_uuid: Uuid::from_u128(number),
            container: Some(ContainerId::top_level("box")),
            links: vec![],
            registered: vec![Uuid::from_u128(7)],
        }
    }

    #[tokio::test(start_paused = true)]
    async fn teardown_that_another_process_gave_up_is_dropped() {
        let directory = tempfile::tempdir().unwrap();
        let teardowns = PendingTeardowns::open(directory.path()).unwrap();
        teardowns.record(teardown(1)).await.unwrap();
        teardowns.record(teardown(2)).await.unwrap();
        let other = "00000000-0000-0000-0000-000000000002";
        assert_eq!(
            pending_containers(directory.path()).unwrap(),
            ["box", "box"]
        );
        let forgotten = forget_pending_container(directory.path(), other).unwrap();
        assert_eq!(forgotten, [teardown(2)]);
        assert!(forgotten[0].remainder().concat().contains(other));
        // Its file may not be written yet.
        teardowns.load().unwrap();
        assert_eq!(teardowns.vm_uuids().len(), 2);
        tokio::time::advance(WRITE_TIMEOUT + Duration::from_secs(1)).await;
        teardowns.load().unwrap();
        assert_eq!(teardowns.vm_uuids(), [Uuid::from_u128(1)]);
        forget_pending_container(directory.path(), "box").unwrap();
        teardowns.load().unwrap();
        assert!(teardowns.vm_uuids().is_empty());
    }
}
