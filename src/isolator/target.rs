//! Where a container's namespaces are, and their handle.

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use super::error::IsolatorError;
use crate::plumbing::container::Namespaces;
use crate::plumbing::netns::{self, Kind, handles};

/// Where a container's namespaces are.
#[derive(Clone, Debug)]
pub enum Target {
    /// Those of a process. The hostname is set in its UTS namespace.
    Process(u32),
    /// A network namespace, by path. There is no hostname to set.
    Namespace(PathBuf),
}

impl Target {
    pub(super) fn open(&self) -> Result<Namespaces, IsolatorError> {
        Ok(match self {
            Self::Process(pid) => {
                let own = netns::of_this_thread(Kind::Uts)?;
                let uts = netns::of_pid(*pid, Kind::Uts)?;
                // A process on the host's hostname keeps it, and so does the host.
                let shared = netns::same(&own, &uts).map_err(IsolatorError::Descriptor)?;
                Namespaces {
                    network: netns::of_pid(*pid, Kind::Net)?,
                    uts: (!shared).then_some(uts),
                }
            }
            Self::Namespace(path) => Namespaces {
                network: netns::of_path(path)?,
                uts: None,
            },
        })
    }

    /// Refuses the host's own network namespace, which attaching would turn upside down.
    pub(super) fn check(&self, namespaces: &Namespaces) -> Result<(), IsolatorError> {
        let own = netns::of_this_thread(Kind::Net)?;
        if netns::same(&own, &namespaces.network).map_err(IsolatorError::Descriptor)? {
            return Err(IsolatorError::HostNamespace(self.to_string()));
        }
        Ok(())
    }
}

/// Makes `handle` the name of a network namespace.
pub(super) fn pin(network: impl AsFd, handle: &Path) -> Result<(), IsolatorError> {
    if let Some(directory) = handle.parent() {
        handles::prepare_directory(directory)?;
    }
    Ok(handles::pin(network, handle)?)
}

impl std::fmt::Display for Target {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Process(pid) => write!(formatter, "process {pid}"),
            Self::Namespace(path) => write!(formatter, "{}", path.display()),
        }
    }
}
