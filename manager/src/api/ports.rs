//! The ports of containers, for agents.

use std::net::IpAddr;
use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, RawQuery, Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{Json, Response};
use axum::routing::{any, get, put};
use axum::{Extension, Router};
use serde::Serialize;
use uuid::Uuid;

use super::ApiState;
use super::agents::{AgentName, ApiError, ApiResult};
use crate::containers::Containers;
use crate::error::ManagerError;
use crate::query::QueryParameters;
use contrail_mesos_api::agent_api::PortsRequest;
use contrail_mesos_api::text::Quoted;

/// What the handlers share.
#[derive(Debug)]
struct PortsState {
    api: Arc<ApiState>,
    containers: Arc<Containers>,
}

/// The routes.
pub(super) fn router(api: Arc<ApiState>, containers: Arc<Containers>) -> Router {
    let state = Arc::new(PortsState { api, containers });
    Router::new()
        .route("/v1/ports", get(list))
        .route("/v1/ports/{machine}", put(create).get(read).delete(remove))
        .layer(from_fn_with_state(state.clone(), note_agent))
        .with_state(state)
}

/// The routes of a manager without Contrail.
pub(super) fn refusing_router() -> Router {
    let refuse = async || -> ApiError {
        ManagerError::NotConfigured(
            "this manager has no [vnc] in its configuration: it does not create ports in Contrail",
        )
        .into()
    };
    Router::new()
        .route("/v1/ports", any(refuse))
        .route("/v1/ports/{machine}", any(refuse))
}

/// Middleware that notes which agents there are.
async fn note_agent(
    State(state): State<Arc<PortsState>>,
    Extension(AgentName(agent)): Extension<AgentName>,
    request: Request,
    next: Next,
) -> Response {
    state.containers.add_agent(&agent);
    next.run(request).await
}

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
    State(state): State<Arc<PortsState>>,
    Extension(AgentName(agent)): Extension<AgentName>,
    vm: Result<Path<String>, PathRejection>,
    body: Bytes,
) -> ApiResult<impl Serialize> {
    let uuid = parse_vm_uuid(vm)?;
    let mut reader = serde_json::Deserializer::from_slice(&body);
    let request: PortsRequest = serde_path_to_error::deserialize(&mut reader).map_err(|error| {
        ManagerError::invalid(format!("the body is not a request for ports: {error}"))
    })?;
    state.api.check_ready()?;
    let containers = state.containers.clone();
    let work = async move { containers.put(&agent, uuid, &request).await };
    Ok(Json(state.api.run_to_completion(work).await?))
}

async fn read(
    State(state): State<Arc<PortsState>>,
    Extension(AgentName(agent)): Extension<AgentName>,
    vm: Result<Path<String>, PathRejection>,
) -> ApiResult<impl Serialize> {
    let uuid = parse_vm_uuid(vm)?;
    Ok(Json(state.containers.get(Some(&agent), uuid).await?))
}

async fn remove(
    State(state): State<Arc<PortsState>>,
    Extension(AgentName(agent)): Extension<AgentName>,
    vm: Result<Path<String>, PathRejection>,
) -> ApiResult<impl Serialize> {
    let uuid = parse_vm_uuid(vm)?;
    let containers = state.containers.clone();
    let work = async move { containers.delete(Some(&agent), uuid).await };
    state.api.run_to_completion(work).await?;
    Ok(Json(serde_json::json!({})))
}

async fn list(
    State(state): State<Arc<PortsState>>,
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
