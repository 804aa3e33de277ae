//! What survives the agent: one directory a container under `<state_dir>/containers`.
//!
//! ```text
//! <state_dir>/containers/<container>/
//!     intent.json     everything that was about to be made, fsynced before any of it was made
//!     attached.json   what was made beyond that; a hint for status, never needed for a detach
//!     hosts hostname resolv.conf
//! <state_dir>/damaged/<container>-<time>   what could not be read, moved aside
//! ```
//!
//! Invariants: nothing is made before `intent.json` is durable. It is written once, in place: a
//! file that a crash cut short is from before anything was made. `attached.json` is not synced,
//! for a crash of the machine ends every container.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::network_request::Request;
use crate::proto::mesos::network_info::PortMapping;
use crate::proto::mesos::{Label, Labels, NetworkInfo};
use crate::provider::{Attachment, Intent};
use contrail_mesos_api::container::ContainerId;

/// The layout that this version writes; a newer one is set aside, not guessed at.
const VERSION: u32 = 1;
const INTENT: &str = "intent.json";
const ATTACHED: &str = "attached.json";

/// Why a checkpoint could not be written, read or removed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {path}: {source}; see that the state directory is on a writable file system with space left", path = path.display())]
pub struct CheckpointError {
    /// What was tried.
    pub action: &'static str,
    /// On which file.
    pub path: PathBuf,
    /// Why it failed.
    #[source]
    pub source: io::Error,
}

/// Who attached a container, and so who may clean up after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Owner {
    /// The agent: a container that it does not know is an orphan.
    Agent,
    /// An operator, by the command line: nobody else detaches it.
    Operator,
}

/// The executor that a container was launched for.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ExecutorKey {
    /// Framework id.
    pub framework: String,
    /// Executor id; for a command task this is the task's id.
    pub executor: String,
}

/// Everything that is about to be made for one container.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Checkpoint {
    version: u32,
    /// The container.
    pub container: ContainerId,
    /// Who attached it.
    pub owner: Owner,
    /// The executor, where the agent named one.
    pub executor: Option<ExecutorKey>,
    /// The container's hostname.
    pub hostname: String,
    /// Its networks, in order.
    pub networks: Vec<CheckpointedNetwork>,
}

/// One network of a checkpointed container.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CheckpointedNetwork {
    /// What the provider is about to make.
    pub intent: Intent,
    /// What the framework asked for.
    pub asked: Asked,
}

/// The parts of a `NetworkInfo` that go back to the framework as they came. All of it has passed
/// through `labels`, so it is UTF-8.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Asked {
    groups: Vec<String>,
    labels: Option<Vec<(String, Option<String>)>>,
    port_mappings: Vec<(u32, u32, Option<String>)>,
}

impl Asked {
    fn new(info: &NetworkInfo) -> Self {
        let text = |bytes: &Vec<u8>| String::from_utf8_lossy(bytes).into_owned();
        Self {
            groups: info.groups.iter().map(text).collect(),
            labels: info.labels.as_ref().map(|labels| {
                let label = |label: &Label| (text(&label.key), label.value.as_ref().map(text));
                labels.labels.iter().map(label).collect()
            }),
            port_mappings: info
                .port_mappings
                .iter()
                .map(|port| {
                    (
                        port.host_port,
                        port.container_port,
                        port.protocol.as_ref().map(text),
                    )
                })
                .collect(),
        }
    }

    /// The `NetworkInfo` again, without addresses.
    #[must_use]
    pub fn network_info(&self, name: &str) -> NetworkInfo {
        let bytes = |text: &String| text.clone().into_bytes();
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
    /// The checkpoint of a request whose networks have been reserved as `intents`, in order.
    #[must_use]
    pub fn new(
        container: &ContainerId,
        owner: Owner,
        executor: Option<ExecutorKey>,
        request: &Request,
        intents: Vec<Intent>,
    ) -> Self {
        let asked = request.infos.iter().map(Asked::new);
        Self {
            version: VERSION,
            container: container.clone(),
            owner,
            executor,
            hostname: request.hostname.clone(),
            networks: intents
                .into_iter()
                .zip(asked)
                .map(|(intent, asked)| CheckpointedNetwork { intent, asked })
                .collect(),
        }
    }
}

/// A checkpoint as found after a restart.
#[derive(Debug)]
pub enum Found {
    /// A container, and what was made for it if its attach came to an end.
    Container(Box<Checkpoint>, Option<Vec<Attachment>>),
    /// A directory whose intent cannot be read.
    Damaged {
        /// The directory's name: the container's [`ContainerId::file_name`].
        file_name: OsString,
        /// What is wrong with it.
        error: String,
    },
}

/// The checkpoints of one state directory. Every call blocks on the file system.
#[derive(Clone, Debug)]
pub struct Checkpoints {
    state_dir: PathBuf,
}

impl Checkpoints {
    /// The checkpoints below `state_dir`, which is created at the first write.
    #[must_use]
    pub fn new(state_dir: &Path) -> Self {
        Self {
            state_dir: state_dir.to_owned(),
        }
    }

    /// The container's own directory.
    #[must_use]
    pub fn directory(&self, container: &ContainerId) -> PathBuf {
        self.state_dir
            .join("containers")
            .join(container.file_name())
    }

    /// Writes the intent, which is durable once [`Checkpoints::sync_intent`] says so of the file
    /// returned. Refuses a container that has one already.
    pub fn write_intent(&self, checkpoint: &Checkpoint) -> Result<File, CheckpointError> {
        let directory = self.directory(&checkpoint.container);
        let failed = |action, path: &Path| {
            let path = path.to_owned();
            move |source| CheckpointError {
                action,
                path,
                source,
            }
        };
        fs::create_dir_all(&directory).map_err(failed("create", &directory))?;
        let path = directory.join(INTENT);
        let text = serde_json::to_vec(checkpoint)
            .map_err(io::Error::from)
            .map_err(failed("encode", &path))?;
        let mut file = File::options()
            .write(true)
            .create_new(true)
            // What CNI plugins are configured with may be secret.
            .mode(0o600)
            .open(&path)
            .map_err(failed("create", &path))?;
        match file.write_all(&text) {
            Ok(()) => Ok(file),
            Err(source) => {
                // Nothing was made yet, so nothing needs the file; the first error is the one to
                // tell.
                let _ = fs::remove_dir_all(&directory);
                Err(failed("write", &path)(source))
            }
        }
    }

    /// Waits until an intent that was just written is on the disk.
    pub fn sync_intent(&self, container: &ContainerId, file: &File) -> Result<(), CheckpointError> {
        file.sync_data().map_err(|source| CheckpointError {
            action: "write",
            path: self.directory(container).join(INTENT),
            source,
        })
    }

    /// Records what an attach made. Not synced: see the module's documentation.
    pub fn write_attached(
        &self,
        container: &ContainerId,
        attachments: &[Attachment],
    ) -> Result<(), CheckpointError> {
        let path = self.directory(container).join(ATTACHED);
        let failed = |source| CheckpointError {
            action: "write",
            path: path.clone(),
            source,
        };
        let text = serde_json::to_vec(attachments)
            .map_err(io::Error::from)
            .map_err(failed)?;
        let new = path.with_extension("new");
        fs::write(&new, text)
            .and_then(|()| fs::rename(&new, &path))
            .map_err(failed)
    }

    /// Forgets the container: its directory and everything in it. Idempotent.
    pub fn remove(&self, container: &ContainerId) -> Result<(), CheckpointError> {
        let path = self.directory(container);
        match fs::remove_dir_all(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => Err(CheckpointError {
                action: "remove",
                path,
                source,
            }),
            _ => Ok(()),
        }
    }

    /// Everything that is there.
    pub fn find(&self) -> Result<Vec<Found>, CheckpointError> {
        let path = self.state_dir.join("containers");
        let failed = |source| CheckpointError {
            action: "list",
            path: path.clone(),
            source,
        };
        let entries = match fs::read_dir(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(failed)?,
        };
        let mut found = Vec::new();
        for entry in entries {
            let entry = entry.map_err(failed)?;
            found.push(read(&entry.path(), entry.file_name()));
        }
        Ok(found)
    }

    /// Moves a damaged container's directory out of the way, for an operator to look at; returns
    /// where it went.
    pub fn set_aside(&self, file_name: &OsString) -> Result<PathBuf, CheckpointError> {
        let directory = self.state_dir.join("damaged");
        let seconds = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |time| time.as_millis());
        let mut name = file_name.clone();
        name.push(format!("-{seconds}"));
        let target = directory.join(name);
        fs::create_dir_all(&directory)
            .and_then(|()| fs::rename(self.state_dir.join("containers").join(file_name), &target))
            .map_err(|source| CheckpointError {
                action: "move aside to",
                path: target.clone(),
                source,
            })?;
        Ok(target)
    }
}

fn read(directory: &Path, file_name: OsString) -> Found {
    match read_intent(directory, &file_name) {
        Ok(checkpoint) => {
            // Only a hint: without it the addresses are those of the intent.
            let attachments: Option<Vec<Attachment>> = read_json(&directory.join(ATTACHED)).ok();
            let complete = attachments.filter(|made| made.len() == checkpoint.networks.len());
            Found::Container(Box::new(checkpoint), complete)
        }
        Err(error) => Found::Damaged { file_name, error },
    }
}

fn read_intent(directory: &Path, file_name: &OsString) -> Result<Checkpoint, String> {
    #[derive(Deserialize)]
    struct Versioned {
        version: u32,
    }
    let path = directory.join(INTENT);
    let described = |error: io::Error| format!("{}: {error}", path.display());
    let Versioned { version } = read_json(&path).map_err(described)?;
    if version != VERSION {
        return Err(format!(
            "{}: written by a newer version (layout {version}, this one knows {VERSION})",
            path.display()
        ));
    }
    let checkpoint: Checkpoint = read_json(&path).map_err(described)?;
    // A file that was copied or renamed must not make us detach somebody else.
    if checkpoint.container.file_name().as_str() != file_name {
        return Err(format!(
            "{}: is of container {}, not of its directory's",
            path.display(),
            checkpoint.container
        ));
    }
    Ok(checkpoint)
}

fn read_json<T: DeserializeOwned>(path: &Path) -> io::Result<T> {
    let text = fs::read(path)?;
    serde_json::from_slice(&text).map_err(io::Error::from)
}
