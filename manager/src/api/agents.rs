//! The API for agents and nodes, over HTTP. [`contrail_mesos_api::agent_api`] and
//! [`contrail_mesos_api::cluster`] define its messages.

use std::sync::Arc;

use axum::Router;
use axum::extract::{ConnectInfo, Request, State};
use axum::http::header::WWW_AUTHENTICATE;
use axum::http::{HeaderValue, StatusCode};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Json, Response};

use super::{ApiState, nodes, overlay_master, ports, standby};
use crate::cluster::Cluster;
use crate::containers::Containers;
use crate::error::ManagerError;
use crate::listener::{AllowedHosts, BodyLimits, Peer, discard, receive_body};
use contrail_mesos_api::agent_api::Refusal;
use contrail_mesos_api::cluster::MAX_ENDPOINTS_REPORT_BYTES;

/// Enough for a container with many ports and labels, and for the report of a node.
const MAX_BODY_BYTES: usize = 256 << 10;

/// The routes. A request is authenticated before its body is read.
pub(crate) fn router(
    state: Arc<ApiState>,
    containers: Option<Arc<Containers>>,
    cluster: Option<Arc<Cluster>>,
    hosts: Arc<AllowedHosts>,
) -> Router {
    let limits = BodyLimits {
        max_bytes: MAX_BODY_BYTES,
        timeout: state.body_timeout,
    };
    let ports = match containers {
        Some(containers) => ports::router(state.clone(), containers),
        None => ports::refusing_router(),
    };
    let overlay_master = overlay_master::router(&state, cluster.clone(), hosts);
    let nodes = match &cluster {
        Some(cluster) => nodes::router(state.clone(), cluster.clone()),
        None => nodes::refusing_router(),
    };
    let endpoints = cluster.map_or_else(Router::new, |cluster| {
        let limits = BodyLimits {
            max_bytes: MAX_ENDPOINTS_REPORT_BYTES,
            ..limits
        };
        nodes::endpoints_router(state.clone(), cluster)
            .method_not_allowed_fallback(method_not_allowed)
            .layer(from_fn_with_state(limits, receive_body))
    });
    ports
        .merge(nodes)
        .fallback(async || {
            let message = "not found; there are /v1/ports, /v1/ports/{machine}, /v1/watch, /v1/nodes, \
                           /v1/nodes/{node}, /v1/nodes/{node}/endpoints, /overlay-master/state and \
                           /overlay-master/agents/delete";
            ApiError(StatusCode::NOT_FOUND, message.to_owned())
        })
        .method_not_allowed_fallback(method_not_allowed)
        .layer(from_fn_with_state(limits, receive_body))
        .merge(endpoints)
        .layer(from_fn_with_state(state.clone(), authenticate))
        .layer(from_fn_with_state(state, standby::redirect))
        .merge(overlay_master)
}

async fn method_not_allowed() -> ApiError {
    ApiError(
        StatusCode::METHOD_NOT_ALLOWED,
        "this path does not support this method".to_owned(),
    )
}

/// The name of the agent or node that sent a request.
#[derive(Clone, Debug)]
pub(super) struct AgentName(pub String);

/// Middleware that refuses requests without valid credentials.
async fn authenticate(
    State(state): State<Arc<ApiState>>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    mut request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    let agent = match state.authenticator.authenticate(request.headers(), &peer) {
        Ok(agent) => agent,
        Err(error) => {
            let is_refused = !matches!(error, ManagerError::Invalid(_));
            let address = peer.address.ip();
            if is_refused && let Some(left_out) = state.refusals.pass(Some(address)) {
                log::warn!(peer:% = peer.address, error:%, left_out; "request refused");
            }
            discard(request.into_body()).await;
            return Err(error.into());
        }
    };
    request.extensions_mut().insert(AgentName(agent));
    Ok(next.run(request).await)
}

/// An error response.
#[derive(Debug)]
pub(super) struct ApiError(StatusCode, String);

impl ApiError {
    pub(super) fn new(status: StatusCode, message: String) -> Self {
        Self(status, message)
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = (self.0, Json(Refusal { error: self.1 })).into_response();
        if self.0 == StatusCode::UNAUTHORIZED {
            let scheme = HeaderValue::from_static("Bearer");
            response.headers_mut().insert(WWW_AUTHENTICATE, scheme);
        }
        response
    }
}

impl From<ManagerError> for ApiError {
    fn from(error: ManagerError) -> Self {
        Self(error.status(), error.to_string())
    }
}

pub(super) type ApiResult<T> = Result<Json<T>, ApiError>;
