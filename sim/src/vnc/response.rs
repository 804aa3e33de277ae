//! Responses of the server: JSON, or an error in plain text.

use serde_json::Value;

/// An error response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ApiError {
    pub(crate) status: u16,
    pub(crate) text: String,
    /// The value of a WWW-Authenticate header.
    pub(crate) challenge: Option<String>,
}

/// The result of a part of the server.
pub(crate) type Outcome<T> = Result<T, ApiError>;

/// A successful response.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Reply {
    Json(Value),
    /// The JSON of an object, and the time of its last change.
    Object(Value, String),
    /// A new token: the body, the status, and the X-Subject-Token header.
    Token(Value, u16, Option<String>),
    /// 200 without a body.
    Done,
    /// 304 without a body.
    Unchanged,
}

impl ApiError {
    pub(crate) fn new(status: u16, text: impl Into<String>) -> Self {
        Self {
            status,
            text: text.into(),
            challenge: None,
        }
    }

    /// An exception outside the stateful part of a request.
    pub(crate) fn internal() -> Self {
        Self::new(500, "Internal Server Error")
    }

    /// An exception inside it: the last line of its traceback.
    pub(crate) fn key_error(key: &str) -> Self {
        Self::new(500, format!("KeyError: '{key}'"))
    }

    pub(crate) fn unknown_id(id: &str) -> Self {
        Self::new(404, format!("Unknown id: {id}"))
    }
}

/// `Err` with this status and text.
pub(crate) fn fail<T>(status: u16, text: impl Into<String>) -> Outcome<T> {
    Err(ApiError::new(status, text))
}
