//! Finding a container's namespaces, and pinning its network namespace.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use super::error::IsolatorError;
use crate::net::netns::{self, Kind, handles};

/// The namespaces of one container.
pub(super) struct Namespaces {
    pub(super) network: OwnedFd,
    /// `None` if the container shares the host's.
    pub(super) uts: Option<OwnedFd>,
}

/// The namespaces that an attach works on.
#[derive(Clone, Debug)]
pub enum Target {
    /// Those of a process, by its id. The hostname is set in its UTS namespace.
    Process(u32),
    /// A network namespace, by path. No hostname is set.
    Namespace(PathBuf),
}

impl Target {
    pub(super) fn open(&self) -> Result<Namespaces, IsolatorError> {
        Ok(match self {
            Self::Process(pid) => {
                let own = netns::of_this_thread(Kind::Uts)?;
                let uts = netns::of_pid(*pid, Kind::Uts)?;
                // In a shared UTS namespace the hostname is the host's, which must not change.
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

    /// Refuses the host's network namespace, whose routes and addresses an attach would replace.
    pub(super) fn check(&self, namespaces: &Namespaces) -> Result<(), IsolatorError> {
        if netns::is_hosts(&namespaces.network).map_err(IsolatorError::Descriptor)? {
            return Err(IsolatorError::HostNamespace(self.to_string()));
        }
        Ok(())
    }
}

/// Binds `network` to the path `handle`.
pub(super) fn pin(network: impl AsFd, handle: &Path) -> Result<(), IsolatorError> {
    Ok(handles::prepare_and_pin(network, handle)?)
}

impl std::fmt::Display for Target {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Process(pid) => write!(formatter, "process {pid}"),
            Self::Namespace(path) => write!(formatter, "{}", path.display()),
        }
    }
}
