//! Refuses requests that a listener without authentication does not accept: see [`AllowedHosts`].

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Json, Response};

use contrail_mesos_api::agent_api::Refusal;
pub(crate) use contrail_mesos_api::http::AllowedHosts;

/// Middleware that refuses requests for other hosts and requests of foreign pages.
pub(crate) async fn check_host(
    State(allowed): State<Arc<AllowedHosts>>,
    request: Request,
    next: Next,
) -> Response {
    let authority = request.uri().authority();
    match allowed.refusal(request.method(), authority, request.headers()) {
        None => next.run(request).await,
        Some(error) => (StatusCode::FORBIDDEN, Json(Refusal { error })).into_response(),
    }
}
