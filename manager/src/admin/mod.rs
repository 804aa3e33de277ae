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
//! The listener is unauthenticated, so by default it is bound to the loopback address.

mod health;
mod json;
pub(crate) mod metrics;
mod page;
mod problems;
mod state;

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;
use axum::routing::get;

pub(crate) use state::AdminState;

/// The routes.
pub(crate) fn router(state: Arc<AdminState>) -> Router {
    Router::new()
        .route("/", get(page::show))
        .merge(json::router())
        .merge(health::router())
        .route("/metrics", get(show_metrics))
        .with_state(state)
}

async fn show_metrics(State(state): State<Arc<AdminState>>, headers: HeaderMap) -> Response {
    state.metrics.response(&headers)
}
