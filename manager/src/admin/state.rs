//! What the handlers of the admin listener share.

use std::sync::Arc;
use std::time::SystemTime;

use axum::extract::rejection::QueryRejection;
use axum::http::StatusCode;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::json;
use tokio::sync::watch;

use super::metrics::Metrics;
use crate::containers::Containers;
use crate::fence::Fence;
use crate::lead::Readiness;
use crate::reconcile::Reconciler;
use crate::vnc::VncClient;

/// What the handlers read.
#[derive(Debug)]
pub(crate) struct AdminState {
    pub fence: Fence,
    pub ready: watch::Receiver<Readiness>,
    pub metrics: Arc<Metrics>,
    pub containers: Arc<Containers>,
    /// None without a table `[mesos]`.
    pub reconciler: Option<Arc<Reconciler>>,
    pub client: VncClient,
    pub cluster: String,
    /// The URL of this manager's API for agents.
    pub url: String,
    /// Whether the leader is elected, so that there may be other managers.
    pub elected: bool,
    pub started: SystemTime,
}

impl AdminState {
    /// The reconciler, or a response that says that there is none.
    pub(super) fn reconciler(&self) -> Result<&Reconciler, AdminError> {
        self.reconciler.as_deref().ok_or_else(|| {
            AdminError::not_found(
                "this manager does not follow Mesos; see [mesos] in its configuration",
            )
        })
    }

    /// Why this manager does not serve requests.
    pub(super) fn not_serving_reason(&self) -> Option<String> {
        self.ready.borrow().unready.clone()
    }
}

/// An error response.
#[derive(Debug)]
pub(super) struct AdminError(StatusCode, String);

impl AdminError {
    pub(super) fn bad_request(message: impl Into<String>) -> Self {
        Self(StatusCode::BAD_REQUEST, message.into())
    }

    pub(super) fn not_found(message: impl Into<String>) -> Self {
        Self(StatusCode::NOT_FOUND, message.into())
    }
}

impl From<QueryRejection> for AdminError {
    fn from(rejection: QueryRejection) -> Self {
        Self::bad_request(rejection.body_text())
    }
}

impl IntoResponse for AdminError {
    fn into_response(self) -> Response {
        (self.0, json_body(&json!({ "error": self.1 }))).into_response()
    }
}

/// A response with this JSON.
pub(super) fn json_body(value: &impl Serialize) -> Response {
    // Serialization fails only for maps whose keys are not strings; there are none.
    let body = serde_json::to_vec(value).unwrap_or_default();
    let headers = [
        (CONTENT_TYPE, "application/json"),
        (CACHE_CONTROL, "no-store"),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    (headers, body).into_response()
}

/// Builds a response on a thread for blocking work: it may read all containers.
pub(super) async fn run_blocking<T: Send + 'static>(
    state: Arc<AdminState>,
    build: impl FnOnce(&AdminState) -> T + Send + 'static,
) -> Result<T, AdminError> {
    tokio::task::spawn_blocking(move || build(&state))
        .await
        .map_err(|error| {
            log::error!(error:%; "internal error in a response of the admin listener");
            let message = "internal error in the manager; see its log".to_owned();
            AdminError(StatusCode::INTERNAL_SERVER_ERROR, message)
        })
}
