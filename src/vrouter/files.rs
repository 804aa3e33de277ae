//! Port files: from them the agent and this program restore live interfaces after a restart.
//!
//! `<directory>/<container>/<interface>`, both uuids. Invariants: names consist of uuids only, so
//! that no path leads elsewhere; a file is complete or absent. Everything here blocks on the file
//! system.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use uuid::Uuid;

use super::port::Port;
use contrail_mesos_api::files::{read_regular_file, write_regular_file};

/// The agent's directory of port files.
pub const DEFAULT_DIRECTORY: &str = "/var/lib/contrail/ports/vm";

/// A port file that cannot be written, read or removed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} the port file {}: {source}", path.display())]
pub struct PortFileError {
    /// The operation that failed.
    pub action: &'static str,
    /// The file or directory.
    pub path: PathBuf,
    /// What went wrong.
    pub source: io::Error,
}

/// The port files of a host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortFiles {
    directory: PathBuf,
}

impl PortFiles {
    /// The files in this directory, which need not exist yet.
    #[must_use]
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        Self {
            directory: directory.into(),
        }
    }

    /// Writes the file of an interface, replacing an older one.
    pub fn write(&self, port: &Port) -> Result<(), PortFileError> {
        let directory = self.container_directory(port.vm_uuid);
        let path = directory.join(port.vmi_uuid.to_string());
        let write = || {
            fs::create_dir_all(&directory)?;
            let mut text = serde_json::to_string_pretty(port)?;
            text.push('\n');
            // Not synced: after a crash of the host there is no container for this port. The agent
            // ignores names that are not uuids.
            let temporary = directory.join(format!(".{}.new", port.vmi_uuid));
            write_regular_file(&temporary, text.as_bytes())?;
            fs::rename(&temporary, &path)
        };
        write().map_err(|source| failed("write", &path, source))
    }

    /// The containers that have files.
    pub fn machines(&self) -> Result<Vec<Uuid>, PortFileError> {
        uuids_in(&self.directory)
    }

    /// The interfaces of a container that have files.
    pub fn interfaces(&self, machine: Uuid) -> Result<Vec<Uuid>, PortFileError> {
        uuids_in(&self.container_directory(machine))
    }

    /// The interfaces of a container. An unreadable file does not hide the others.
    pub fn ports(&self, machine: Uuid) -> Result<Vec<Result<Port, PortFileError>>, PortFileError> {
        let directory = self.container_directory(machine);
        let read = |uuid: Uuid| {
            let path = directory.join(uuid.to_string());
            read_regular_file(&path)
                .and_then(|text| Ok(serde_json::from_slice(&text)?))
                .map_err(|source| failed("read", &path, source))
        };
        Ok(self.interfaces(machine)?.into_iter().map(read).collect())
    }

    /// Removes all files of a container. Returns whether there were any.
    pub fn remove(&self, machine: Uuid) -> Result<bool, PortFileError> {
        let directory = self.container_directory(machine);
        match fs::remove_dir_all(&directory) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            // The agent removes them at the same time.
            Err(_) if !directory.exists() => Ok(true),
            Err(source) => Err(failed("remove", &directory, source)),
        }
    }

    fn container_directory(&self, machine: Uuid) -> PathBuf {
        self.directory.join(machine.to_string())
    }
}

/// The entries whose names are uuids; none if the directory is missing.
fn uuids_in(directory: &Path) -> Result<Vec<Uuid>, PortFileError> {
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(vec![]),
        entries => entries.map_err(|source| failed("list", directory, source))?,
    };
    let mut uuids = vec![];
    for entry in entries {
        let entry = entry.map_err(|source| failed("list", directory, source))?;
        let name = entry.file_name();
        // The canonical form only.
        let uuid = name.to_str().and_then(|name| {
            let uuid: Uuid = name.parse().ok()?;
            (uuid.to_string() == name).then_some(uuid)
        });
        uuids.extend(uuid);
    }
    uuids.sort();
    Ok(uuids)
}

fn failed(action: &'static str, path: &Path, source: io::Error) -> PortFileError {
    PortFileError {
        action,
        path: path.to_owned(),
        source,
    }
}
