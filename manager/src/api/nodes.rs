//! The watch and the reports, for nodes.

use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::{IntoResponse as _, Json, Response};
use axum::routing::any;
use axum::{Extension, Router};
use futures::stream;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::ApiState;
use super::agents::{AgentName, ApiError, ApiResult, Empty, of_agents, refuse_query};
use crate::cluster::{Cluster, NodeWatch};
use crate::error::ManagerError;
use contrail_mesos_api::cluster::{
    EndpointsReport, NodeAnswer, NodeList, NodeReport, Revision, WatchItem,
};
use contrail_mesos_api::query::QueryParameters;
use contrail_mesos_api::routes::{Operation, Routes, paths};
use contrail_mesos_api::text::Quoted;

/// What the handlers share.
#[derive(Debug)]
pub(super) struct NodesState {
    api: Arc<ApiState>,
    cluster: Arc<Cluster>,
}

/// The routes with their documentation.
pub(super) fn routes() -> Routes<Arc<NodesState>> {
    let report_example = json!({
        "address": "192.0.2.1",
        "uplink_mtu": 1500,
        "versions": { "node": "0.1.0", "kernel": "6.1.0" },
        "subsystems": [{ "name": "overlay", "problems": [] }],
    });
    Routes::new(refuse_query)
        .route(
            of_nodes(Operation::put("/v1/nodes/{node}", "Reports the state of a node"))
                .notes("The first report of a node registers it.")
                .in_path::<String>("node", NODE, "node1")
                .body::<NodeReport>("The state of the node", report_example)
                .json::<NodeAnswer>(200, "What the node was given"),
            report,
        )
        .route(
            of_nodes(Operation::get("/v1/nodes", "The nodes"))
                .query::<String>("node", "The name of one node", "node1")
                .query::<IpAddr>(
                    "address",
                    "An address of a node, or of one of its subnets",
                    "192.0.2.1",
                )
                .json::<NodeList>(200, "The nodes"),
            list,
        )
        .route(
            of_nodes(Operation::get("/v1/watch", "Follows the state of the cluster"))
                .notes(
                    "A stream of lines. It begins with `snapshot`, a `put` for each object, and \
                     `synced`; what is not put between them is gone. Then follow `put` and `delete` as \
                     things change, and a `heartbeat` every few seconds. Unknown kinds of objects are \
                     ignored. A reader that is too slow is disconnected, and resumes with `since`.",
                )
                .required_query::<String>("node", "The node's own name", "node1")
                .query::<Revision>(
                    "since",
                    "The last revision that the client has: if the manager still knows what has changed \
                     after it, the snapshot is left out",
                    "0.1",
                )
                .lines::<WatchItem>(200, "The stream; each line is an item")
                .error(409, "`since` is later than all that the manager has published."),
            watch,
        )
        .route(
            of_nodes(Operation::delete("/v1/nodes/{node}", "Removes a node for good"))
                .notes("Its subnets are free then.")
                .in_path::<String>("node", NODE, "node1")
                .json::<Empty>(200, "The node is gone.")
                .error(409, "The node cannot be removed now."),
            remove,
        )
}

/// The route whose bodies are longer than those of others, with its documentation.
pub(super) fn endpoints_routes() -> Routes<Arc<NodesState>> {
    let example = json!({
        "digest": "5d41402a",
        "endpoints": [{
            "node": "node1", "id": "c1/dcos", "addresses": ["9.0.1.2"], "groups": ["web"],
        }],
    });
    let operation = Operation::put(
        "/v1/nodes/{node}/endpoints",
        "Reports the containers of a node on overlays that isolate groups",
    );
    Routes::new(refuse_query).route(
        of_nodes(operation)
            .notes("It replaces the report before.")
            .in_path::<String>("node", NODE, "node1")
            .body::<EndpointsReport>("All these containers", example)
            .json::<Empty>(200, "The manager has the report.")
            .error(409, "The node has not reported its state yet."),
        report_endpoints,
    )
}

const NODE: &str = "The node's own name";

fn of_nodes(operation: Operation) -> Operation {
    of_agents(operation).error(404, "The manager has neither `[overlay]` nor `[services]`.")
}

/// The routes.
pub(super) fn router(api: Arc<ApiState>, cluster: Arc<Cluster>) -> Router {
    let state = Arc::new(NodesState { api, cluster });
    routes().into_router().with_state(state)
}

/// The route whose bodies are longer than those of others.
pub(super) fn endpoints_router(api: Arc<ApiState>, cluster: Arc<Cluster>) -> Router {
    let state = Arc::new(NodesState { api, cluster });
    endpoints_routes().into_router().with_state(state)
}

/// The routes of a manager without overlays and services.
pub(super) fn refusing_router() -> Router {
    let refuse = async || -> ApiError {
        let message = "this manager has neither [overlay] nor [services] in its configuration: it has \
                       nothing for nodes";
        ManagerError::NotConfigured(message).into()
    };
    let operations = routes().merge(endpoints_routes()).into_operations();
    let paths = paths(&operations).into_iter();
    paths.fold(Router::new(), |router, path| {
        router.route(path, any(refuse))
    })
}

/// A node's own name: nobody else may use it.
fn check_own(agent: &str, node: &str) -> Result<(), ManagerError> {
    if node == agent {
        return Ok(());
    }
    Err(ManagerError::Foreign(format!(
        "node {agent:?} may not watch, report or delete for {}",
        Quoted(node.as_bytes())
    )))
}

fn invalid_query(problem: impl AsRef<str>) -> ManagerError {
    ManagerError::invalid(format!("the query is invalid: {}", problem.as_ref()))
}

async fn watch(
    State(state): State<Arc<NodesState>>,
    Extension(AgentName(agent)): Extension<AgentName>,
    mut query: QueryParameters,
) -> Result<Response, ApiError> {
    let node = query
        .take("node")
        .ok_or_else(|| invalid_query("the parameter node is missing"))?;
    let since: Option<Revision> = query
        .take_parsed("since", "a revision such as 3.41")
        .map_err(invalid_query)?;
    check_own(&agent, &node)?;
    state.api.check_ready()?;
    let cluster = state.cluster.clone();
    // A snapshot of many containers takes a while to encode.
    let begin = move || cluster.watch(&agent, since);
    let watch = state.api.run_blocking(begin).await?;
    let headers = [
        (CONTENT_TYPE, "application/x-ndjson"),
        (CACHE_CONTROL, "no-store"),
    ];
    Ok((headers, stream_body(watch, state.api.stop.clone())).into_response())
}

/// A body that ends with the watch, or when the manager stops.
fn stream_body(watch: NodeWatch, stop: CancellationToken) -> Body {
    let lines = stream::unfold((watch, stop), async |(mut watch, stop)| {
        let lines: Option<Bytes> = tokio::select! {
            lines = watch.next() => lines,
            () = stop.cancelled() => {
                watch.stop();
                None
            }
        };
        Some((Ok::<_, Infallible>(lines?), (watch, stop)))
    });
    Body::from_stream(lines)
}

/// The node in a path.
fn parse_node(
    path: Result<Path<String>, PathRejection>,
    agent: &str,
) -> Result<String, ManagerError> {
    let Path(node) = path.map_err(|rejection| ManagerError::invalid(rejection.body_text()))?;
    check_own(agent, &node)?;
    Ok(node)
}

async fn report(
    State(state): State<Arc<NodesState>>,
    Extension(AgentName(agent)): Extension<AgentName>,
    node: Result<Path<String>, PathRejection>,
    body: Bytes,
) -> ApiResult<impl Serialize> {
    let node = parse_node(node, &agent)?;
    let report: NodeReport = parse_body(&body, "the report of a node")?;
    state.api.check_ready()?;
    let cluster = state.cluster.clone();
    let work = async move { cluster.report(&node, report).await };
    Ok(Json(state.api.run_to_completion(work).await?))
}

async fn report_endpoints(
    State(state): State<Arc<NodesState>>,
    Extension(AgentName(agent)): Extension<AgentName>,
    node: Result<Path<String>, PathRejection>,
    body: Bytes,
) -> ApiResult<impl Serialize> {
    let node = parse_node(node, &agent)?;
    let report: EndpointsReport = parse_body(&body, "the report of a node's containers")?;
    state.api.check_ready()?;
    let cluster = state.cluster.clone();
    let work = async move { cluster.report_endpoints(&node, report).await };
    state.api.run_to_completion(work).await?;
    Ok(Json(Empty {}))
}

fn parse_body<T: DeserializeOwned>(body: &[u8], what: &str) -> Result<T, ManagerError> {
    let mut reader = serde_json::Deserializer::from_slice(body);
    serde_path_to_error::deserialize(&mut reader)
        .map_err(|error| ManagerError::invalid(format!("the body is not {what}: {error}")))
}

async fn remove(
    State(state): State<Arc<NodesState>>,
    Extension(AgentName(agent)): Extension<AgentName>,
    node: Result<Path<String>, PathRejection>,
) -> ApiResult<impl Serialize> {
    let node = parse_node(node, &agent)?;
    state.api.check_ready()?;
    let cluster = state.cluster.clone();
    let work = async move { cluster.remove(&node).await };
    state.api.run_to_completion(work).await?;
    Ok(Json(Empty {}))
}

async fn list(
    State(state): State<Arc<NodesState>>,
    mut query: QueryParameters,
) -> ApiResult<impl Serialize> {
    let node = query.take("node");
    let address: Option<IpAddr> = query
        .take_parsed("address", "an address")
        .map_err(invalid_query)?;
    state.api.check_ready()?;
    let mut list = state.cluster.list()?;
    if let Some(address) = address {
        list.containers = state.cluster.containers_with(address);
    }
    list.nodes.retain(|status| {
        node.as_ref().is_none_or(|name| *name == status.name)
            && address.is_none_or(|address| status.has_address(address))
    });
    Ok(Json(list))
}
