//! Liveness, readiness and the log level.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;

use super::AdminState;
use super::state::refuse_query;
use crate::fence::Leadership;
use crate::logging;
use contrail_mesos_api::routes::{Operation, Routes};

type StatusText = (StatusCode, String);

/// The routes with their documentation.
pub(super) fn routes() -> Routes<Arc<AdminState>> {
    let get = |path, summary| Operation::get(path, summary).ignoring_unknown_parameters();
    Routes::new(refuse_query)
        .route(
            get("/live", "Whether the manager runs").text(200, "It runs."),
            async || "live\n",
        )
        .route(
            get("/ready", "Whether it serves requests or knows the leader")
                .text(200, "It serves requests, or knows the leader.")
                .text(503, "Why not"),
            ready,
        )
        .route(
            get("/leading", "Whether it serves requests itself")
                .text(200, "It serves requests.")
                .text(503, "Why not"),
            leading,
        )
        .route(
            get("/log-level", "The log filter")
                .text(200, "The filter, in the syntax of `RUST_LOG`")
                .text(409, "The log is not this program's."),
            log_level,
        )
        .route(
            Operation::put("/log-level", "Changes the log filter")
                .ignoring_unknown_parameters()
                .text_body("The filter, in the syntax of `RUST_LOG`", "info")
                .text(200, "The filter")
                .text(400, "The filter is wrong."),
            set_log_level,
        )
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
