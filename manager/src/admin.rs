//! What is seen from outside, and the log level: for operators and what watches over the manager.
//!
//! | request | answer |
//! |---|---|
//! | `GET /` | the page, for operators: [`super::page`] |
//! | `GET /v1/…` | what the stores hold, as JSON: [`super::introspect`] |
//! | `GET /live` | 200 as long as the manager runs |
//! | `GET /ready` | 200 if it takes on requests, or knows who does; else 503, and why |
//! | `GET /leading` | 200 if it takes on requests itself; else 503, and who does |
//! | `GET /metrics` | Prometheus' text |
//! | `GET`, `PUT /log-level` | what is logged, as `RUST_LOG` says it: `info`, `warn,contrail_mesos=debug` |
//!
//! Whoever reaches this listener may ask: it is this machine's alone unless configured otherwise.

use std::sync::Arc;
use std::time::SystemTime;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::sync::watch;

use super::containers::Containers;
use super::fence::{Fence, Leadership};
use super::introspect::{self, Refused};
use super::lead::Readiness;
use super::logging;
use super::metrics::{self, Metrics};
use super::page;
use super::reconcile::Reconciler;
use crate::vnc::VncClient;

/// What is shown.
#[derive(Debug)]
pub(super) struct Shown {
    pub fence: Fence,
    pub ready: watch::Receiver<Readiness>,
    pub metrics: Arc<Metrics>,
    pub containers: Arc<Containers>,
    /// Where something is followed.
    pub reconciler: Option<Arc<Reconciler>>,
    pub client: VncClient,
    pub cluster: String,
    /// Where agents ask this manager.
    pub url: String,
    /// Whether there may be others.
    pub elected: bool,
    pub started: SystemTime,
}

/// The routes.
pub(super) fn router(shown: Arc<Shown>) -> Router {
    Router::new()
        .route("/live", get(async || "live\n"))
        .route("/ready", get(ready))
        .route("/leading", get(leading))
        .route("/metrics", get(metrics))
        .route("/log-level", get(log_level).put(set_log_level))
        .route("/", get(page::show))
        .merge(introspect::router())
        .with_state(shown)
}

type Said = (StatusCode, String);

impl Shown {
    /// What keeps the VNC API true.
    pub(super) fn reconciler(&self) -> Result<&Reconciler, Refused> {
        let missing = "this manager follows nothing; see [mesos] in the configuration";
        self.reconciler
            .as_deref()
            .ok_or_else(|| Refused::missing(missing))
    }

    /// Why this manager takes on no requests.
    fn unready(&self) -> Option<String> {
        self.ready.borrow().unready.clone()
    }
}

fn said(unready: Option<String>) -> Said {
    match unready {
        None => (StatusCode::OK, "leading\n".to_owned()),
        Some(reason) => (
            StatusCode::SERVICE_UNAVAILABLE,
            format!("not ready: {reason}\n"),
        ),
    }
}

async fn ready(State(shown): State<Arc<Shown>>) -> Said {
    match &*shown.fence.leadership().borrow() {
        Leadership::Following { leader } => (StatusCode::OK, format!("following {leader}\n")),
        _ => said(shown.unready()),
    }
}

async fn leading(State(shown): State<Arc<Shown>>) -> Said {
    said(shown.unready())
}

async fn metrics(State(shown): State<Arc<Shown>>) -> Response {
    match shown.metrics.text() {
        Ok(text) => ([(CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

async fn log_level() -> Said {
    match logging::filter() {
        Some(filter) => (StatusCode::OK, format!("{filter}\n")),
        None => (StatusCode::CONFLICT, format!("{}\n", logging::NOT_OURS)),
    }
}

async fn set_log_level(body: String) -> Said {
    match logging::set_filter(body.trim()) {
        Ok(()) => {
            log::info!(filter = body.trim(); "the log level has been changed");
            (StatusCode::OK, format!("{}\n", body.trim()))
        }
        Err(problem) => (StatusCode::BAD_REQUEST, format!("{problem}\n")),
    }
}
