//! The API for agents, over HTTP. [`contrail_mesos_api::agent_api`] defines its messages.

use std::net::IpAddr;
use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{ConnectInfo, DefaultBodyLimit, Path, Query, State};
use axum::http::header::WWW_AUTHENTICATE;
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::middleware::from_fn_with_state;
use axum::response::{IntoResponse, Json, Response};
use axum::routing::{get, put};
use serde::Deserialize;
use serde::Serialize;
use uuid::Uuid;

use super::{ApiState, standby};
use crate::error::ManagerError;
use crate::listener::Peer;
use contrail_mesos_api::agent_api::{PortsRequest, Refusal};
use contrail_mesos_api::text::Quoted;

/// Enough for a container with many ports and labels.
const MAX_BODY_BYTES: usize = 256 << 10;

/// The routes.
pub(crate) fn router(state: Arc<ApiState>) -> Router {
    Router::new()
        .route("/v1/ports", get(list))
        .route("/v1/ports/{machine}", put(create).get(read).delete(remove))
        .fallback(async || ApiError(StatusCode::NOT_FOUND, "not found; see /v1/ports".to_owned()))
        .method_not_allowed_fallback(async || {
            ApiError(
                StatusCode::METHOD_NOT_ALLOWED,
                "this path does not support this method".to_owned(),
            )
        })
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .layer(from_fn_with_state(state.clone(), standby::redirect))
        .with_state(state)
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

fn parse_vm_uuid(text: &str) -> Result<Uuid, ManagerError> {
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
    ConnectInfo(peer): ConnectInfo<Peer>,
    Path(vm): Path<String>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> ApiResult<impl Serialize> {
    let agent = state.authenticator.authenticate(&headers, &peer)?;
    let body = body.map_err(|rejection| ApiError(rejection.status(), rejection.body_text()))?;
    let uuid = parse_vm_uuid(&vm)?;
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
    ConnectInfo(peer): ConnectInfo<Peer>,
    Path(vm): Path<String>,
    headers: HeaderMap,
) -> ApiResult<impl Serialize> {
    let agent = state.authenticator.authenticate(&headers, &peer)?;
    Ok(Json(
        state
            .containers
            .get(Some(&agent), parse_vm_uuid(&vm)?)
            .await?,
    ))
}

async fn remove(
    State(state): State<Arc<ApiState>>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    Path(vm): Path<String>,
    headers: HeaderMap,
) -> ApiResult<impl Serialize> {
    let agent = state.authenticator.authenticate(&headers, &peer)?;
    let uuid = parse_vm_uuid(&vm)?;
    let containers = state.containers.clone();
    let work = async move { containers.delete(Some(&agent), uuid).await };
    state.run_to_completion(work).await?;
    Ok(Json(serde_json::json!({})))
}

#[derive(Deserialize)]
struct ListQuery {
    agent: String,
    address: Option<IpAddr>,
}

async fn list(
    State(state): State<Arc<ApiState>>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    headers: HeaderMap,
    query: Result<Query<ListQuery>, axum::extract::rejection::QueryRejection>,
) -> ApiResult<impl Serialize> {
    let agent = state.authenticator.authenticate(&headers, &peer)?;
    let Query(query) = query.map_err(|rejection| {
        ManagerError::invalid(format!(
            "the query must be ?agent=<name>: {}",
            rejection.body_text()
        ))
    })?;
    if query.agent != agent {
        let message = "an agent may list only its own containers".to_owned();
        return Err(ManagerError::Foreign(message).into());
    }
    Ok(Json(state.containers.list(&agent, query.address).await?))
}
