//! The watch and the reports, for nodes.

use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, RawQuery, State};
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::{IntoResponse as _, Json, Response};
use axum::routing::{any, get, put};
use axum::{Extension, Router};
use futures::stream;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio_util::sync::CancellationToken;

use super::ApiState;
use super::agents::{AgentName, ApiError, ApiResult};
use crate::cluster::{Cluster, NodeWatch};
use crate::error::ManagerError;
use crate::query::QueryParameters;
use contrail_mesos_api::cluster::{EndpointsReport, NodeReport, Revision};
use contrail_mesos_api::text::Quoted;

const PATHS: [&str; 3] = ["/v1/watch", "/v1/nodes", "/v1/nodes/{node}"];
const ENDPOINTS_PATH: &str = "/v1/nodes/{node}/endpoints";

/// What the handlers share.
#[derive(Debug)]
struct NodesState {
    api: Arc<ApiState>,
    cluster: Arc<Cluster>,
}

/// The routes.
pub(super) fn router(api: Arc<ApiState>, cluster: Arc<Cluster>) -> Router {
    let state = Arc::new(NodesState { api, cluster });
    let [watch_path, list_path, node_path] = PATHS;
    Router::new()
        .route(watch_path, get(watch))
        .route(list_path, get(list))
        .route(node_path, put(report).delete(remove))
        .with_state(state)
}

/// The route whose bodies are longer than those of others.
pub(super) fn endpoints_router(api: Arc<ApiState>, cluster: Arc<Cluster>) -> Router {
    let state = Arc::new(NodesState { api, cluster });
    Router::new()
        .route(ENDPOINTS_PATH, put(report_endpoints))
        .with_state(state)
}

/// The routes of a manager without overlays and services.
pub(super) fn refusing_router() -> Router {
    let refuse = async || -> ApiError {
        let message = "this manager has neither [overlay] nor [services] in its configuration: it has \
                       nothing for nodes";
        ManagerError::NotConfigured(message).into()
    };
    PATHS
        .into_iter()
        .chain([ENDPOINTS_PATH])
        .fold(Router::new(), |router, path| {
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
    RawQuery(query): RawQuery,
) -> Result<Response, ApiError> {
    let mut query =
        QueryParameters::parse(query.as_deref(), &["node", "since"]).map_err(invalid_query)?;
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
    RawQuery(query): RawQuery,
    body: Bytes,
) -> ApiResult<impl Serialize> {
    QueryParameters::parse(query.as_deref(), &[]).map_err(invalid_query)?;
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
    RawQuery(query): RawQuery,
    body: Bytes,
) -> ApiResult<impl Serialize> {
    QueryParameters::parse(query.as_deref(), &[]).map_err(invalid_query)?;
    let node = parse_node(node, &agent)?;
    let report: EndpointsReport = parse_body(&body, "the report of a node's containers")?;
    state.api.check_ready()?;
    let cluster = state.cluster.clone();
    let work = async move { cluster.report_endpoints(&node, report).await };
    state.api.run_to_completion(work).await?;
    Ok(Json(serde_json::json!({})))
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
    RawQuery(query): RawQuery,
) -> ApiResult<impl Serialize> {
    QueryParameters::parse(query.as_deref(), &[]).map_err(invalid_query)?;
    let node = parse_node(node, &agent)?;
    state.api.check_ready()?;
    let cluster = state.cluster.clone();
    let work = async move { cluster.remove(&node).await };
    state.api.run_to_completion(work).await?;
    Ok(Json(serde_json::json!({})))
}

async fn list(
    State(state): State<Arc<NodesState>>,
    RawQuery(query): RawQuery,
) -> ApiResult<impl Serialize> {
    let mut query =
        QueryParameters::parse(query.as_deref(), &["node", "address"]).map_err(invalid_query)?;
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
