//! Errors of the vRouter client.

use std::fmt;
use std::time::Duration;

use uuid::Uuid;

use contrail_mesos_api::http::{ApiError, HttpError};

/// A failed call to the vRouter agent.
pub type VrouterError = ApiError<VrouterErrorKind>;

/// What went wrong with one call.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VrouterErrorKind {
    /// The agent cannot be reached.
    #[error(
        "it cannot be reached: {problem}; check that contrail-vrouter-agent runs on this host and \
         listens at this address and port"
    )]
    Unreachable {
        /// What went wrong.
        problem: String,
    },
    /// There is no complete response. The agent may have handled the request, and repeating it is
    /// harmless.
    #[error("it did not answer: {problem}; check its log")]
    Unanswered {
        /// What went wrong.
        problem: String,
    },
    /// The agent refuses the request.
    #[error("it refuses with {status}: {message}")]
    Refused {
        /// The status code.
        status: u16,
        /// The agent's message.
        message: String,
    },
    /// The response is not one of the port service.
    #[error(
        "it sent an invalid response: {problem}; check that the port is that of its port service"
    )]
    InvalidResponse {
        /// What is wrong with it.
        problem: String,
    },
}

impl VrouterErrorKind {
    /// Whether a later attempt may succeed.
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

/// A container was not ready at the deadline.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("container {machine} is not ready at the vRouter agent after {waited:.1?}: {missing}")]
pub struct NotReady {
    /// The uuid of the virtual-machine.
    pub machine: Uuid,
    /// The time that was spent waiting.
    pub waited: Duration,
    /// What was missing at the deadline.
    pub missing: Missing,
}

/// What a container is waiting for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Missing {
    /// The agent, or a valid response.
    #[error(transparent)]
    Agent(#[from] VrouterError),
    /// The agent has no configuration of the container, or an interface has no network.
    #[error(
        "the agent has no configuration of it; check that the virtual-router object of this \
         host refers to the virtual-machine, that its interfaces have a virtual-network, and that \
         the agent is connected to a control node"
    )]
    Configuration,
    /// An interface lacks the annotation `index`.
    #[error(
        "interface {interface} has no annotation \"index\" such as \"0/1\", so the \
         number of interfaces is unknown; set it when creating the virtual-machine-interface"
    )]
    Index {
        /// The virtual-machine-interface.
        interface: Uuid,
    },
    /// Some interfaces are missing.
    #[error("{0}; check that the others exist and have a virtual-network")]
    Interfaces(Incomplete),
    /// The configuration was removed meanwhile.
    #[error(
        "its configuration was removed from the agent: the container was deleted, or unlinked from \
         this host's virtual-router object, in the meantime"
    )]
    Withdrawn,
    /// The agent has the configuration, but no address.
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

/// Which interfaces are present or missing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Incomplete {
    /// By the annotation `index`.
    Indices {
        /// The interfaces that are present, each with the number of interfaces that it announces.
        present: Vec<(usize, usize)>,
    },
    /// By uuid.
    Uuids {
        /// The missing interfaces.
        missing: Vec<Uuid>,
    },
}

impl fmt::Display for Incomplete {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Indices { present } => {
                let present: Vec<String> = present
                    .iter()
                    .map(|(index, of)| format!("{index}/{of}"))
                    .collect();
                write!(
                    formatter,
                    "the agent has only the interfaces with index {}",
                    present.join(", ")
                )
            }
            Self::Uuids { missing } => {
                write!(formatter, "the agent has no interface {}", list(missing))
            }
        }
    }
}

fn list(uuids: &[Uuid]) -> String {
    let uuids: Vec<String> = uuids.iter().map(Uuid::to_string).collect();
    uuids.join(", ")
}
