//! The content of the stores, as JSON.
//!
//! | request | response |
//! |---|---|
//! | `GET /v1/mesos` | Mesos: the state of the source, counts, tasks |
//! | `GET /v1/marathon` | Marathon: the state of the source, apps and pods |
//! | `GET /v1/contrail` | the VNC API: the state of the source, counts, virtual-routers, orphans |
//! | `GET /v1/agents` | agents joined with virtual-routers |
//! | `GET /v1/networks` | networks that containers are on |
//! | `GET /v1/containers` | containers; `network`, `app` and `agent` filter by a part of the name, `address` by an address or subnet |
//! | `GET /v1/containers/{id}` | one container, by its virtual-machine's uuid or by its id as Mesos prints it |
//! | `GET /v1/containers/{id}/history` | its history |
//! | `GET /v1/differences` | what would be written, and how many containers are skipped, by reason |
//! | `GET /v1/queue` | the queue, failed entries first |
//! | `GET /v1/overlays` | the overlays, how much of each is used, and the tunnel endpoints |
//! | `GET /v1/nodes` | the nodes: what they have and what they have applied; the last events of nodes |
//! | `GET /v1/endpoints` | the containers on overlays that isolate groups; `node` and `group` filter by a name |
//! | `GET /v1/groups` | the memberships of these containers, and which of them reach which |
//! | `GET /v1/security-groups` | the security groups with their rules |
//! | `GET /v1/services` | the services with their backends, and their problems; `service` and `framework` filter by a part of the name, `address` by an address or subnet of a service, a backend or its host |
//! | `GET /v1/task-names` | the names of tasks; `name` filters by a part of the name |
//! | `GET /v1/vips` | the services in the form of DC/OS, as a whole, with an `ETag` |
//! | `GET /v1/managers` | the leader and the candidates |
//! | `GET /v1/problems` | current problems |
//!
//! Lists have a stable order. `limit` is the number of elements (100 by default, at most 1000);
//! `after` continues a list after the key that the last response returned as `next`. Unknown
//! parameters are errors.

mod cluster;
mod filter;
mod groups;
mod paginate;
mod responses;
mod services;

use std::sync::Arc;

use axum::Router;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, RawQuery, State};
use axum::http::HeaderMap;
use axum::response::Response;
use axum::routing::{MethodRouter, get};
use serde_json::Value;
use uuid::Uuid;

use super::state::{AdminError, AdminState, json_body, run_blocking};
use crate::cluster::Cluster;
use crate::query::QueryParameters;
use crate::reconcile::Reconciler;
use contrail_mesos_api::agent_api;
use contrail_mesos_api::container::ContainerId;

pub(super) use cluster::overlay_rows;
pub(super) use filter::ContainerFilter;
pub(super) use groups::{MAX_SOURCES, RuleRow, endpoint_key, reachability};
pub(super) use paginate::ListQuery;
pub(super) use responses::{ContainerRow, container_rows, network_rows};
pub(super) use services::service_rows;

use groups::EndpointFilter;
use services::{ServiceFilter, TaskNameFilter};

type JsonResult = Result<Value, AdminError>;

/// The routes.
pub(super) fn router() -> Router<Arc<AdminState>> {
    Router::new()
        .route(
            "/v1/mesos",
            list(|state, query| Ok(responses::mesos(state, query))),
        )
        .route("/v1/marathon", list(responses::marathon))
        .route(
            "/v1/contrail",
            list(|state, query| Ok(responses::contrail(state, query))),
        )
        .route(
            "/v1/agents",
            list(|state, query| Ok(responses::agents(state, query))),
        )
        .route(
            "/v1/networks",
            list(|state, query| Ok(responses::networks(state, query))),
        )
        .route("/v1/containers", get(containers))
        .route("/v1/differences", list(responses::differences))
        .route("/v1/queue", get(queue))
        .route(
            "/v1/overlays",
            cluster_list(|cluster, query| Ok(cluster::overlays(cluster, query))),
        )
        .route(
            "/v1/nodes",
            cluster_list(|cluster, query| Ok(cluster::nodes(cluster, query))),
        )
        .route("/v1/endpoints", get(endpoints))
        .route(
            "/v1/groups",
            cluster_list(|cluster, query| Ok(groups::groups(cluster, query))),
        )
        .route(
            "/v1/security-groups",
            cluster_list(|cluster, query| Ok(groups::security_groups(cluster, query))),
        )
        .route("/v1/services", get(services))
        .route("/v1/task-names", get(task_names))
        .route("/v1/vips", get(vips))
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

/// The parameters of a request that takes these.
fn parameters(
    RawQuery(query): &RawQuery,
    known: &[&'static str],
) -> Result<QueryParameters, AdminError> {
    QueryParameters::parse(query.as_deref(), known).map_err(AdminError::bad_request)
}

/// A list of which one page is returned.
fn list(build: fn(&Reconciler, &ListQuery) -> JsonResult) -> MethodRouter<Arc<AdminState>> {
    get(
        async move |State(state): State<Arc<AdminState>>, query: RawQuery| {
            let query = ListQuery::read(&mut parameters(&query, &ListQuery::PARAMETERS)?)?;
            respond(state, move |state| build(state.reconciler()?, &query)).await
        },
    )
}

/// The same of what is published to nodes.
fn cluster_list(build: fn(&Cluster, &ListQuery) -> JsonResult) -> MethodRouter<Arc<AdminState>> {
    get(
        async move |State(state): State<Arc<AdminState>>, query: RawQuery| {
            let query = ListQuery::read(&mut parameters(&query, &ListQuery::PARAMETERS)?)?;
            respond(state, move |state| build(state.cluster()?, &query)).await
        },
    )
}

async fn containers(
    State(state): State<Arc<AdminState>>,
    query: RawQuery,
) -> Result<Response, AdminError> {
    let known = [&ContainerFilter::PARAMETERS[..], &ListQuery::PARAMETERS].concat();
    let mut parameters = parameters(&query, &known)?;
    let filter = ContainerFilter::read(&mut parameters)?;
    let query = ListQuery::read(&mut parameters)?;
    respond(state, move |state| {
        responses::containers(state.reconciler()?, &filter, &query)
    })
    .await
}

async fn endpoints(
    State(state): State<Arc<AdminState>>,
    query: RawQuery,
) -> Result<Response, AdminError> {
    let known = [&EndpointFilter::PARAMETERS[..], &ListQuery::PARAMETERS].concat();
    let mut parameters = parameters(&query, &known)?;
    let filter = EndpointFilter::read(&mut parameters);
    let query = ListQuery::read(&mut parameters)?;
    respond(state, move |state| {
        Ok(groups::endpoints(state.cluster()?, &filter, &query))
    })
    .await
}

async fn services(
    State(state): State<Arc<AdminState>>,
    query: RawQuery,
) -> Result<Response, AdminError> {
    let known = [&ServiceFilter::PARAMETERS[..], &ListQuery::PARAMETERS].concat();
    let mut parameters = parameters(&query, &known)?;
    let filter = ServiceFilter::read(&mut parameters)?;
    let query = ListQuery::read(&mut parameters)?;
    respond(state, move |state| {
        Ok(services::services(state.services()?, &filter, &query))
    })
    .await
}

async fn task_names(
    State(state): State<Arc<AdminState>>,
    query: RawQuery,
) -> Result<Response, AdminError> {
    let known = [&TaskNameFilter::PARAMETERS[..], &ListQuery::PARAMETERS].concat();
    let mut parameters = parameters(&query, &known)?;
    let filter = TaskNameFilter::read(&mut parameters);
    let query = ListQuery::read(&mut parameters)?;
    respond(state, move |state| {
        Ok(services::task_names(state.services()?, &filter, &query))
    })
    .await
}

async fn vips(
    State(state): State<Arc<AdminState>>,
    query: RawQuery,
    headers: HeaderMap,
) -> Result<Response, AdminError> {
    parameters(&query, &[])?;
    let build = move |state: &AdminState| Ok(services::vips(state.services()?, &headers));
    run_blocking(state, build).await?
}

async fn queue(
    State(state): State<Arc<AdminState>>,
    query: RawQuery,
) -> Result<Response, AdminError> {
    let query = ListQuery::read(&mut parameters(&query, &["limit"])?)?;
    respond(state, move |state| {
        Ok(responses::queue(state.reconciler()?, query.limit))
    })
    .await
}

async fn managers(
    State(state): State<Arc<AdminState>>,
    query: RawQuery,
) -> Result<Response, AdminError> {
    parameters(&query, &[])?;
    respond(state, |state| Ok(responses::managers(state))).await
}

async fn problems(
    State(state): State<Arc<AdminState>>,
    query: RawQuery,
) -> Result<Response, AdminError> {
    parameters(&query, &[])?;
    respond(state, |state| Ok(responses::problems(state))).await
}

/// The uuid of the virtual-machine of a container, from the uuid or from the container's id.
fn vm_uuid(id: Result<Path<String>, PathRejection>) -> Result<Uuid, AdminError> {
    let Path(id) = id.map_err(|rejection| AdminError::bad_request(rejection.body_text()))?;
    Ok(agent_api::vm_uuid(&ContainerId::printed(&id)))
}

async fn container(
    State(state): State<Arc<AdminState>>,
    id: Result<Path<String>, PathRejection>,
    query: RawQuery,
) -> Result<Response, AdminError> {
    parameters(&query, &[])?;
    let uuid = vm_uuid(id)?;
    respond(state, move |state| responses::container(state, uuid)).await
}

async fn history(
    State(state): State<Arc<AdminState>>,
    id: Result<Path<String>, PathRejection>,
    query: RawQuery,
) -> Result<Response, AdminError> {
    parameters(&query, &[])?;
    let uuid = vm_uuid(id)?;
    respond(state, move |state| responses::history(state, uuid)).await
}
