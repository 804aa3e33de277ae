//! Liveness, readiness and the log level.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;

use super::AdminState;
use crate::fence::Leadership;
use crate::logging;

type StatusText = (StatusCode, String);

pub(super) fn router() -> Router<Arc<AdminState>> {
    Router::new()
        .route("/live", get(async || "live\n"))
        .route("/ready", get(ready))
        .route("/leading", get(leading))
        .route("/log-level", get(log_level).put(set_log_level))
}

async fn ready(State(state): State<Arc<AdminState>>) -> StatusText {
    if let Leadership::Following { leader } = &*state.fence.leadership().borrow() {
        return (StatusCode::OK, format!("following {leader}\n"));
    }
    if let Some(outage) = state.confirmed_outage() {
        let text = format!("not ready: {outage}\n");
        return (StatusCode::SERVICE_UNAVAILABLE, text);
    }
    serving(&state)
}

async fn leading(State(state): State<Arc<AdminState>>) -> StatusText {
    serving(&state)
}

fn serving(state: &AdminState) -> StatusText {
    match state.not_serving_reason() {
        None => (StatusCode::OK, "leading\n".to_owned()),
        Some(reason) => (
            StatusCode::SERVICE_UNAVAILABLE,
            format!("not ready: {reason}\n"),
        ),
    }
}

async fn log_level() -> StatusText {
    match logging::filter() {
        Some(filter) => (StatusCode::OK, format!("{filter}\n")),
        None => (StatusCode::CONFLICT, format!("{}\n", logging::NOT_OURS)),
    }
}

async fn set_log_level(body: String) -> StatusText {
    let filter = body.trim();
    match logging::set_filter(filter) {
        Ok(()) => {
            log::info!(filter; "log level changed");
            (StatusCode::OK, format!("{filter}\n"))
        }
        Err(error) => (StatusCode::BAD_REQUEST, format!("{error}\n")),
    }
}
