//! What goes wrong between us and the agent.

use std::fmt;
use std::time::Duration;

use uuid::Uuid;

use contrail_mesos_api::http::{ApiError, HttpError};

/// A call to the vRouter agent that did not succeed.
pub type VrouterError = ApiError<VrouterErrorKind>;

/// What went wrong with one question.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VrouterErrorKind {
    /// Nobody is there.
    #[error(
        "it cannot be reached: {problem}; check that contrail-vrouter-agent runs on this host and \
         that address and port are its"
    )]
    Unreachable {
        /// What went wrong.
        problem: String,
    },
    /// The answer never came or broke off: it may have been done. Asking again does no harm.
    #[error("it did not answer: {problem}; its log says more")]
    Unanswered {
        /// What went wrong.
        problem: String,
    },
    /// It will not.
    #[error("it refuses with {status}: {message}")]
    Refused {
        /// The status code.
        status: u16,
        /// What the agent answered.
        message: String,
    },
    /// The answer is not what the port service describes.
    #[error("it sent an invalid response: {problem}; is this its port service?")]
    InvalidResponse {
        /// What is wrong with it.
        problem: String,
    },
}

impl VrouterErrorKind {
    /// Whether it may do better when asked again.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::Unanswered { .. })
    }
}

impl From<HttpError> for VrouterErrorKind {
    fn from(error: HttpError) -> Self {
        let problem = error.to_string();
        match error {
            HttpError::Connect(_) => Self::Unreachable { problem },
            HttpError::ConnectionClosed(_) | HttpError::Timeout(_) | HttpError::IdleTimeout(_) => {
                Self::Unanswered { problem }
            }
            HttpError::BodyTooLarge(_) => Self::InvalidResponse { problem },
        }
    }
}

/// The deadline came first.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("container {machine} is not ready at the vRouter agent after {waited:.1?}: {missing}")]
pub struct NotReady {
    /// The container, as Contrail calls it.
    pub machine: Uuid,
    /// How long it was waited for.
    pub waited: Duration,
    /// What was missing to the end.
    pub missing: Missing,
}

/// What a container waits for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Missing {
    /// The agent, or a sensible answer of it.
    #[error(transparent)]
    Agent(#[from] VrouterError),
    /// The agent has not been given the container, or an interface of it has no network.
    #[error(
        "the agent has no configuration of it; check that the virtual-router object of this \
         host refers to the virtual-machine, that its interfaces have a virtual-network, and that \
         the agent is connected to a control node"
    )]
    Configuration,
    /// An interface does not say how many there are.
    #[error(
        "interface {interface} has no annotation \"index\" such as \"0/1\", so that nobody knows \
         how many to wait for; whoever makes the virtual-machine-interface must set it"
    )]
    Index {
        /// The virtual-machine-interface.
        interface: Uuid,
    },
    /// Some interfaces are not there yet.
    #[error("{0}; check that the others exist and have a virtual-network")]
    Interfaces(Incomplete),
    /// The configuration was there, and is no longer.
    #[error(
        "the agent had its configuration and lost it: the container was deleted, or unlinked from \
         this host's virtual-router object, in the meantime"
    )]
    Withdrawn,
    /// The agent has the configuration, but not the address.
    #[error(
        "the agent knows no address of it; check that every interface has an instance-ip whose \
         subnet belongs to an ipam of its virtual-network, and that the interface was registered"
    )]
    Address,
    /// The agent has addresses for some interfaces only.
    #[error(
        "the agent knows no address of the interfaces {}; check that they have an instance-ip",
        list(interfaces)
    )]
    AddressOf {
        /// The virtual-machine-interfaces.
        interfaces: Vec<Uuid>,
    },
}

/// Which interfaces are there, of how many.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Incomplete {
    /// By the annotation `index`.
    Indices {
        /// Those that are there, with how many each says there are.
        have: Vec<(usize, usize)>,
    },
    /// By uuid.
    Uuids {
        /// Those that are not there.
        without: Vec<Uuid>,
    },
}

impl fmt::Display for Incomplete {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Indices { have } => {
                let have: Vec<String> = have
                    .iter()
                    .map(|(index, of)| format!("{index}/{of}"))
                    .collect();
                write!(
                    formatter,
                    "the agent has only the interfaces with index {}",
                    have.join(", ")
                )
            }
            Self::Uuids { without } => {
                write!(formatter, "the agent has no interface {}", list(without))
            }
        }
    }
}

fn list(uuids: &[Uuid]) -> String {
    let uuids: Vec<String> = uuids.iter().map(Uuid::to_string).collect();
    uuids.join(", ")
}
