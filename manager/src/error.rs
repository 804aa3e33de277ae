//! Why a request of an agent fails, and the HTTP status that says whether to retry.

use axum::http::StatusCode;
use uuid::Uuid;

use crate::vnc::{VncError, VncErrorKind};

/// Why a container's ports cannot be created, found or deleted.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ManagerError {
    /// The request is invalid: every reason.
    #[error("{}", .0.join("; "))]
    Invalid(Vec<String>),
    /// The request is not authenticated or not permitted.
    #[error("{0}")]
    Unauthorised(String),
    /// The container belongs to another agent or another cluster.
    #[error("{0}")]
    Foreign(String),
    /// A requested floating IP belongs to somebody else: who.
    #[error("the floating IP is taken: {0}")]
    FloatingIpTaken(String),
    /// Another container of ours has a requested floating IP: which.
    #[error("the floating IP is in use: {0}")]
    FloatingIpInUse(String),
    /// The network has no free address: where.
    #[error("{0}")]
    NoFreeAddress(String),
    /// There is no such container.
    #[error("there is no container with the virtual-machine {0}")]
    NotFound(Uuid),
    /// The manager is not configured for the request: why.
    #[error("{0}")]
    NotConfigured(&'static str),
    /// The manager is not prepared to lead yet.
    #[error("the manager is not ready: {0}; try again")]
    NotReady(String),
    /// This manager may not write, or may no longer write.
    #[error("this manager is not the leader: {0}; try again")]
    NotLeading(String),
    /// What is requested is not possible in the present state: why.
    #[error("{0}")]
    Conflict(String),
    /// The store of the allocations is unavailable.
    #[error("{0}")]
    Allocations(String),
    /// A call to the API server failed.
    #[error("{0}")]
    Vnc(#[from] VncError),
    /// An object in the API server is invalid.
    #[error("{0}")]
    InvalidResponse(String),
}

impl ManagerError {
    pub(crate) fn invalid(problem: impl Into<String>) -> Self {
        Self::Invalid(vec![problem.into()])
    }

    /// The HTTP status of the response.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        match self {
            Self::Invalid(_) => StatusCode::BAD_REQUEST,
            Self::Unauthorised(_) => StatusCode::UNAUTHORIZED,
            Self::Foreign(_) => StatusCode::FORBIDDEN,
            Self::FloatingIpTaken(_)
            | Self::FloatingIpInUse(_)
            | Self::NoFreeAddress(_)
            | Self::Conflict(_) => StatusCode::CONFLICT,
            Self::NotFound(_) | Self::NotConfigured(_) => StatusCode::NOT_FOUND,
            Self::NotReady(_) | Self::NotLeading(_) | Self::Allocations(_) => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            Self::InvalidResponse(_) => StatusCode::BAD_GATEWAY,
            Self::Vnc(error) => status_of(&error.kind),
        }
    }

    /// A stable code of the cause, for metrics.
    #[must_use]
    pub fn cause(&self) -> &'static str {
        use VncErrorKind as Kind;
        match self {
            Self::Invalid(_) => "invalid_request",
            Self::Unauthorised(_) => "unauthorised",
            Self::Foreign(_) => "foreign",
            Self::FloatingIpTaken(_) | Self::FloatingIpInUse(_) => "floating_ip_in_use",
            Self::NoFreeAddress(_) => "addresses_exhausted",
            Self::NotFound(_) => "not_found",
            Self::NotConfigured(_) => "not_configured",
            Self::Conflict(_) => "conflict",
            Self::Allocations(_) => "allocations_unavailable",
            Self::NotReady(_) => "not_ready",
            Self::NotLeading(_) => "not_leading",
            Self::InvalidResponse(_) => "vnc_invalid_response",
            Self::Vnc(error) => match &error.kind {
                Kind::AddressTaken => "address_taken",
                Kind::Exhausted { .. } | Kind::NoSuchSubnet { .. } => "addresses_exhausted",
                Kind::Quota { .. } => "quota",
                Kind::Unauthorised { .. } | Kind::Forbidden { .. } => "vnc_access_denied",
                Kind::Unavailable { .. } | Kind::Unreachable { .. } => "vnc_unavailable",
                Kind::Unknown { .. } => "vnc_timeout",
                Kind::Server { .. } => "vnc_server_error",
                Kind::InvalidResponse { .. } => "vnc_invalid_response",
                Kind::NotFound { .. }
                | Kind::NoSuchParent { .. }
                | Kind::NoSuchReference { .. } => "vnc_object_gone",
                Kind::Exists { .. } | Kind::Referenced { .. } | Kind::HasChildren { .. } => {
                    "vnc_conflict"
                }
                Kind::AddressOutside { .. } | Kind::TooLarge { .. } | Kind::Invalid { .. } => {
                    "vnc_refused"
                }
            },
        }
    }

    /// Whether the same request may succeed later.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        self.status().is_server_error()
    }

    /// Whether an object that was found a moment ago no longer exists.
    pub(crate) fn is_object_gone(&self) -> bool {
        matches!(
            self,
            Self::Vnc(VncError {
                kind: VncErrorKind::NotFound { .. }
                    | VncErrorKind::NoSuchParent { .. }
                    | VncErrorKind::NoSuchReference { .. }
                    | VncErrorKind::NoSuchSubnet { .. },
                ..
            })
        )
    }
}

fn status_of(kind: &VncErrorKind) -> StatusCode {
    use VncErrorKind as Kind;
    match kind {
        Kind::AddressTaken
        | Kind::Exhausted { .. }
        | Kind::NoSuchSubnet { .. }
        | Kind::Quota { .. }
        | Kind::Exists { .. }
        | Kind::Referenced { .. }
        | Kind::HasChildren { .. } => StatusCode::CONFLICT,
        Kind::AddressOutside { .. }
        | Kind::NoSuchParent { .. }
        | Kind::NoSuchReference { .. }
        | Kind::TooLarge { .. }
        | Kind::Invalid { .. } => StatusCode::BAD_REQUEST,
        // The manager's own credentials are not the agent's fault. And an object that is not found
        // existed when its name was resolved.
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
    fn vnc_error_kind_determines_status() {
        let text = String::new;
        let status = |kind| status_of(&kind).as_u16();
        assert_eq!(status(VncErrorKind::AddressTaken), 409);
        assert_eq!(status(VncErrorKind::Exhausted { message: text() }), 409);
        assert_eq!(status(VncErrorKind::Quota { message: text() }), 409);
        assert_eq!(
            status(VncErrorKind::AddressOutside { message: text() }),
            400
        );
        assert_eq!(
            status(VncErrorKind::NoSuchReference { message: text() }),
            400
        );
        assert_eq!(status(VncErrorKind::Invalid { message: text() }), 400);
        assert_eq!(status(VncErrorKind::Unauthorised { message: text() }), 502);
        assert_eq!(status(VncErrorKind::Forbidden { message: text() }), 502);
        assert_eq!(
            status(VncErrorKind::InvalidResponse { problem: text() }),
            502
        );
        assert_eq!(status(VncErrorKind::Unavailable { message: text() }), 503);
        assert_eq!(status(VncErrorKind::Unreachable { problem: text() }), 503);
        assert_eq!(status(VncErrorKind::Unknown { problem: text() }), 504);
    }
}
