//! The isolator's errors. Their text becomes the message of the task's status.

use std::io;
use std::time::Duration;

use super::checkpoint::CheckpointError;
use super::etc_files::EtcFilesError;
use crate::config::ConfigError;
use crate::net::netns::NetnsError;
use crate::network_request::RequestError;
use crate::provider::ProviderErrors;
use tokio::task::JoinError;

/// Why a container could not be attached or detached.
#[derive(Debug, thiserror::Error)]
pub enum IsolatorError {
    /// The framework's request is invalid.
    #[error("{0}")]
    Request(#[from] RequestError),
    /// The agent's configuration has errors.
    #[error("the agent's network configuration is not usable: {0}")]
    Config(#[from] ConfigError),
    /// Providers refused or failed.
    #[error(transparent)]
    Provider(#[from] ProviderErrors),
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
        "{0} is in the host's own network namespace, which must not be attached; start it in a network namespace of its own"
    )]
    HostNamespace(String),
    /// A file descriptor could not be duplicated or inspected.
    #[error("cannot use the descriptor of a namespace: {0}; is the limit of open files reached?")]
    Descriptor(#[source] io::Error),
    /// A step did not end before its deadline. It continues in the background.
    #[error(
        "{step} did not end within {after:?}; see the agent's log, and deadlines.{step} in the configuration if the host is slow"
    )]
    Deadline {
        /// The step, by the name of its deadline in the configuration.
        step: &'static str,
        /// The deadline.
        after: Duration,
    },
    /// The container was prepared before.
    #[error(
        "container {0} already has networks; if it has ended, restart the agent to clean up after it"
    )]
    AlreadyAttached(String),
    /// The container's id, or its namespace, is in use.
    #[error("{0}")]
    InUse(String),
    /// Independent errors.
    #[error("{}", list(.0))]
    Multiple(Vec<IsolatorError>),
    /// A task of ours panicked.
    #[error("internal error: {0}; please report it with the agent's log")]
    Internal(#[from] JoinError),
}

fn list<E: ToString>(errors: &[E]) -> String {
    errors
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join("; ")
}

impl IsolatorError {
    /// Combines errors into one; `Ok` if there are none.
    pub(super) fn combine(mut errors: Vec<Self>) -> Result<(), Self> {
        match errors.len() {
            0 => Ok(()),
            1 => Err(errors.remove(0)),
            _ => Err(Self::Multiple(errors)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::error::Error;
    use std::path::Path;

    use contrail_mesos_api::text::with_causes;

    use super::*;
    use crate::isolator::checkpoint::Checkpoints;
    use crate::net::netns;
    use crate::provider::{BoxError, ProviderError};

    /// Our errors say their causes; `with_causes` prints each once.
    #[test]
    fn every_cause_is_said_once() {
        let namespace = || netns::of_path(Path::new("/nonexistent/namespace")).unwrap_err();
        let checkpoint = || {
            Checkpoints::new(Path::new("/dev/null"))
                .load_all()
                .unwrap_err()
        };
        let provider = |source: BoxError| ProviderError::Failed {
            network: "blue".to_owned(),
            action: "attach".to_owned(),
            source,
        };
        let errors: [Box<dyn Error>; 6] = [
            Box::new(namespace()),
            Box::new(checkpoint()),
            Box::new(IsolatorError::from(namespace())),
            Box::new(IsolatorError::from(checkpoint())),
            Box::new(provider(Box::new(namespace()))),
            Box::new(provider(Box::new(checkpoint()))),
        ];
        for error in errors {
            let text = with_causes(error.as_ref());
            assert_eq!(text.matches("os error").count(), 1, "{text}");
            let mut next = error.source();
            while let Some(cause) = next {
                assert_eq!(text.matches(&cause.to_string()).count(), 1, "{text}");
                next = cause.source();
            }
        }
    }
}
