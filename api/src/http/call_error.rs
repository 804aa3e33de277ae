//! Errors of calls to Mesos masters and Marathon.

use std::fmt;

use hyper::StatusCode;

use super::credentials::CredentialsError;
use super::redirect::RedirectError;
use super::{ApiError, HttpError};
use crate::text::excerpt;

/// A call to Mesos or Marathon that did not succeed.
pub type CallError = ApiError<CallErrorKind>;

/// What went wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallErrorKind {
    /// There is no complete response.
    #[error(transparent)]
    Http(#[from] HttpError),
    /// The credentials cannot be used.
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
    /// A redirect is not followed.
    #[error(transparent)]
    Redirect(#[from] RedirectError),
    /// There is no leader, or it is not ready.
    #[error("the server has no leader (HTTP {status}): {body}")]
    NoLeader {
        /// The HTTP status.
        status: u16,
        /// The beginning of the response's body.
        body: String,
    },
    /// Authentication or authorization failed.
    #[error(
        "access denied (HTTP {status}); check user, password or token, and their permissions ({body})"
    )]
    Denied {
        /// The HTTP status.
        status: u16,
        /// The beginning of the response's body.
        body: String,
    },
    /// It does not exist, according to the API itself: other 404 responses are [`Self::Refused`].
    #[error("it does not exist: {body}")]
    NotFound {
        /// The beginning of the response's body.
        body: String,
    },
    /// Another status that is not a success.
    #[error("the server responded with HTTP {status}: {body}")]
    Refused {
        /// The HTTP status.
        status: u16,
        /// The beginning of the response's body.
        body: String,
    },
    /// The response cannot be decoded.
    #[error(
        "invalid response: {problem}; check the address of the server. The response begins with {body:?}"
    )]
    InvalidResponse {
        /// What is wrong with it.
        problem: String,
        /// The beginning of the response's body.
        body: String,
    },
    /// The server has ended the stream of events.
    #[error("the server has ended the event stream")]
    Ended,
    /// The event stream cannot be decoded.
    #[error("invalid event stream: {0}")]
    Stream(String),
    /// The first event did not arrive in time.
    #[error("the event stream is open, but no event arrived: {0}")]
    NotAttached(String),
    /// The leader cannot be found.
    #[error("cannot find the leader: {0}")]
    Discovery(String),
}

impl CallErrorKind {
    /// The kind for a status that is not a success.
    pub(super) fn of_status(status: StatusCode, body: &[u8]) -> Self {
        let code = status.as_u16();
        let is_api_error = has_message(body);
        let body = excerpt(body);
        match code {
            401 | 403 => Self::Denied { status: code, body },
            404 if is_api_error => Self::NotFound { body },
            502..=504 => Self::NoLeader { status: code, body },
            _ => Self::Refused { status: code, body },
        }
    }

    /// A response that cannot be decoded.
    pub fn invalid_response(problem: &dyn fmt::Display, body: &[u8]) -> Self {
        Self::InvalidResponse {
            problem: problem.to_string(),
            body: excerpt(body).chars().take(100).collect(),
        }
    }
}

/// Whether this is an error of the API. Proxies and other servers send a page with a 404.
fn has_message(body: &[u8]) -> bool {
    #[derive(serde::Deserialize)]
    struct Message {
        #[serde(rename = "message")]
        _message: String,
    }
    serde_json::from_slice::<Message>(body).is_ok()
}
