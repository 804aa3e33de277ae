//! The admin listener: status page, JSON, health, metrics and log level, for operators and
//! monitoring.
//!
//! | module | what |
//! |---|---|
//! | [`page`] | the status page |
//! | [`mod@json`] | the content of the stores, as JSON |
//! | [`health`] | whether the manager runs, serves requests and leads; the log level |
//! | [`metrics`] | metrics in OpenMetrics or the Prometheus text format, by `Accept` |
//!
//! [`routes`] is the table of all requests, which is also the source of the OpenAPI document.
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

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, Method};
use axum::middleware::from_fn_with_state;
use axum::response::Response;
use prometheus_client::encoding::prometheus_text;
use serde_json::json;

use crate::listener::{AllowedHosts, BodyLimits, check_host, receive_body};
use contrail_mesos_api::routes::{Document, Operation, Routes, paths};
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
    routes()
        .into_router()
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(from_fn_with_state(limits, receive_body))
        .layer(from_fn_with_state(hosts, check_host))
        .with_state(state)
}

async fn show_metrics(State(state): State<Arc<AdminState>>, headers: HeaderMap) -> Response {
    state.metrics.response(&headers)
}

/// The routes with their documentation.
fn routes() -> Routes<Arc<AdminState>> {
    let metrics = Operation::get(
        "/metrics",
        "Metrics in OpenMetrics or the Prometheus text format",
    )
    .ignoring_unknown_parameters()
    .content(200, metrics::OPENMETRICS_CONTENT_TYPE, "The metrics")
    .content(200, prometheus_text::CONTENT_TYPE, "");
    page::routes()
        .merge(json::routes())
        .merge(health::routes())
        .route(metrics, show_metrics)
        .document(document)
}

const DESCRIPTION: &str = "\
The listener of the manager for operators and monitoring. It is unauthenticated: requests for foreign host \
names and of foreign pages are refused with 403.

- An error under `/v1` is JSON with a field `error`; that of `/log-level` is text. An unknown path is \
answered with 404, another method with 405.
- Lists have a stable order. `limit` is the number of elements, 100 by default; `after` continues a list \
after the key that the last page returned as `next`.
- Only the leader knows what is in Mesos, Marathon and the VNC API.
- Fields and paths may be added; clients ignore what they do not know.";

/// The document as text, made once.
pub(super) fn document() -> Bytes {
    static DOCUMENT: LazyLock<Bytes> = LazyLock::new(|| {
        let document = Document {
            title: "contrail-mesos-manager: operators",
            version: env!("CARGO_PKG_VERSION"),
            description: DESCRIPTION,
            security_schemes: json!({}),
            security: json!([]),
            operations: routes().into_operations(),
        };
        document.to_text()
    });
    DOCUMENT.clone()
}

async fn not_found() -> AdminError {
    let paths = paths(&routes().into_operations()).join(", ");
    AdminError::not_found(format!("there is no such path; there are: {paths}"))
}

async fn method_not_allowed(method: Method) -> AdminError {
    AdminError::method_not_allowed(format!(
        "this path does not support {}; all support GET only, and /log-level also PUT",
        Quoted(method.as_str().as_bytes())
    ))
}
