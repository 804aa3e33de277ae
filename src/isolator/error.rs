//! Why the isolator failed a container. The text becomes the message of the task's status.

use std::io;
use std::time::Duration;

use super::checkpoint::CheckpointError;
use super::etc_files::EtcFilesError;
use crate::config::ConfigError;
use crate::net::netns::NetnsError;
use crate::network_request::RequestError;
use crate::provider::ProviderError;

/// Why a step of a container's life failed.
#[derive(Debug, thiserror::Error)]
pub enum IsolatorError {
    /// The framework asks for what cannot be.
    #[error("{0}")]
    Request(#[from] RequestError),
    /// The agent's configuration is not usable now.
    #[error("the agent's network configuration is not usable: {0}")]
    Config(#[from] ConfigError),
    /// Providers refused or failed.
    #[error("{}", list(.0))]
    Provider(Vec<ProviderError>),
    /// The checkpoint could not be written or removed.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The container's files below /etc could not be written or bound.
    #[error(transparent)]
    EtcFiles(#[from] EtcFilesError),
    /// A namespace of the container could not be used.
    #[error(transparent)]
    Namespace(#[from] NetnsError),
    /// The container is in the host's network namespace.
    #[error(
        "{0} is in the host's own network namespace, which must not be attached; was CLONE_NEWNET lost on the way?"
    )]
    HostNamespace(String),
    /// A file descriptor could not be used.
    #[error("cannot use the descriptor of a namespace: {0}; is the limit of open files reached?")]
    Descriptor(#[source] io::Error),
    /// A step did not come to an end in time.
    #[error(
        "{step} did not end within {after:?}; see the agent's log, and deadlines.{step} in the configuration if the host is slow"
    )]
    Deadline {
        /// The step, as its deadline is called in the configuration.
        step: &'static str,
        /// The deadline.
        after: Duration,
    },
    /// The container exists already.
    #[error("container {0} has networks already")]
    Exists(String),
    /// Several things went wrong, and all of them matter.
    #[error("{}", list(.0))]
    Several(Vec<IsolatorError>),
    /// A defect of ours.
    #[error("internal error in {0}; please report it with the agent's log")]
    Internal(&'static str),
}

fn list<E: ToString>(errors: &[E]) -> String {
    errors
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join("; ")
}

impl IsolatorError {
    /// All of them as one; `Ok` for none.
    pub(super) fn all(mut errors: Vec<Self>) -> Result<(), Self> {
        match errors.len() {
            0 => Ok(()),
            1 => Err(errors.remove(0)),
            _ => Err(Self::Several(errors)),
        }
    }
}
