//! What every container's namespaces need, whoever attaches them: loopback and a hostname.

use std::os::fd::OwnedFd;

use super::links;
use super::netlink::{NetlinkError, NetlinkSocket};
use super::netns::{Kind, NetnsError, OwnThread};

/// Why a container's namespaces could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum SetUpError {
    /// A namespace could not be entered.
    #[error(transparent)]
    Namespace(#[from] NetnsError),
    /// The kernel refused to bring loopback up.
    #[error(transparent)]
    Loopback(#[from] NetlinkError),
    /// The kernel refused the hostname.
    #[error("cannot set the hostname {name:?}: {source}")]
    Hostname {
        /// The hostname.
        name: String,
        /// Why not.
        #[source]
        source: nix::Error,
    },
}

/// The namespaces of one container.
#[derive(Debug)]
pub struct Namespaces {
    /// Network.
    pub network: OwnedFd,
    /// UTS, where the container has one of its own.
    pub uts: Option<OwnedFd>,
}

/// Brings loopback up and sets the hostname, on a thread of its own.
pub fn set_up(
    mut thread: OwnThread,
    namespaces: Namespaces,
    hostname: &str,
) -> Result<(), SetUpError> {
    if let Some(uts) = namespaces.uts {
        thread.enter(uts, Kind::Uts)?;
        nix::unistd::sethostname(hostname).map_err(|source| SetUpError::Hostname {
            name: hostname.to_owned(),
            source,
        })?;
    }
    thread.enter(namespaces.network, Kind::Net)?;
    NetlinkSocket::route()?.execute_all(&[links::set_up("lo", None)])?;
    Ok(())
}
