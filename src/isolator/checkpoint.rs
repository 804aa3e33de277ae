//! The state that outlives the agent: one directory per container.
//!
//! ```text
//! <state_dir>/containers/<container>/
//!     intent.json     everything that an attach creates, fsynced before any of it is created
//!     attached.json   the result of the attach, until its detach begins; a hint for status, never
//!                     needed for a detach
//!     detaching.json  the same file, from when the detach begins
//!     hosts hostname resolv.conf
//! <state_dir>/damaged/<container>-<milliseconds since 1970>   unreadable ones, moved aside
//! ```
//!
//! Invariants: nothing is created before `intent.json` is durable. Its exclusive creation claims the
//! container's id, before anything is reserved: at first it names no network, and it is complete
//! before anything is created. It is written in place: a file that a crash truncated is from before
//! anything was created. `attached.json` is not synced, because a crash of the machine ends every
//! container.
//!
//! The node daemon puts back what an attached container lacks on this host. It does so under a
//! [`RepairLock`], for the containers that have `attached.json` while it holds the lock. A detach
//! removes that file first, and then waits until the lock is free ([`Checkpoints::begin_detach`]), so
//! nothing is ever given back to a container that is being attached or detached.
//!
//! A version reads the layouts of all earlier versions, and refuses those of later ones.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, TryLockError};
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::network_request::ContainerRequest;
use crate::proto::mesos::network_info::PortMapping;
use crate::proto::mesos::{Label, Labels, NetworkInfo};
use crate::provider::{Attachment, Intent};
use contrail_mesos_api::container::ContainerId;
use contrail_mesos_api::files::{read_regular_file, write_regular_file};

/// The layout of `intent.json` that this version writes. Layouts start at 1.
const LAYOUT_VERSION: u32 = 1;
pub(crate) const INTENT_FILE: &str = "intent.json";
pub(super) const ATTACHMENTS_FILE: &str = "attached.json";
const DETACHING_FILE: &str = "detaching.json";
/// How long a [`RepairLock`] is good for. Nothing is repaired after that.
const REPAIR_TIMEOUT: Duration = Duration::from_secs(1);
/// How long a detach waits for a [`RepairLock`] that is held, at most: for longer than its holder
/// makes changes, even if that was suspended meanwhile.
const DETACH_LOCK_TIMEOUT: Duration = Duration::from_secs(2);
/// How often a lock that is held is tried meanwhile.
const LOCK_INTERVAL: Duration = Duration::from_millis(5);

/// A checkpoint could not be written, read or removed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {path}: {source}; check that the state directory is on a writable file system with space left", path = path.display())]
pub struct CheckpointError {
    /// The operation, as a verb.
    pub action: &'static str,
    /// The file or directory.
    pub path: PathBuf,
    /// The reason.
    #[source]
    pub source: io::Error,
}

/// The claim of a container's id.
#[derive(Debug)]
pub struct Claim {
    container: ContainerId,
    file: File,
}

/// Why an id could not be claimed.
#[derive(Debug)]
pub enum ClaimError {
    /// It is in use.
    InUse(Box<StoredCheckpoint>),
    /// The file system failed.
    Checkpoint(CheckpointError),
}

/// Who attached a container, and so who detaches it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Owner {
    /// The agent; a container that it does not know is an orphan.
    Agent,
    /// An operator, on the command line; the agent never detaches it.
    Operator,
}

/// The executor that a container was launched for.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ExecutorKey {
    /// The framework's id.
    pub framework: String,
    /// The executor's id; for a command task, the task's id.
    pub executor: String,
}

/// Everything that an attach creates for one container.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Checkpoint {
    version: u32,
    /// The container.
    pub container: ContainerId,
    /// Who attaches it.
    pub owner: Owner,
    /// The executor, if the agent names one.
    pub executor: Option<ExecutorKey>,
    /// The container's hostname.
    pub hostname: String,
    /// Its networks, in order.
    pub networks: Vec<CheckpointedNetwork>,
}

/// One network of a checkpointed container.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CheckpointedNetwork {
    /// Everything that the provider creates.
    pub intent: Intent,
    /// The framework's request, to be reported back.
    pub network_info: NetworkInfoRecord,
}

/// The parts of a `NetworkInfo` that are reported back to the framework unchanged. They passed
/// [`crate::network_request`], so they are UTF-8.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct NetworkInfoRecord {
    groups: Vec<String>,
    labels: Option<Vec<(String, Option<String>)>>,
    port_mappings: Vec<(u32, u32, Option<String>)>,
}

impl NetworkInfoRecord {
    fn new(info: &NetworkInfo) -> Self {
        let string = |bytes: &Vec<u8>| String::from_utf8_lossy(bytes).into_owned();
        Self {
            groups: info.groups.iter().map(string).collect(),
            labels: info.labels.as_ref().map(|labels| {
                let label = |label: &Label| (string(&label.key), label.value.as_ref().map(string));
                labels.labels.iter().map(label).collect()
            }),
            port_mappings: info
                .port_mappings
                .iter()
                .map(|port| {
                    (
                        port.host_port,
                        port.container_port,
                        port.protocol.as_ref().map(string),
                    )
                })
                .collect(),
        }
    }

    /// The `NetworkInfo` of network `name`, without addresses.
    #[must_use]
    pub fn to_message(&self, name: &str) -> NetworkInfo {
        let bytes = |string: &String| string.clone().into_bytes();
        NetworkInfo {
            name: Some(name.as_bytes().to_vec()),
            groups: self.groups.iter().map(bytes).collect(),
            labels: self.labels.as_ref().map(|labels| Labels {
                labels: labels
                    .iter()
                    .map(|(key, value)| Label {
                        key: bytes(key),
                        value: value.as_ref().map(bytes),
                    })
                    .collect(),
            }),
            port_mappings: self
                .port_mappings
                .iter()
                .map(|(host_port, container_port, protocol)| PortMapping {
                    host_port: *host_port,
                    container_port: *container_port,
                    protocol: protocol.as_ref().map(bytes),
                })
                .collect(),
            ip_addresses: Vec::new(),
        }
    }
}

impl Checkpoint {
    /// The container's networks, interfaces and addresses on one line.
    fn describe_interfaces(&self, attachments: Option<&[Attachment]>) -> String {
        if self.networks.is_empty() {
            return "not complete".to_owned();
        }
        let describe = |(index, network): (usize, &CheckpointedNetwork)| {
            let intent = &network.intent;
            let attachment = attachments.and_then(|all| all.get(index));
            let addresses =
                attachment.map_or(&intent.addresses, |attachment| &attachment.addresses);
            let addresses = addresses.iter().map(|net| format!(" {}", net.addr()));
            format!(
                "{} {}{}",
                intent.network,
                intent.interface,
                addresses.collect::<String>()
            )
        };
        let interfaces: Vec<String> = self.networks.iter().enumerate().map(describe).collect();
        interfaces.join(", ")
    }

    /// The checkpoint of a container for which nothing is reserved yet.
    fn claim(container: &ContainerId, owner: Owner, executor: Option<ExecutorKey>) -> Self {
        Self {
            version: LAYOUT_VERSION,
            container: container.clone(),
            owner,
            executor,
            hostname: String::new(),
            networks: Vec::new(),
        }
    }

    /// The checkpoint of a request whose networks were reserved as `intents`, in order.
    #[must_use]
    pub fn new(
        container: &ContainerId,
        owner: Owner,
        executor: Option<ExecutorKey>,
        request: &ContainerRequest,
        intents: Vec<Intent>,
    ) -> Self {
        Self {
            version: LAYOUT_VERSION,
            container: container.clone(),
            owner,
            executor,
            hostname: request.hostname.clone(),
            networks: intents
                .into_iter()
                .zip(&request.network_infos)
                .map(|(intent, info)| CheckpointedNetwork {
                    intent,
                    network_info: NetworkInfoRecord::new(info),
                })
                .collect(),
        }
    }
}

/// A checkpoint as it is on the disk.
#[derive(Debug)]
pub enum StoredCheckpoint {
    /// It can be read.
    Intact {
        /// The checkpoint.
        checkpoint: Box<Checkpoint>,
        /// One attachment per network, if the attach is complete.
        attachments: Option<Vec<Attachment>>,
    },
    /// Its intent cannot be read.
    Damaged {
        /// The directory's name: the container's [`ContainerId::file_name`].
        file_name: OsString,
        /// Whether a newer version of this program wrote it, which can read it.
        is_newer: bool,
        /// The file and what is wrong with it.
        error: String,
    },
}

impl StoredCheckpoint {
    /// Why the container `id` cannot be attached: what it is, and how to end that.
    #[must_use]
    pub fn reason_in_use(&self, id: &ContainerId) -> String {
        match self {
            Self::Intact {
                checkpoint,
                attachments,
            } => {
                let interfaces = checkpoint.describe_interfaces(attachments.as_deref());
                match checkpoint.owner {
                    Owner::Operator => format!(
                        "{id} is attached already ({interfaces}); contrail-mesos detach {id} first"
                    ),
                    Owner::Agent => format!(
                        "{id} is a container of the agent ({interfaces}), which detaches it when it ends; choose another name"
                    ),
                }
            }
            Self::Damaged { error, .. } => format!(
                "{id} has a checkpoint that cannot be used ({error}); contrail-mesos detach --force {id} removes what is left of it"
            ),
        }
    }
}

/// Keeps every detach from going on, so that what is read of the attached containers stays true.
#[derive(Debug)]
pub struct RepairLock {
    deadline: Instant,
    /// The directory of the checkpoints.
    _directory: File,
}

impl RepairLock {
    /// Until when its holder may change anything. A detach does not wait for longer.
    #[must_use]
    pub fn deadline(&self) -> Instant {
        self.deadline
    }
}

/// The checkpoints of one state directory. Every method blocks on the file system.
#[derive(Clone, Debug)]
pub struct Checkpoints {
    state_dir: PathBuf,
}

impl Checkpoints {
    /// The checkpoints below `state_dir`, which the first write creates.
    #[must_use]
    pub fn new(state_dir: &Path) -> Self {
        Self {
            state_dir: state_dir.to_owned(),
        }
    }

    /// The state directory.
    #[must_use]
    pub fn state_dir(&self) -> &Path {
        &self.state_dir
    }

    /// The container's directory.
    #[must_use]
    pub fn directory(&self, container: &ContainerId) -> PathBuf {
        self.root().join(container.file_name())
    }

    /// Claims a container's id, before anything is reserved for it.
    pub fn claim(
        &self,
        container: &ContainerId,
        owner: Owner,
        executor: Option<ExecutorKey>,
    ) -> Result<Claim, ClaimError> {
        let directory = self.directory(container);
        let path = directory.join(INTENT_FILE);
        let failed = |action, path: &Path| {
            let path = path.to_owned();
            move |source| {
                ClaimError::Checkpoint(CheckpointError {
                    action,
                    path,
                    source,
                })
            }
        };
        fs::create_dir_all(&directory).map_err(failed("create", &directory))?;
        let created = File::options()
            .write(true)
            .create_new(true)
            // The configuration of CNI plugins may have secrets.
            .mode(0o600)
            .open(&path);
        let file = match created {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                let name = container.file_name().into();
                return Err(ClaimError::InUse(Box::new(load(&directory, name))));
            }
            Err(error) => return Err(failed("create", &path)(error)),
        };
        let claim = Claim {
            container: container.clone(),
            file,
        };
        let checkpoint = Checkpoint::claim(container, owner, executor);
        if let Err(error) = self.write_intent(&claim, &checkpoint) {
            self.abandon(&claim);
            return Err(ClaimError::Checkpoint(error));
        }
        Ok(claim)
    }

    /// Ends a claim for which nothing is reserved any more. Best effort: what is left is an id that
    /// names no network.
    pub fn abandon(&self, claim: &Claim) {
        let directory = self.directory(&claim.container);
        if let Err(error) = fs::remove_file(directory.join(INTENT_FILE)) {
            log::warn!(
                "cannot remove {}: {error}",
                directory.join(INTENT_FILE).display()
            );
        }
        // Fails if somebody else has put files there, which stay.
        let _ = fs::remove_dir(&directory);
    }

    /// Writes the intent of a claimed container. It is durable once [`Checkpoints::sync_intent`]
    /// succeeds.
    pub fn write_intent(
        &self,
        claim: &Claim,
        checkpoint: &Checkpoint,
    ) -> Result<(), CheckpointError> {
        let failed = |source| CheckpointError {
            action: "write",
            path: self.directory(&claim.container).join(INTENT_FILE),
            source,
        };
        let json = serde_json::to_vec(checkpoint)
            .map_err(io::Error::from)
            .map_err(failed)?;
        // It grows only: a claim names no network.
        claim.file.write_all_at(&json, 0).map_err(failed)
    }

    /// Waits until an intent that was just written is durable.
    pub fn sync_intent(&self, claim: &Claim) -> Result<(), CheckpointError> {
        claim.file.sync_data().map_err(|source| CheckpointError {
            action: "write",
            path: self.directory(&claim.container).join(INTENT_FILE),
            source,
        })
    }

    /// Records the result of an attach. Not synced: see the module's documentation.
    pub fn write_attachments(
        &self,
        container: &ContainerId,
        attachments: &[Attachment],
    ) -> Result<(), CheckpointError> {
        let path = self.directory(container).join(ATTACHMENTS_FILE);
        let failed = |source| CheckpointError {
            action: "write",
            path: path.clone(),
            source,
        };
        let json = serde_json::to_vec(attachments)
            .map_err(io::Error::from)
            .map_err(failed)?;
        // A reader that comes between the creation and the write takes it as missing.
        write_regular_file(&path, &json).map_err(failed)
    }

    /// The directory that has one directory per container.
    #[must_use]
    pub fn root(&self) -> PathBuf {
        self.state_dir.join("containers")
    }

    /// Locks the checkpoints to repair the host's side of the attached containers; none if there has
    /// never been a container. Waits for another repair, for a short time.
    pub fn lock_for_repair(&self) -> Result<Option<RepairLock>, CheckpointError> {
        let path = self.root();
        let failed = |source| CheckpointError {
            action: "lock",
            path: path.clone(),
            source,
        };
        let directory = match File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => opened.map_err(failed)?,
        };
        if !wait_for_lock(REPAIR_TIMEOUT, || directory.try_lock()).map_err(failed)? {
            let error = "another process repairs the host's side of containers";
            return Err(failed(io::Error::new(io::ErrorKind::TimedOut, error)));
        }
        Ok(Some(RepairLock {
            deadline: Instant::now() + REPAIR_TIMEOUT,
            _directory: directory,
        }))
    }

    /// Before anything of a container is detached: from when this returns, nobody gives anything
    /// back to it. Idempotent. Waits for a repair in progress.
    pub fn begin_detach(&self, container: &ContainerId) -> Result<(), CheckpointError> {
        let directory = self.directory(container);
        let path = directory.join(ATTACHMENTS_FILE);
        match fs::rename(&path, directory.join(DETACHING_FILE)) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                return Err(CheckpointError {
                    action: "rename",
                    path,
                    source,
                });
            }
            _ => {}
        }
        // A repair that began before may have read the file.
        let path = self.root();
        let failed = |source| CheckpointError {
            action: "lock",
            path: path.clone(),
            source,
        };
        let directory = match File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            opened => opened.map_err(failed)?,
        };
        if !wait_for_lock(DETACH_LOCK_TIMEOUT, || directory.try_lock_shared()).map_err(failed)? {
            log::warn!(
                container:%;
                "the node daemon does not end its repair; the detach goes on without waiting for it"
            );
        }
        Ok(())
    }

    /// When the attach of a container was complete; none while it is not, or its detach has begun.
    #[must_use]
    pub fn attached_since(&self, container: &ContainerId) -> Option<SystemTime> {
        let path = self.directory(container).join(ATTACHMENTS_FILE);
        fs::symlink_metadata(path).ok()?.modified().ok()
    }

    /// What a container whose detach has begun was attached with, and since when; none if its detach
    /// has not begun, or its attach was never complete.
    #[must_use]
    pub fn detaching(&self, container: &ContainerId) -> Option<(Vec<Attachment>, SystemTime)> {
        let path = self.directory(container).join(DETACHING_FILE);
        let attachments = read_json(&path).ok()?;
        let since = fs::symlink_metadata(&path).ok()?.modified().ok()?;
        Some((attachments, since))
    }

    /// Removes the container's directory and everything in it. Idempotent.
    pub fn remove(&self, container: &ContainerId) -> Result<(), CheckpointError> {
        let path = self.directory(container);
        // First: while the directory has no intent any more, it looks damaged.
        let _ = fs::remove_file(path.join(DETACHING_FILE));
        let remove = || fs::remove_dir_all(&path);
        let removed = match remove() {
            // An operator changed the container's groups at that moment.
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => remove(),
            other => other,
        };
        match removed {
            Err(source) if source.kind() != io::ErrorKind::NotFound => Err(CheckpointError {
                action: "remove",
                path,
                source,
            }),
            _ => Ok(()),
        }
    }

    /// Reads the checkpoint of a container.
    #[must_use]
    pub fn find(&self, container: &ContainerId) -> Option<StoredCheckpoint> {
        let directory = self.directory(container);
        let exists = fs::symlink_metadata(directory.join(INTENT_FILE)).is_ok();
        exists.then(|| load(&directory, container.file_name().into()))
    }

    /// Reads the checkpoint of the container whose id is printed as `id`: parts that are nested are
    /// separated by dots, and an operator may have chosen a name with dots.
    pub fn find_printed(&self, id: &str) -> Result<Option<StoredCheckpoint>, CheckpointError> {
        let names = [
            ContainerId::top_level(id).file_name(),
            ContainerId::printed(id).file_name(),
        ];
        Ok(self.load_all()?.into_iter().find(|stored| match stored {
            StoredCheckpoint::Intact { checkpoint, .. } => checkpoint.container.to_string() == id,
            StoredCheckpoint::Damaged { file_name, .. } => {
                names.iter().any(|name| name.as_str() == file_name)
            }
        }))
    }

    /// Reads all checkpoints.
    pub fn load_all(&self) -> Result<Vec<StoredCheckpoint>, CheckpointError> {
        let names = self.file_names()?;
        Ok(names.iter().map(|name| self.load(name)).collect())
    }

    /// Reads the checkpoint in the directory of that name.
    pub(crate) fn load(&self, file_name: &OsStr) -> StoredCheckpoint {
        let directory = self.state_dir.join("containers").join(file_name);
        load(&directory, file_name.to_owned())
    }

    /// The names of the containers' directories.
    pub(crate) fn file_names(&self) -> Result<Vec<OsString>, CheckpointError> {
        let path = self.root();
        let failed = |source| CheckpointError {
            action: "list",
            path: path.clone(),
            source,
        };
        let entries = match fs::read_dir(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(failed)?,
        };
        let name = |entry: io::Result<fs::DirEntry>| entry.map(|entry| entry.file_name());
        entries.map(name).collect::<Result<_, _>>().map_err(failed)
    }

    /// Moves the directory of a damaged checkpoint out of the way, for an operator to inspect.
    /// Returns its new path.
    pub fn set_aside(&self, file_name: &OsStr) -> Result<PathBuf, CheckpointError> {
        let directory = self.state_dir.join("damaged");
        let milliseconds = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |time| time.as_millis());
        let mut name = file_name.to_owned();
        name.push(format!("-{milliseconds}"));
        let target = directory.join(name);
        fs::create_dir_all(&directory)
            .and_then(|()| fs::rename(self.root().join(file_name), &target))
            .map_err(|source| CheckpointError {
                action: "move aside to",
                path: target.clone(),
                source,
            })?;
        Ok(target)
    }
}

/// Tries a lock until `timeout`. Returns whether it was acquired.
fn wait_for_lock(
    timeout: Duration,
    mut try_lock: impl FnMut() -> Result<(), TryLockError>,
) -> io::Result<bool> {
    let start = Instant::now();
    loop {
        match try_lock() {
            Ok(()) => return Ok(true),
            Err(TryLockError::Error(error)) => return Err(error),
            Err(TryLockError::WouldBlock) if start.elapsed() < timeout => {
                std::thread::sleep(LOCK_INTERVAL);
            }
            Err(TryLockError::WouldBlock) => return Ok(false),
        }
    }
}

pub(super) fn load(directory: &Path, file_name: OsString) -> StoredCheckpoint {
    match read_intent(directory, &file_name) {
        Ok(checkpoint) => {
            // Only a hint: without it the addresses are those of the intent.
            let attachments = read_json(&directory.join(ATTACHMENTS_FILE))
                .ok()
                .filter(|all: &Vec<Attachment>| all.len() == checkpoint.networks.len());
            StoredCheckpoint::Intact {
                checkpoint: Box::new(checkpoint),
                attachments,
            }
        }
        Err(UnreadableIntent { is_newer, error }) => StoredCheckpoint::Damaged {
            file_name,
            is_newer,
            error,
        },
    }
}

/// Why an intent cannot be read.
struct UnreadableIntent {
    is_newer: bool,
    error: String,
}

fn read_intent(directory: &Path, file_name: &OsStr) -> Result<Checkpoint, UnreadableIntent> {
    #[derive(Deserialize)]
    struct Layout {
        version: u32,
    }
    let path = directory.join(INTENT_FILE);
    let fail = |message: String| UnreadableIntent {
        is_newer: false,
        error: format!("{}: {message}", path.display()),
    };
    let layout: Layout = read_json(&path).map_err(|error| fail(error.to_string()))?;
    let checkpoint: Checkpoint = match layout.version {
        LAYOUT_VERSION => read_json(&path).map_err(|error| fail(error.to_string()))?,
        newer @ LAYOUT_VERSION.. => {
            return Err(UnreadableIntent {
                is_newer: true,
                ..fail(format!(
                    "written by a newer version (layout {newer}, this version reads layouts up to \
                     {LAYOUT_VERSION})"
                ))
            });
        }
        unknown => return Err(fail(format!("no version writes layout {unknown}"))),
    };
    // A copied or renamed directory must not cause another container's detach.
    if checkpoint.container.file_name().as_str() != file_name {
        return Err(fail(format!(
            "belongs to container {}, not to the one that its directory names",
            checkpoint.container
        )));
    }
    Ok(checkpoint)
}

fn read_json<T: DeserializeOwned>(path: &Path) -> io::Result<T> {
    let json = read_regular_file(path)?;
    serde_json::from_slice(&json).map_err(io::Error::from)
}

#[cfg(test)]
mod tests;
