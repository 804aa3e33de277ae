//! The content of the stores, as JSON.
//!
//! | request | response |
//! |---|---|
//! | `GET /v1/mesos` | Mesos: the state of the source, counts, tasks |
//! | `GET /v1/marathon` | Marathon: the state of the source, apps and pods |
//! | `GET /v1/contrail` | the VNC API: the state of the source, counts, virtual-routers, orphans |
//! | `GET /v1/agents` | agents joined with virtual-routers |
//! | `GET /v1/networks` | networks that containers are on |
//! | `GET /v1/containers` | containers; `network`, `app` and `agent` filter by a part of the name |
//! | `GET /v1/containers/{id}` | one container, by its virtual-machine's uuid or by its id as Mesos prints it |
//! | `GET /v1/containers/{id}/history` | its history |
//! | `GET /v1/differences` | what would be written, and how many containers are skipped, by reason |
//! | `GET /v1/queue` | the queue, failed entries first |
//! | `GET /v1/managers` | the leader and the candidates |
//! | `GET /v1/problems` | current problems |
//!
//! Lists have a stable order. `limit` is the number of elements (100 by default, at most 1000);
//! `after` continues a list after the key that the last response returned as `next`.

mod paginate;
mod responses;

use std::sync::Arc;

use axum::Router;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::response::Response;
use axum::routing::{MethodRouter, get};
use serde_json::{Value, json};
use uuid::Uuid;

use super::problems;
use super::state::{AdminError, AdminState, json_body, run_blocking};
use crate::reconcile::Reconciler;
use contrail_mesos_api::agent_api;
use contrail_mesos_api::container::ContainerId;

pub(super) use paginate::ListQuery;
pub(super) use responses::{ContainerRow, container_rows, network_rows};

type JsonResult = Result<Value, AdminError>;

/// The routes.
pub(super) fn router() -> Router<Arc<AdminState>> {
    Router::new()
        .route("/v1/mesos", list(responses::mesos))
        .route("/v1/marathon", list(responses::marathon))
        .route("/v1/contrail", list(responses::contrail))
        .route("/v1/agents", list(responses::agents))
        .route("/v1/networks", list(responses::networks))
        .route("/v1/containers", list(responses::containers))
        .route("/v1/differences", list(responses::differences))
        .route("/v1/queue", list(responses::queue))
        .route("/v1/managers", get(managers))
        .route("/v1/problems", get(problems))
        .route("/v1/containers/{id}", get(container))
        .route("/v1/containers/{id}/history", get(history))
}

async fn respond(
    state: Arc<AdminState>,
    build: impl FnOnce(&AdminState) -> JsonResult + Send + 'static,
) -> Result<Response, AdminError> {
    run_blocking(state, |state| build(state).map(|value| json_body(&value))).await?
}

/// A list of which one page is returned.
fn list(build: fn(&Reconciler, &ListQuery) -> JsonResult) -> MethodRouter<Arc<AdminState>> {
    get(
        async move |State(state): State<Arc<AdminState>>,
                    query: Result<Query<ListQuery>, QueryRejection>| {
            let Query(query) = query?;
            respond(state, move |state| build(state.reconciler()?, &query)).await
        },
    )
}

async fn managers(State(state): State<Arc<AdminState>>) -> Result<Response, AdminError> {
    respond(state, |state| Ok(responses::managers(state))).await
}

async fn problems(State(state): State<Arc<AdminState>>) -> Result<Response, AdminError> {
    respond(state, |state| {
        Ok(json!({ "problems": problems::find(state) }))
    })
    .await
}

/// The uuid of the virtual-machine of a container, from the uuid or from the container's id.
fn vm_uuid(id: &str) -> Uuid {
    agent_api::vm_uuid(&ContainerId::printed(id))
}

async fn container(
    State(state): State<Arc<AdminState>>,
    Path(id): Path<String>,
) -> Result<Response, AdminError> {
    respond(state, move |state| {
        responses::container(state, vm_uuid(&id))
    })
    .await
}

async fn history(
    State(state): State<Arc<AdminState>>,
    Path(id): Path<String>,
) -> Result<Response, AdminError> {
    respond(state, move |state| responses::history(state, vm_uuid(&id))).await
}
