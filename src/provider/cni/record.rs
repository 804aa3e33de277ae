//! Records of what the plugins of an interface were given and returned: for a DEL after a restart,
//! and if the intent cannot be read.
//!
//! ```text
//! <state_dir>/cni/<container>/<interface>.json    the record, from before the first plugin runs
//! <state_dir>/cni/<container>/<interface>.stdin   a plugin's standard input; locked while one runs
//! <state_dir>/cni/<container>/handle              says that the namespace's handle is the provider's
//! ```
//!
//! A record outlives its container if the DEL failed: it is then a pending teardown.
//!
//! Only root may read them, since configurations may have passwords. They are not synced: the
//! intent is, and has all that a DEL requires.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Write as _};
use std::ops::Deref;
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::fcntl::OFlag;
use nix::sys::stat::fstat;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{CniIntent, processes};
use crate::provider::Intent;
use contrail_mesos_api::container::ContainerId;
use contrail_mesos_api::files::read_regular_file;

/// Opening a pipe or a link that somebody put there fails, and does not block.
const OPEN_FLAGS: i32 = OFlag::O_NONBLOCK.union(OFlag::O_NOFOLLOW).bits();
/// The name of the note on the handle of a container's namespace.
const HANDLE_CLAIM: &str = "handle";
/// How often a busy lock is tried.
const LOCK_POLL_INTERVAL: Duration = Duration::from_millis(5);

/// Identifies a namespace as long as it exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct NamespaceId {
    device: u64,
    inode: u64,
}

impl NamespaceId {
    pub(super) fn new(device: u64, inode: u64) -> Self {
        Self { device, inode }
    }

    pub(super) fn of(namespace: impl AsFd) -> io::Result<Self> {
        let stat = fstat(namespace)?;
        Ok(Self::new(stat.st_dev, stat.st_ino))
    }
}

/// The record of one interface.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct InterfaceRecord {
    pub(super) intent: Intent<CniIntent>,
    /// The container's network namespace, if an ADD was started.
    #[serde(default)]
    pub(super) namespace: Option<NamespaceId>,
    /// The result of the last plugin, after all have succeeded.
    #[serde(default)]
    pub(super) result: Option<Value>,
    /// The host end, if there is one that belongs to this container alone.
    #[serde(default)]
    pub(super) host_interface: Option<String>,
    /// Whether the container has an interface with that name: the plugin `loopback` creates none.
    #[serde(default)]
    pub(super) is_inside: bool,
    /// The DELs that failed.
    #[serde(default)]
    pub(super) teardown: Option<PendingTeardown>,
}

/// A teardown that is retried.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct PendingTeardown {
    /// How many DELs have failed.
    pub(super) failures: u32,
    /// Why the last one failed.
    pub(super) error: String,
}

impl InterfaceRecord {
    /// The record of an interface before its first plugin runs.
    pub(super) fn new(intent: &Intent<CniIntent>) -> Self {
        Self {
            intent: intent.clone(),
            namespace: None,
            result: None,
            host_interface: None,
            is_inside: false,
            teardown: None,
        }
    }
}

/// The file for a plugin's standard input, locked until this is dropped. The lock ends even if a
/// daemon that a plugin started keeps the file open.
pub(super) struct LockedInput(File);

impl Deref for LockedInput {
    type Target = File;

    fn deref(&self) -> &File {
        &self.0
    }
}

impl Drop for LockedInput {
    fn drop(&mut self) {
        // Otherwise the lock ends when the last process closes the file.
        if let Err(error) = self.0.unlock() {
            log::warn!("cannot unlock a plugin's standard input: {error}");
        }
    }
}

/// The records of one state directory. Every call blocks on the file system.
#[derive(Clone, Debug)]
pub(super) struct Records {
    directory: PathBuf,
}

impl Records {
    pub(super) fn new(state_dir: &Path) -> Self {
        Self {
            directory: state_dir.join("cni"),
        }
    }

    fn of(&self, container: &ContainerId) -> PathBuf {
        self.directory.join(container.file_name())
    }

    fn path(&self, intent: &Intent<CniIntent>, extension: &str) -> PathBuf {
        // Interfaces are called eth0 and so on, by us.
        self.of(&intent.container)
            .join(format!("{}.{extension}", intent.interface))
    }

    fn create_directory(&self, intent: &Intent<CniIntent>) -> io::Result<()> {
        let directory = self.of(&intent.container);
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory)
    }

    pub(super) fn write(&self, record: &InterfaceRecord) -> io::Result<()> {
        self.create_directory(&record.intent)?;
        let new = self.path(&record.intent, "new");
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .custom_flags(OPEN_FLAGS)
            .open(&new)?;
        file.write_all(&serde_json::to_vec(record)?)?;
        fs::rename(&new, self.path(&record.intent, "json"))
    }

    /// Whether a container has records.
    pub(super) fn has_records(&self, container: &ContainerId) -> bool {
        self.of(container).is_dir()
    }

    /// Whether an interface has a record, readable or not.
    pub(super) fn has_record(&self, container: &ContainerId, interface: &str) -> bool {
        let path = self.of(container).join(format!("{interface}.json"));
        fs::symlink_metadata(path).is_ok()
    }

    /// `None` if it does not exist or cannot be read.
    pub(super) fn read(&self, intent: &Intent<CniIntent>) -> Option<InterfaceRecord> {
        read(&self.path(intent, "json")).ok()
    }

    /// Locks the file for the plugins' standard input. Waits for a plugin of an agent that was
    /// killed, which must not create anything after the DEL.
    pub(super) fn lock(
        &self,
        intent: &Intent<CniIntent>,
        deadline: Instant,
    ) -> io::Result<LockedInput> {
        self.create_directory(intent)?;
        let path = self.path(intent, "stdin");
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(OPEN_FLAGS)
            .open(&path)?;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(LockedInput(file)),
                Err(TryLockError::Error(error)) => return Err(error),
                Err(TryLockError::WouldBlock) if Instant::now() < deadline => {
                    std::thread::sleep(LOCK_POLL_INTERVAL);
                }
                Err(TryLockError::WouldBlock) => {
                    return Err(io::Error::new(
                        ErrorKind::TimedOut,
                        format!(
                            "an earlier plugin, or a daemon that it started, still has {} open: {}",
                            path.display(),
                            processes::holders(&file)
                        ),
                    ));
                }
            }
        }
    }

    /// Like [`Self::lock`], with another file in place of one that stays locked.
    pub(super) fn lock_anew(&self, intent: &Intent<CniIntent>) -> io::Result<LockedInput> {
        fs::remove_file(self.path(intent, "stdin"))?;
        self.lock(intent, Instant::now())
    }

    /// Notes that the provider made the handle of the container's namespace.
    pub(super) fn claim_handle(&self, intent: &Intent<CniIntent>) -> io::Result<()> {
        self.create_directory(intent)?;
        OpenOptions::new()
            .write(true)
            .create(true)
            .mode(0o600)
            .custom_flags(OPEN_FLAGS)
            .open(self.of(&intent.container).join(HANDLE_CLAIM))
            .map(drop)
    }

    /// Whether the provider made the handle of the container's namespace, and the container has no
    /// record any more.
    pub(super) fn has_only_handle(&self, container: &ContainerId) -> io::Result<bool> {
        let files = list(&self.of(container))?;
        Ok(files.len() == 1 && files[0].ends_with(HANDLE_CLAIM))
    }

    /// Removes the record of an interface. Idempotent.
    pub(super) fn remove(&self, intent: &Intent<CniIntent>) -> io::Result<()> {
        for extension in ["json", "new", "stdin"] {
            remove_file(&self.path(intent, extension))?;
        }
        self.remove_directory(&intent.container)
    }

    /// Removes the records of a container that cannot be read, and returns their paths.
    pub(super) fn remove_damaged(&self, container: &ContainerId) -> io::Result<Vec<PathBuf>> {
        let mut removed = vec![];
        for path in list(&self.of(container))? {
            let is_record = path
                .extension()
                .is_some_and(|extension| extension == "json");
            if is_record && read(&path).is_err() {
                for extension in ["json", "new", "stdin"] {
                    remove_file(&path.with_extension(extension))?;
                }
                removed.push(path);
            }
        }
        if !removed.is_empty() {
            self.remove_directory(container)?;
        }
        Ok(removed)
    }

    /// Removes the note that the provider made the handle of the container's namespace. Idempotent.
    pub(super) fn disclaim_handle(&self, container: &ContainerId) -> io::Result<()> {
        remove_file(&self.of(container).join(HANDLE_CLAIM))?;
        self.remove_directory(container)
    }

    fn remove_directory(&self, container: &ContainerId) -> io::Result<()> {
        match fs::remove_dir(self.of(container)) {
            Err(error)
                if !matches!(
                    error.kind(),
                    ErrorKind::NotFound | ErrorKind::DirectoryNotEmpty
                ) =>
            {
                Err(error)
            }
            _ => Ok(()),
        }
    }

    /// All records, or the path of a record that cannot be read.
    pub(super) fn all(&self) -> io::Result<Vec<Result<InterfaceRecord, PathBuf>>> {
        let mut records = vec![];
        for directory in list(&self.directory)? {
            for path in list(&directory)? {
                if path
                    .extension()
                    .is_some_and(|extension| extension == "json")
                {
                    records.push(read(&path).map_err(|_| path));
                }
            }
        }
        Ok(records)
    }
}

fn remove_file(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn read(path: &Path) -> io::Result<InterfaceRecord> {
    Ok(serde_json::from_slice(&read_regular_file(path)?)?)
}

/// The entries of a directory; none if it does not exist.
fn list(directory: &Path) -> io::Result<Vec<PathBuf>> {
    match fs::read_dir(directory) {
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            Ok(vec![])
        }
        entries => entries?.map(|entry| Ok(entry?.path())).collect(),
    }
}
