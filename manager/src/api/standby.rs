//! The responses of a manager that does not lead.
//!
//! Agents are redirected to the leader. CNI plugins of Contrail's own manager neither follow redirects
//! nor retry, so a standby refuses their requests: with several managers, a load balancer that checks
//! `/leading` must be in front of them. A standby cannot forward a request, because the leader
//! identifies the host by the address of the connection's peer.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::header::{LOCATION, RETRY_AFTER};
use axum::http::{HeaderValue, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Json, Response};

use super::ApiState;
use crate::fence::Leadership;
use crate::listener::discard;
use contrail_mesos_api::agent_api::Refusal;

/// In how many seconds to retry while there is no leader.
const RETRY_AFTER_SECONDS: HeaderValue = HeaderValue::from_static("1");

/// Redirects agents to the leader.
pub(super) async fn redirect(
    State(state): State<Arc<ApiState>>,
    request: Request,
    next: Next,
) -> Response {
    let leader = match &*state.leadership.borrow() {
        Leadership::Following { leader } => Some(leader.clone()),
        Leadership::Leading { .. } | Leadership::Unknown { .. } => None,
    };
    if let Some(leader) = leader {
        let path = request.uri().path_and_query();
        let path = path.map_or("/", |path| path.as_str());
        let location = HeaderValue::try_from(format!("{leader}{path}"));
        let refusal = Refusal {
            error: format!("this manager does not lead; ask {leader}"),
        };
        let status = StatusCode::TEMPORARY_REDIRECT;
        discard(request.into_body()).await;
        return match location {
            Ok(location) => (status, [(LOCATION, location)], Json(refusal)).into_response(),
            Err(_) => (StatusCode::SERVICE_UNAVAILABLE, Json(refusal)).into_response(),
        };
    }
    refuse(State(state), request, next).await
}

/// Refuses requests if this manager does not lead. Every response 503 says when to retry.
pub(super) async fn refuse(
    State(state): State<Arc<ApiState>>,
    request: Request,
    next: Next,
) -> Response {
    let reason = match &*state.leadership.borrow() {
        Leadership::Leading { .. } => None,
        Leadership::Following { leader } => Some(format!("{leader} leads")),
        Leadership::Unknown { reason } => Some(format!("no leader is known: {reason}")),
    };
    let mut response = match reason {
        None => next.run(request).await,
        Some(reason) => {
            let error = format!("this manager does not lead; {reason}");
            discard(request.into_body()).await;
            (StatusCode::SERVICE_UNAVAILABLE, Json(Refusal { error })).into_response()
        }
    };
    if response.status() == StatusCode::SERVICE_UNAVAILABLE {
        response
            .headers_mut()
            .insert(RETRY_AFTER, RETRY_AFTER_SECONDS);
    }
    response
}
