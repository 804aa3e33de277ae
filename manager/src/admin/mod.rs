//! The admin listener: status page, JSON, health, metrics and log level, for operators and
//! monitoring.
//!
//! | request | response |
//! |---|---|
//! | `GET /` | the status page: [`page`] |
//! | `GET /v1/…` | the content of the stores, as JSON: [`json`] |
//! | `GET /live` | 200 while the manager runs |
//! | `GET /ready` | 200 if it serves requests or knows the leader; otherwise 503 and the reason |
//! | `GET /leading` | 200 if it serves requests itself; otherwise 503 and the reason |
//! | `GET /metrics` | metrics in OpenMetrics or the Prometheus text format, by `Accept`: [`metrics`] |
//! | `GET`, `PUT /log-level` | the log filter, in the syntax of `RUST_LOG`: `info`, `warn,contrail_mesos=debug` |
//!
//! An error is JSON with a field `error`. Paths under `/v1` and the page refuse parameters that they
//! do not know; the others ignore them, because probes and monitoring add their own.
//!
//! The listener is unauthenticated, so by default it is bound to the loopback address.

mod health;
mod json;
pub(crate) mod metrics;
mod page;
mod problems;
mod state;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, Method};
use axum::middleware::from_fn_with_state;
use axum::response::Response;
use axum::routing::get;

use crate::listener::{AllowedHosts, BodyLimits, check_host, receive_body};
use contrail_mesos_api::text::Quoted;
use state::AdminError;
pub(crate) use state::AdminState;

/// A log filter is all that a request may contain.
const MAX_BODY_BYTES: usize = 4 << 10;

/// The routes.
pub(crate) fn router(
    state: Arc<AdminState>,
    hosts: Arc<AllowedHosts>,
    body_timeout: Duration,
) -> Router {
    let limits = BodyLimits {
        max_bytes: MAX_BODY_BYTES,
        timeout: body_timeout,
    };
    Router::new()
        .route("/", get(page::show))
        .merge(json::router())
        .merge(health::router())
        .route("/metrics", get(show_metrics))
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(from_fn_with_state(limits, receive_body))
        .layer(from_fn_with_state(hosts, check_host))
        .with_state(state)
}

async fn show_metrics(State(state): State<Arc<AdminState>>, headers: HeaderMap) -> Response {
    state.metrics.response(&headers)
}

/// The paths of this listener, for who asks for another one.
const PATHS: &str = "/, /live, /ready, /leading, /metrics, /log-level, /v1/mesos, /v1/marathon, \
    /v1/contrail, /v1/agents, /v1/networks, /v1/containers, /v1/containers/{id}, \
    /v1/containers/{id}/history, /v1/differences, /v1/queue, /v1/overlays, /v1/nodes, /v1/endpoints, \
    /v1/groups, /v1/security-groups, /v1/services, /v1/task-names, /v1/vips, /v1/managers, /v1/problems";

async fn not_found() -> AdminError {
    AdminError::not_found(format!("there is no such path; there are: {PATHS}"))
}

async fn method_not_allowed(method: Method) -> AdminError {
    AdminError::method_not_allowed(format!(
        "this path does not support {}; all support GET only, and /log-level also PUT",
        Quoted(method.as_str().as_bytes())
    ))
}
