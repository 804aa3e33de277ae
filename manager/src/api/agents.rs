//! The API for agents and nodes, over HTTP. [`contrail_mesos_api::agent_api`] and
//! [`contrail_mesos_api::cluster`] define its messages.

use std::sync::{Arc, LazyLock};

use axum::Router;
use axum::body::Bytes;
use axum::extract::{ConnectInfo, Request, State};
use axum::http::header::WWW_AUTHENTICATE;
use axum::http::{HeaderValue, StatusCode};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Json, Response};
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::json;

use super::{ApiState, nodes, overlay_master, ports, standby};
use crate::cluster::Cluster;
use crate::containers::Containers;
use crate::error::ManagerError;
use crate::listener::{AllowedHosts, BodyLimits, Peer, check_host, discard, receive_body};
use contrail_mesos_api::agent_api::{AGENT_HEADER, Refusal};
use contrail_mesos_api::cluster::MAX_ENDPOINTS_REPORT_BYTES;
use contrail_mesos_api::routes::{Document, Operation, Routes, paths};

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
    let overlay_master = overlay_master::router(&state, cluster.clone(), hosts.clone());
    // Clients of the document need no agent's name, and any manager answers.
    let document = Routes::new(refuse_query)
        .document(document)
        .into_router()
        .layer(from_fn_with_state(limits, receive_body))
        .layer(from_fn_with_state(
            state.clone(),
            overlay_master::authenticate,
        ))
        .layer(from_fn_with_state(hosts, check_host));
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
            let message = format!("not found; there are {}", paths(&operations()).join(", "));
            ApiError(StatusCode::NOT_FOUND, message)
        })
        .method_not_allowed_fallback(method_not_allowed)
        .layer(from_fn_with_state(limits, receive_body))
        .merge(endpoints)
        .layer(from_fn_with_state(state.clone(), authenticate))
        .layer(from_fn_with_state(state, standby::redirect))
        .merge(overlay_master)
        .merge(document)
}

const DESCRIPTION: &str = "\
The API of the manager for agents and nodes, and the endpoints of DC/OS' overlay module for masters.

- An agent or node sends its name in the header `x-contrail-mesos-agent`, and may change only what is its \
own. Clients of `/overlay-master` and of this document have no name to send.
- A manager that has `token_file` requires `Authorization: Bearer …`. One that has `client_ca` requires a \
client certificate that names the agent or, to delete other nodes, an operator.
- An error is JSON with a field `error`: every reason and what to do about it. What is answered with 5xx \
may succeed later, what is answered with 4xx does not. An unknown path is answered with 404, another \
method with 405, a body that is too long with 413, and one that does not arrive in time with 408.
- A manager that does not lead answers with 307 and the leader's URL in `Location`.
- Every call is idempotent.
- Fields, objects and paths may be added; clients ignore what they do not know.";

/// What is documented of this listener.
fn operations() -> Vec<Operation> {
    let document = Routes::<()>::new(refuse_query).document(document);
    [
        ports::routes().into_operations(),
        nodes::routes().into_operations(),
        nodes::endpoints_routes().into_operations(),
        overlay_master::routes().into_operations(),
        document.into_operations(),
    ]
    .concat()
}

/// The document as text, made once.
pub(super) fn document() -> Bytes {
    static DOCUMENT: LazyLock<Bytes> = LazyLock::new(|| {
        let document = Document {
            title: "contrail-mesos-manager: agents and nodes",
            version: env!("CARGO_PKG_VERSION"),
            description: DESCRIPTION,
            security_schemes: json!({
                "agent": { "type": "apiKey", "in": "header", "name": AGENT_HEADER,
                    "description": "The name of the agent or node" },
                "token": { "type": "http", "scheme": "bearer",
                    "description": "The content of the manager's `token_file`" },
                "certificate": { "type": "mutualTLS",
                    "description": "A client certificate of the manager's `client_ca`" },
            }),
            security: json!([
                { "agent": [] },
                { "agent": [], "token": [] },
                { "agent": [], "certificate": [] },
                { "agent": [], "token": [], "certificate": [] },
            ]),
            operations: operations(),
        };
        document.to_text()
    });
    DOCUMENT.clone()
}

/// Adds the responses that agents and nodes get to all requests.
pub(super) fn of_agents(operation: Operation) -> Operation {
    operation
        .error(
            307,
            "Another manager leads: the one in the header `Location`.",
        )
        .error(400, "The request is wrong.")
        .error(401, "There is no token, or a wrong one.")
        .error(
            403,
            "It belongs to another agent, node or cluster, or the certificate names another.",
        )
        .error(
            503,
            "No leader is known, or it is not prepared yet: try again.",
        )
}

/// The response to a request with a wrong query.
pub(super) fn refuse_query(problem: &str) -> Response {
    let error = ManagerError::invalid(format!("the query is invalid: {problem}"));
    ApiError::from(error).into_response()
}

/// The response to a request that has nothing to return.
#[derive(Clone, Copy, Debug, Serialize, JsonSchema)]
pub(super) struct Empty {}

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
