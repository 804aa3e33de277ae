//! The API for agents, over HTTP. [`contrail_mesos_api::agent_api`] defines its messages.

use std::net::IpAddr;
use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::rejection::PathRejection;
use axum::extract::{ConnectInfo, Path, RawQuery, Request, State};
use axum::http::header::WWW_AUTHENTICATE;
use axum::http::{HeaderValue, StatusCode};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::{get, put};
use axum::{Extension, Router};
use serde::Serialize;
use uuid::Uuid;

use super::{ApiState, standby};
use crate::error::ManagerError;
use crate::listener::{BodyLimits, Peer, discard, receive_body};
use crate::query::QueryParameters;
use contrail_mesos_api::agent_api::{PortsRequest, Refusal};
use contrail_mesos_api::text::Quoted;

/// Enough for a container with many ports and labels.
const MAX_BODY_BYTES: usize = 256 << 10;

/// The routes. A request is authenticated before its body is read.
pub(crate) fn router(state: Arc<ApiState>) -> Router {
    let limits = BodyLimits {
        max_bytes: MAX_BODY_BYTES,
        timeout: state.body_timeout,
    };
    Router::new()
        .route("/v1/ports", get(list))
        .route("/v1/ports/{machine}", put(create).get(read).delete(remove))
        .fallback(async || {
            let message = "not found; there are /v1/ports and /v1/ports/{machine}".to_owned();
            ApiError(StatusCode::NOT_FOUND, message)
        })
        .method_not_allowed_fallback(async || {
            ApiError(
                StatusCode::METHOD_NOT_ALLOWED,
                "this path does not support this method".to_owned(),
            )
        })
        .layer(from_fn_with_state(limits, receive_body))
        .layer(from_fn_with_state(state.clone(), authenticate))
        .layer(from_fn_with_state(state.clone(), standby::redirect))
        .with_state(state)
}

/// The name of the agent that sent a request.
#[derive(Clone, Debug)]
struct AgentName(String);

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
    state.containers.add_agent(&agent);
    request.extensions_mut().insert(AgentName(agent));
    Ok(next.run(request).await)
}

struct ApiError(StatusCode, String);

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

type ApiResult<T> = Result<Json<T>, ApiError>;

/// The uuid in a path.
fn parse_vm_uuid(path: Result<Path<String>, PathRejection>) -> Result<Uuid, ManagerError> {
    let Path(text) = path.map_err(|rejection| ManagerError::invalid(rejection.body_text()))?;
    // Only the canonical form: the vRouter agent knows no other.
    let uuid = text
        .parse()
        .ok()
        .filter(|uuid: &Uuid| uuid.to_string() == text);
    uuid.ok_or_else(|| {
        ManagerError::invalid(format!(
            "{} is not a virtual-machine's uuid",
            Quoted(text.as_bytes())
        ))
    })
}

async fn create(
    State(state): State<Arc<ApiState>>,
    Extension(AgentName(agent)): Extension<AgentName>,
    vm: Result<Path<String>, PathRejection>,
    body: Bytes,
) -> ApiResult<impl Serialize> {
    let uuid = parse_vm_uuid(vm)?;
    let mut reader = serde_json::Deserializer::from_slice(&body);
    let request: PortsRequest = serde_path_to_error::deserialize(&mut reader).map_err(|error| {
        ManagerError::invalid(format!("the body is not a request for ports: {error}"))
    })?;
    state.check_ready()?;
    let containers = state.containers.clone();
    let work = async move { containers.put(&agent, uuid, &request).await };
    Ok(Json(state.run_to_completion(work).await?))
}

async fn read(
    State(state): State<Arc<ApiState>>,
    Extension(AgentName(agent)): Extension<AgentName>,
    vm: Result<Path<String>, PathRejection>,
) -> ApiResult<impl Serialize> {
    let uuid = parse_vm_uuid(vm)?;
    Ok(Json(state.containers.get(Some(&agent), uuid).await?))
}

async fn remove(
    State(state): State<Arc<ApiState>>,
    Extension(AgentName(agent)): Extension<AgentName>,
    vm: Result<Path<String>, PathRejection>,
) -> ApiResult<impl Serialize> {
    let uuid = parse_vm_uuid(vm)?;
    let containers = state.containers.clone();
    let work = async move { containers.delete(Some(&agent), uuid).await };
    state.run_to_completion(work).await?;
    Ok(Json(serde_json::json!({})))
}

async fn list(
    State(state): State<Arc<ApiState>>,
    Extension(AgentName(agent)): Extension<AgentName>,
    RawQuery(query): RawQuery,
) -> ApiResult<impl Serialize> {
    let invalid = |problem: String| {
        ManagerError::invalid(format!("the query must be ?agent=<name>: {problem}"))
    };
    let mut query =
        QueryParameters::parse(query.as_deref(), &["agent", "address"]).map_err(invalid)?;
    let Some(name) = query.take("agent") else {
        return Err(invalid("the parameter agent is missing".to_owned()).into());
    };
    if name != agent {
        let message = "an agent may list only its own containers".to_owned();
        return Err(ManagerError::Foreign(message).into());
    }
    let address: Option<IpAddr> = query
        .take_parsed("address", "an address")
        .map_err(invalid)?;
    Ok(Json(state.containers.list(&agent, address).await?))
}
