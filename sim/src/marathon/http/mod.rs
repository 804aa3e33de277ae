//! Marathon's REST API.
//!
//! ```text
//! GET  POST      /v2/apps            ?embed=apps.tasks, ?id=, ?cmd=, ?label=
//! GET PUT DELETE /v2/apps/{id}       ?embed=app.tasks, ?force=true; {group}/*
//! GET            /v2/apps/{id}/tasks
//! POST           /v2/apps/{id}/restart
//! DELETE         /v2/apps/{id}/tasks  /v2/apps/{id}/tasks/{task}    ?scale=, ?host=
//! POST           /v2/tasks/delete     ?scale=
//! GET  POST      /v2/pods
//! GET            /v2/pods/::status
//! GET PUT DELETE /v2/pods/{id}       ?force=true
//! GET            /v2/pods/{id}::status  /v2/pods/{id}::versions[/{version}]
//! DELETE         /v2/pods/{id}::instances  /v2/pods/{id}::instances/{instance}
//! GET            /v2/tasks           ?status=running|staging
//! GET            /v2/events          ?event_type=
//! GET            /v2/deployments  /v2/info  /v2/leader  /ping
//! ```

mod apps;
mod error;
mod events;
mod kill;
mod middleware;
mod pods;
mod system;

use std::sync::Arc;

use axum::Router;
use axum::extract::{ConnectInfo, State};
use axum::http::{HeaderMap, HeaderValue};
use axum::middleware::{from_fn_with_state, map_response_with_state};
use axum::response::Response;
use axum::routing::{get, post};

use super::state::Shared;
use crate::harness::connection::Peer;

type Query = axum::extract::Query<Vec<(String, String)>>;

/// The whole API of one server.
pub(super) fn router(shared: Arc<Shared>, server: usize) -> Router {
    let context = middleware::ServerContext {
        shared: Arc::clone(&shared),
        index: server,
        client: middleware::client(),
    };
    let follow = move |state: State<Arc<Shared>>,
                       peer: ConnectInfo<Peer>,
                       query: Query,
                       headers: HeaderMap| async move {
        events::follow(server, state, peer, query, &headers)
    };
    let leader = map_response_with_state(Arc::clone(&shared), name_leader);
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
        .route("/v2/tasks/delete", post(kill::tasks))
        .route("/v2/events", get(follow))
        .route("/v2/deployments", get(system::deployments))
        .route("/v2/info", get(system::info))
        .route("/v2/leader", get(system::leader))
        .route("/ping", get(system::ping))
        .fallback(error::unknown_path)
        .layer(leader)
        .layer(from_fn_with_state(context, middleware::handle))
        .with_state(shared)
}

/// Names the leader in every response.
async fn name_leader(State(shared): State<Arc<Shared>>, mut response: Response) -> Response {
    let leader = shared
        .leader_address()
        .and_then(|leader| HeaderValue::from_str(&format!("http://{leader}")).ok());
    if let Some(leader) = leader {
        response.headers_mut().insert("X-Marathon-Leader", leader);
    }
    response
}

fn force(query: &Query) -> bool {
    query
        .iter()
        .any(|(name, value)| name == "force" && value != "false")
}

/// The client as events name it: by its address alone.
fn client_ip(peer: &Peer) -> String {
    peer.address.ip().to_string()
}
