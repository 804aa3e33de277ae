//! Error responses.

use axum::Json;
use axum::body::Bytes;
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use crate::marathon::model::Rejection;
use crate::marathon::store::StoreError;

/// An error response.
#[derive(Debug)]
pub(super) struct ErrorResponse(StatusCode, Value);

impl ErrorResponse {
    pub(super) fn unknown(kind: &str, id: &str) -> Self {
        let id = id.trim_start_matches('/');
        let message = format!("{kind} '/{id}' does not exist");
        Self(StatusCode::NOT_FOUND, json!({"message": message}))
    }
}

impl ErrorResponse {
    /// The body is not valid JSON, or lacks a field.
    pub(super) fn invalid_json(problem: &serde_json::Error) -> Self {
        let details = problem.to_string();
        let body = json!({"message": "Invalid JSON", "details": details});
        Self(StatusCode::BAD_REQUEST, body)
    }
}

impl IntoResponse for ErrorResponse {
    fn into_response(self) -> Response {
        (self.0, Json(self.1)).into_response()
    }
}

impl From<Rejection> for ErrorResponse {
    fn from(rejection: Rejection) -> Self {
        match rejection {
            Rejection::Shape { path, problem } => Self(
                StatusCode::BAD_REQUEST,
                json!({
                    "message": "Invalid JSON",
                    "details": [{"path": path, "errors": [problem]}],
                }),
            ),
            Rejection::Invalid(violations) => Self(
                StatusCode::UNPROCESSABLE_ENTITY,
                json!({"message": "Object is not valid", "details": violations.details()}),
            ),
        }
    }
}

impl From<StoreError> for ErrorResponse {
    fn from(error: StoreError) -> Self {
        let message = error.to_string();
        match error {
            StoreError::Exists(_) => Self(StatusCode::CONFLICT, json!({"message": message})),
            StoreError::Unknown(id) => Self::unknown("App", &id.to_string()),
            StoreError::Locked(deployment) => Self(
                StatusCode::CONFLICT,
                json!({"message": message, "deployments": [{"id": deployment}]}),
            ),
        }
    }
}

/// Parses a body as JSON. Like Marathon, it ignores the Content-Type.
pub(super) fn json_body(body: &Bytes) -> Result<Value, ErrorResponse> {
    serde_json::from_slice(body).map_err(|problem| ErrorResponse::invalid_json(&problem))
}

pub(super) async fn unknown_path(uri: Uri) -> ErrorResponse {
    let message = format!("URI not found: {}", uri.path());
    ErrorResponse(StatusCode::NOT_FOUND, json!({"message": message}))
}
