//! Marathon's REST API.
//!
//! ```text
//! GET  POST      /v2/apps            ?embed=apps.tasks, ?id=, ?cmd=, ?label=
//! GET PUT DELETE /v2/apps/{id}       ?embed=app.tasks, ?force=true; {group}/*
//! GET            /v2/apps/{id}/tasks
//! POST           /v2/apps/{id}/restart
//! GET  POST      /v2/pods
//! GET            /v2/pods/::status
//! GET PUT DELETE /v2/pods/{id}       ?force=true
//! GET            /v2/pods/{id}::status
//! GET            /v2/tasks           ?status=running|staging
//! GET            /v2/deployments  /v2/info  /v2/leader  /ping
//! ```

mod apps;
mod error;
mod pods;
mod system;

use std::sync::Arc;

use axum::extract::State;
use axum::http::HeaderValue;
use axum::response::Response;
use axum::routing::{get, post};
use axum::{Router, middleware};

use super::Shared;

type Query = axum::extract::Query<Vec<(String, String)>>;

/// The whole API.
pub(super) fn router(shared: Arc<Shared>) -> Router {
    let leader = middleware::map_response_with_state(Arc::clone(&shared), name_leader);
    Router::new()
        .route("/v2/apps", get(apps::list).post(apps::create))
        .route(
            "/v2/apps/{*path}",
            get(apps::show)
                .put(apps::update)
                .delete(apps::delete)
                .post(apps::act),
        )
        .route("/v2/pods", post(pods::create).get(pods::list))
        .route(
            "/v2/pods/{*path}",
            get(pods::show).put(pods::update).delete(pods::delete),
        )
        .route("/v2/tasks", get(apps::tasks))
        .route("/v2/deployments", get(system::deployments))
        .route("/v2/info", get(system::info))
        .route("/v2/leader", get(system::leader))
        .route("/ping", get(system::ping))
        .fallback(error::unknown_path)
        .layer(leader)
        .with_state(shared)
}

/// Every answer says who the leader is.
async fn name_leader(State(shared): State<Arc<Shared>>, mut response: Response) -> Response {
    if let Ok(leader) = HeaderValue::from_str(&format!("http://{}", shared.address)) {
        response.headers_mut().insert("X-Marathon-Leader", leader);
    }
    response
}

fn force(query: &Query) -> bool {
    query
        .iter()
        .any(|(name, value)| name == "force" && value != "false")
}
