//! Why a server that is followed did not answer as it should have.

use std::fmt;

use hyper::StatusCode;

use super::credentials::CredentialsError;
use super::redirect::RedirectError;
use super::{ApiError, HttpError, excerpt};

/// A call to Mesos or Marathon that did not succeed.
pub type CallError = ApiError<CallErrorKind>;

/// What a failure means. Each says what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallErrorKind {
    /// There is no answer.
    #[error(transparent)]
    Http(#[from] HttpError),
    /// There is nothing to prove who we are with.
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
    /// A redirection is not followed.
    #[error(transparent)]
    Redirect(#[from] RedirectError),
    /// None leads, or none that leads is ready.
    #[error("no server leads at the moment, says HTTP {status}: {body}")]
    NoLeader {
        /// The HTTP status.
        status: u16,
        /// The server's words.
        body: String,
    },
    /// We may not.
    #[error(
        "we are refused with HTTP {status}; check user, password or token, and what they permit ({body})"
    )]
    Denied {
        /// The HTTP status.
        status: u16,
        /// The server's words.
        body: String,
    },
    /// It does not exist: the server itself says so, not something else that answers in its place.
    #[error("it does not exist: {body}")]
    NotFound {
        /// The server's words.
        body: String,
    },
    /// The server refuses, for another reason.
    #[error("it answers HTTP {status}: {body}")]
    Refused {
        /// The HTTP status.
        status: u16,
        /// The server's words.
        body: String,
    },
    /// What was answered makes no sense.
    #[error(
        "the answer makes no sense: {problem}; is that address the right one? It begins with {body:?}"
    )]
    InvalidResponse {
        /// What is wrong with it.
        problem: String,
        /// How it begins.
        body: String,
    },
    /// The server has ended the stream of events.
    #[error("the server has ended the event stream")]
    Ended,
    /// The event stream cannot be understood.
    #[error("the event stream makes no sense: {0}")]
    Stream(String),
    /// The server's events did not begin in time.
    #[error("the event stream is open, but does not begin: {0}")]
    NotAttached(String),
    /// Nobody says which servers there are.
    #[error("no leader is known: {0}")]
    Discovery(String),
}

impl CallErrorKind {
    /// What a status that is no success means.
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

    /// An answer that makes no sense.
    pub fn invalid_response(problem: &dyn fmt::Display, body: &[u8]) -> Self {
        Self::InvalidResponse {
            problem: problem.to_string(),
            body: excerpt(body).chars().take(100).collect(),
        }
    }
}

/// Whether this is an API's error. Proxies and other servers answer 404 with a page.
fn has_message(body: &[u8]) -> bool {
    #[derive(serde::Deserialize)]
    struct Message {
        #[serde(rename = "message")]
        _message: String,
    }
    serde_json::from_slice::<Message>(body).is_ok()
}
