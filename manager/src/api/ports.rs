//! The ports of containers, for agents.

use std::net::IpAddr;
use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{Json, Response};
use axum::routing::any;
use axum::{Extension, Router};
use serde::Serialize;
use serde_json::json;
use uuid::Uuid;

use super::ApiState;
use super::agents::{AgentName, ApiError, ApiResult, Empty, of_agents, refuse_query};
use crate::containers::Containers;
use crate::error::ManagerError;

use contrail_mesos_api::agent_api::{Ports, PortsList, PortsRequest};
use contrail_mesos_api::query::QueryParameters;
use contrail_mesos_api::routes::{Operation, Routes, paths};
use contrail_mesos_api::text::Quoted;

/// What the handlers share.
#[derive(Debug)]
pub(super) struct PortsState {
    api: Arc<ApiState>,
    containers: Arc<Containers>,
}

/// The routes with their documentation.
pub(super) fn routes() -> Routes<Arc<PortsState>> {
    const MACHINE: &str = "7d1f0a52-93c4-4c1e-9d0b-6a5e2f3b8c10";
    let of_machine = |operation: Operation| {
        let description = "The uuid of the container's virtual-machine object";
        let operation = operation.in_path::<Uuid>("machine", description, MACHINE);
        of_agents(operation)
            .error(
                404,
                "There is no such container, or the manager has no `[vnc]`.",
            )
            .error(
                502,
                "The VNC API has refused, or has answered something else.",
            )
            .error(504, "The VNC API does not answer: try again.")
    };
    let example = json!({
        "container": [MACHINE],
        "annotations": { "framework": "marathon" },
        "ports": [{ "interface": "eth0", "network": "blue" }],
    });
    Routes::new(refuse_query)
        .route(
            of_machine(Operation::put(
                "/v1/ports/{machine}",
                "Creates the ports of a container",
            ))
            .notes("Repeating it completes what the first request began.")
            .body::<PortsRequest>("The ports that the container needs", example)
            .json::<Ports>(200, "The objects exist.")
            .error(
                409,
                "An address is taken, a subnet used up, or a quota reached.",
            ),
            create,
        )
        .route(
            of_machine(Operation::get(
                "/v1/ports/{machine}",
                "The ports of a container",
            ))
            .json::<Ports>(200, "The ports"),
            read,
        )
        .route(
            of_machine(Operation::delete(
                "/v1/ports/{machine}",
                "Deletes the ports of a container",
            ))
            .json::<Empty>(200, "No port is left, also if there was none.")
            .error(
                409,
                "Something in the VNC API refers to an object of the container.",
            ),
            remove,
        )
        .route(
            of_agents(Operation::get(
                "/v1/ports",
                "The complete containers of an agent",
            ))
            .required_query::<String>("agent", "The agent's own name", "node1")
            .query::<IpAddr>(
                "address",
                "The address that identifies the agent's virtual-router if none has its name",
                "192.0.2.1",
            )
            .json::<PortsList>(200, "The containers")
            .error(404, "The manager has no `[vnc]`.")
            .error(
                502,
                "The VNC API has refused, or has answered something else.",
            )
            .error(504, "The VNC API does not answer: try again."),
            list,
        )
}

/// The routes.
pub(super) fn router(api: Arc<ApiState>, containers: Arc<Containers>) -> Router {
    let state = Arc::new(PortsState { api, containers });
    routes()
        .into_router()
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
    let paths = paths(&routes().into_operations());
    paths.into_iter().fold(Router::new(), |router, path| {
        router.route(path, any(refuse))
    })
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
    Ok(Json(Empty {}))
}

async fn list(
    State(state): State<Arc<PortsState>>,
    Extension(AgentName(agent)): Extension<AgentName>,
    mut query: QueryParameters,
) -> ApiResult<impl Serialize> {
    let invalid = |problem: String| {
        ManagerError::invalid(format!("the query must be ?agent=<name>: {problem}"))
    };
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
