//! What a manager answers that does not lead.
//!
//! Agents are sent to the leader. CNI plugins of Contrail's own manager follow no redirection and
//! ask only once, so that a standby refuses them at once: before several managers stands something
//! that looks at `/leading`, or every host's plugin asks the one address that it has in
//! vain. The request is not handed on: the host that asks is known by the connection's other end.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::header::{LOCATION, RETRY_AFTER};
use axum::http::{HeaderValue, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Json, Response};

use super::api::Shared;
use super::fence::Leadership;
use contrail_mesos_api::agent_api::Refusal;

/// After how many seconds to ask again while nobody leads.
const AGAIN: HeaderValue = HeaderValue::from_static("1");

/// Sends agents to the leader.
pub(super) async fn redirect(
    State(shared): State<Arc<Shared>>,
    request: Request,
    next: Next,
) -> Response {
    let leader = match &*shared.leadership.borrow() {
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
        return match location {
            Ok(location) => (status, [(LOCATION, location)], Json(refusal)).into_response(),
            Err(_) => (StatusCode::SERVICE_UNAVAILABLE, Json(refusal)).into_response(),
        };
    }
    refuse(State(shared), request, next).await
}

/// Refuses where this manager does not lead, and says in every such case when to ask again.
pub(super) async fn refuse(
    State(shared): State<Arc<Shared>>,
    request: Request,
    next: Next,
) -> Response {
    let said = match &*shared.leadership.borrow() {
        Leadership::Leading { .. } => None,
        Leadership::Following { leader } => Some(format!("{leader} leads")),
        Leadership::Unknown { reason } => Some(format!("no leader is known: {reason}")),
    };
    let mut response = match said {
        None => next.run(request).await,
        Some(said) => {
            let error = format!("this manager does not lead; {said}");
            (StatusCode::SERVICE_UNAVAILABLE, Json(Refusal { error })).into_response()
        }
    };
    if response.status() == StatusCode::SERVICE_UNAVAILABLE {
        response.headers_mut().insert(RETRY_AFTER, AGAIN);
    }
    response
}
