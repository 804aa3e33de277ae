//! The content of the stores, as JSON.
//!
//! [`routes`] is the table of all requests, which is also the source of the OpenAPI document.
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

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::HeaderMap;
use axum::response::Response;
use schemars::JsonSchema;
use serde::Serialize;
use uuid::Uuid;

use super::state::{AdminError, AdminState, json_body, refuse_query, run_blocking};
use crate::cluster::Cluster;
use crate::reconcile::Reconciler;
use contrail_mesos_api::agent_api;
use contrail_mesos_api::container::ContainerId;
use contrail_mesos_api::query::QueryParameters;
use contrail_mesos_api::routes::{Operation, Routes};

pub(super) use cluster::overlay_rows;
pub(super) use filter::ContainerFilter;
pub(super) use groups::{MAX_SOURCES, RuleRow, endpoint_key, reachability};
pub(super) use paginate::ListQuery;
pub(super) use responses::{ContainerRow, container_rows, network_rows};
pub(super) use services::service_rows;

use groups::EndpointFilter;
use paginate::Limit;
use services::{ServiceFilter, TaskNameFilter};

type AdminRoutes = Routes<Arc<AdminState>>;

const NO_MESOS: &str = "The manager has no `[vnc]`, or does not follow Mesos.";
const NO_CLUSTER: &str = "The manager has neither `[overlay]` nor `[services]`.";
const NO_SERVICES: &str = "The manager has no `[services]`.";

/// The routes with their documentation.
pub(super) fn routes() -> AdminRoutes {
    let routes = Routes::new(refuse_query);
    cluster_routes(service_routes(contrail_routes(routes)))
        .route(
            Operation::get("/v1/managers", "The leader and the candidates")
                .json::<responses::Managers>(200, "The managers"),
            managers,
        )
        .route(
            Operation::get("/v1/problems", "The current problems")
                .json::<responses::Problems>(200, "The problems"),
            problems,
        )
}

/// What is in Mesos, Marathon and the VNC API.
fn contrail_routes(routes: AdminRoutes) -> AdminRoutes {
    let of_container = |operation: Operation| {
        operation
            .in_path::<String>(
                "id",
                "The uuid of its virtual-machine, or its id as Mesos prints it",
                "7d1f0a52-93c4-4c1e-9d0b-6a5e2f3b8c10",
            )
            .error(
                404,
                "There is no such container, or the manager has no `[vnc]`.",
            )
    };
    let routes = list(
        routes,
        Operation::get("/v1/mesos", "The tasks in Mesos"),
        |state, query| Ok(responses::mesos(state, query)),
    );
    let routes = list(
        routes,
        Operation::get("/v1/marathon", "The apps and pods in Marathon"),
        responses::marathon,
    );
    let routes = list(
        routes,
        Operation::get(
            "/v1/contrail",
            "The virtual-routers and orphans in the VNC API",
        ),
        |state, query| Ok(responses::contrail(state, query)),
    );
    let routes = list(
        routes,
        Operation::get("/v1/agents", "The agents, joined with the virtual-routers"),
        |state, query| Ok(responses::agents(state, query)),
    );
    let routes = list(
        routes,
        Operation::get("/v1/networks", "The networks that containers are on"),
        |state, query| Ok(responses::networks(state, query)),
    );
    let routes = list(
        routes,
        Operation::get("/v1/differences", "What would be written"),
        responses::differences,
    );
    let containers_operation = Operation::get("/v1/containers", "The containers");
    routes
        .route(
            ListQuery::document(ContainerFilter::document(containers_operation))
                .json::<responses::ContainerList>(200, "A page of the containers")
                .error(404, NO_MESOS),
            containers,
        )
        .route(
            Operation::get("/v1/queue", "The queue, failed entries first")
                .query::<Limit>("limit", "The number of entries", 5)
                .json::<responses::Queue>(200, "The first entries")
                .error(404, NO_MESOS),
            queue,
        )
        .route(
            of_container(Operation::get("/v1/containers/{id}", "One container"))
                .json::<responses::ContainerDetails>(200, "All that is known about it"),
            container,
        )
        .route(
            of_container(Operation::get(
                "/v1/containers/{id}/history",
                "The history of one container",
            ))
            .json::<responses::ContainerHistory>(200, "Its history"),
            history,
        )
}

/// What is published to nodes.
fn cluster_routes(routes: AdminRoutes) -> AdminRoutes {
    let routes = cluster_list(
        routes,
        Operation::get("/v1/overlays", "The overlays, and how much of each is used"),
        cluster::overlays,
    );
    let routes = cluster_list(
        routes,
        Operation::get("/v1/nodes", "The nodes, and their last events"),
        cluster::nodes,
    );
    let routes = cluster_list(
        routes,
        Operation::get(
            "/v1/groups",
            "The memberships, and which of them reach which",
        ),
        groups::groups,
    );
    let routes = cluster_list(
        routes,
        Operation::get(
            "/v1/security-groups",
            "The security groups with their rules",
        ),
        groups::security_groups,
    );
    let operation = Operation::get(
        "/v1/endpoints",
        "The containers on overlays that isolate groups",
    );
    routes.route(
        ListQuery::document(EndpointFilter::document(operation))
            .json::<groups::Endpoints>(200, "A page of the containers")
            .error(404, NO_CLUSTER),
        endpoints,
    )
}

/// The services.
fn service_routes(routes: AdminRoutes) -> AdminRoutes {
    let services_operation = Operation::get("/v1/services", "The services with their backends");
    let names_operation = Operation::get("/v1/task-names", "The names of tasks");
    routes
        .route(
            ListQuery::document(ServiceFilter::document(services_operation))
                .json::<services::ServiceList>(200, "A page of the services")
                .error(404, NO_SERVICES),
            services,
        )
        .route(
            ListQuery::document(TaskNameFilter::document(names_operation))
                .json::<services::TaskNames>(200, "A page of the names")
                .error(404, NO_SERVICES),
            task_names,
        )
        .route(
            Operation::get("/v1/vips", "The services in the form of DC/OS")
                .header::<String>("if-none-match", "The `ETag` of the last response", "\"0\"")
                .json::<Vec<services::VipRow>>(200, "All services, with an `ETag`")
                .empty(304, "Nothing has changed.")
                .error(404, NO_SERVICES),
            vips,
        )
}

async fn respond<T: Serialize + Send + 'static>(
    state: Arc<AdminState>,
    build: impl FnOnce(&AdminState) -> Result<T, AdminError> + Send + 'static,
) -> Result<Response, AdminError> {
    run_blocking(state, |state| build(state).map(|value| json_body(&value))).await?
}

/// Adds a list of which one page is returned.
fn list<T: Serialize + JsonSchema + Send + 'static>(
    routes: AdminRoutes,
    operation: Operation,
    build: fn(&Reconciler, &ListQuery) -> Result<T, AdminError>,
) -> AdminRoutes {
    let operation = ListQuery::document(operation)
        .json::<T>(200, "A page of the list")
        .error(404, NO_MESOS);
    routes.route(
        operation,
        async move |State(state): State<Arc<AdminState>>, mut parameters: QueryParameters| {
            let query = ListQuery::read(&mut parameters)?;
            respond(state, move |state| build(state.reconciler()?, &query)).await
        },
    )
}

/// The same of what is published to nodes.
fn cluster_list<T: Serialize + JsonSchema + Send + 'static>(
    routes: AdminRoutes,
    operation: Operation,
    build: fn(&Cluster, &ListQuery) -> T,
) -> AdminRoutes {
    let operation = ListQuery::document(operation)
        .json::<T>(200, "A page of the list")
        .error(404, NO_CLUSTER);
    routes.route(
        operation,
        async move |State(state): State<Arc<AdminState>>, mut parameters: QueryParameters| {
            let query = ListQuery::read(&mut parameters)?;
            respond(state, move |state| Ok(build(state.cluster()?, &query))).await
        },
    )
}

async fn containers(
    State(state): State<Arc<AdminState>>,
    mut parameters: QueryParameters,
) -> Result<Response, AdminError> {
    let filter = ContainerFilter::read(&mut parameters)?;
    let query = ListQuery::read(&mut parameters)?;
    respond(state, move |state| {
        responses::containers(state.reconciler()?, &filter, &query)
    })
    .await
}

async fn endpoints(
    State(state): State<Arc<AdminState>>,
    mut parameters: QueryParameters,
) -> Result<Response, AdminError> {
    let filter = EndpointFilter::read(&mut parameters);
    let query = ListQuery::read(&mut parameters)?;
    respond(state, move |state| {
        Ok(groups::endpoints(state.cluster()?, &filter, &query))
    })
    .await
}

async fn services(
    State(state): State<Arc<AdminState>>,
    mut parameters: QueryParameters,
) -> Result<Response, AdminError> {
    let filter = ServiceFilter::read(&mut parameters)?;
    let query = ListQuery::read(&mut parameters)?;
    respond(state, move |state| {
        Ok(services::services(state.services()?, &filter, &query))
    })
    .await
}

async fn task_names(
    State(state): State<Arc<AdminState>>,
    mut parameters: QueryParameters,
) -> Result<Response, AdminError> {
    let filter = TaskNameFilter::read(&mut parameters);
    let query = ListQuery::read(&mut parameters)?;
    respond(state, move |state| {
        Ok(services::task_names(state.services()?, &filter, &query))
    })
    .await
}

async fn vips(
    State(state): State<Arc<AdminState>>,
    headers: HeaderMap,
) -> Result<Response, AdminError> {
    let build = move |state: &AdminState| Ok(services::vips(state.services()?, &headers));
    run_blocking(state, build).await?
}

async fn queue(
    State(state): State<Arc<AdminState>>,
    mut parameters: QueryParameters,
) -> Result<Response, AdminError> {
    let query = ListQuery::read(&mut parameters)?;
    respond(state, move |state| {
        Ok(responses::queue(state.reconciler()?, query.limit))
    })
    .await
}

async fn managers(State(state): State<Arc<AdminState>>) -> Result<Response, AdminError> {
    respond(state, |state| Ok(responses::managers(state))).await
}

async fn problems(State(state): State<Arc<AdminState>>) -> Result<Response, AdminError> {
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
) -> Result<Response, AdminError> {
    let uuid = vm_uuid(id)?;
    respond(state, move |state| responses::container(state, uuid)).await
}

async fn history(
    State(state): State<Arc<AdminState>>,
    id: Result<Path<String>, PathRejection>,
) -> Result<Response, AdminError> {
    let uuid = vm_uuid(id)?;
    respond(state, move |state| responses::history(state, uuid)).await
}
