//! Why a request of an agent cannot be met, and the status that says whether to ask again.

use axum::http::StatusCode;
use uuid::Uuid;

use crate::vnc::{VncError, VncErrorKind};

/// Why a container's ports cannot be made, found or removed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ManagerError {
    /// The request is wrong. Every reason.
    #[error("{}", .0.join("; "))]
    Invalid(Vec<String>),
    /// Who asks did not show that it may.
    #[error("{0}")]
    Unauthorised(String),
    /// The container is another agent's, or was not made by this cluster's manager.
    #[error("{0}")]
    Foreign(String),
    /// Somebody else has an address that is asked for: who.
    #[error("the floating address is taken: {0}")]
    Taken(String),
    /// Another container of ours has an address that is asked for: which.
    #[error("the floating address is in use: {0}")]
    InUse(String),
    /// There is no such container.
    #[error("there is no container with the machine {0}")]
    NotFound(Uuid),
    /// The manager has not provisioned the API server yet.
    #[error("the manager is not ready: {0}; ask again")]
    NotReady(String),
    /// This manager may not write, or may not any more.
    #[error("this manager does not lead: {0}; ask again")]
    NotLeading(String),
    /// The API server did not do it.
    #[error("{0}")]
    Vnc(#[from] VncError),
    /// What the API server holds makes no sense.
    #[error("{0}")]
    InvalidResponse(String),
}

impl ManagerError {
    pub(super) fn invalid(problem: impl Into<String>) -> Self {
        Self::Invalid(vec![problem.into()])
    }

    /// The status of the answer.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        match self {
            Self::Invalid(_) => StatusCode::BAD_REQUEST,
            Self::Unauthorised(_) => StatusCode::UNAUTHORIZED,
            Self::Foreign(_) => StatusCode::FORBIDDEN,
            Self::Taken(_) | Self::InUse(_) => StatusCode::CONFLICT,
            Self::NotFound(_) => StatusCode::NOT_FOUND,
            Self::NotReady(_) | Self::NotLeading(_) => StatusCode::SERVICE_UNAVAILABLE,
            Self::InvalidResponse(_) => StatusCode::BAD_GATEWAY,
            Self::Vnc(error) => of_kind(&error.kind),
        }
    }

    /// Whether the same request may succeed later.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        self.status().is_server_error()
    }

    /// Whether something that was there a moment ago is there no longer.
    pub(super) fn is_missing(&self) -> bool {
        matches!(
            self,
            Self::Vnc(VncError {
                kind: VncErrorKind::NotFound { .. }
                    | VncErrorKind::NoSuchParent { .. }
                    | VncErrorKind::NoSuchReference { .. },
                ..
            })
        )
    }
}

fn of_kind(kind: &VncErrorKind) -> StatusCode {
    use VncErrorKind as Kind;
    match kind {
        Kind::AddressTaken
        | Kind::Exhausted { .. }
        | Kind::Quota { .. }
        | Kind::Exists { .. }
        | Kind::Referenced { .. }
        | Kind::HasChildren { .. } => StatusCode::CONFLICT,
        Kind::AddressOutside { .. }
        | Kind::NoSuchParent { .. }
        | Kind::NoSuchReference { .. }
        | Kind::TooLarge { .. }
        | Kind::Invalid { .. } => StatusCode::BAD_REQUEST,
        // The manager's own credentials: not the agent's fault, and somebody can mend it. And what
        // is not found was there when its name was looked up.
        Kind::Unauthorised { .. }
        | Kind::Forbidden { .. }
        | Kind::NotFound { .. }
        | Kind::Server { .. }
        | Kind::InvalidResponse { .. } => StatusCode::BAD_GATEWAY,
        Kind::Unavailable { .. } | Kind::Unreachable { .. } => StatusCode::SERVICE_UNAVAILABLE,
        Kind::Unknown { .. } => StatusCode::GATEWAY_TIMEOUT,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_refusal_says_whether_to_ask_again() {
        let said = String::new;
        let status = |kind| of_kind(&kind).as_u16();
        assert_eq!(status(VncErrorKind::AddressTaken), 409);
        assert_eq!(status(VncErrorKind::Exhausted { said: said() }), 409);
        assert_eq!(status(VncErrorKind::Quota { said: said() }), 409);
        assert_eq!(status(VncErrorKind::AddressOutside { said: said() }), 400);
        assert_eq!(status(VncErrorKind::NoSuchReference { said: said() }), 400);
        assert_eq!(status(VncErrorKind::Invalid { said: said() }), 400);
        assert_eq!(status(VncErrorKind::Unauthorised { said: said() }), 502);
        assert_eq!(status(VncErrorKind::Forbidden { said: said() }), 502);
        assert_eq!(
            status(VncErrorKind::InvalidResponse { problem: said() }),
            502
        );
        assert_eq!(status(VncErrorKind::Unavailable { said: said() }), 503);
        assert_eq!(status(VncErrorKind::Unreachable { problem: said() }), 503);
        assert_eq!(status(VncErrorKind::Unknown { problem: said() }), 504);
    }
}
