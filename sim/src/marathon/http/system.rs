//! What Marathon reports about itself.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use crate::marathon::model::run_spec::RunSpec;
use crate::marathon::state::Shared;

pub(super) async fn deployments(State(shared): State<Arc<Shared>>) -> Json<Value> {
    let store = shared.store();
    let all = store.deployments();
    let json = all.iter().map(|(id, path)| {
        let mut run_specs = store.instances().map(|instance| &instance.run_spec);
        let entry = store.entry(path).map(|entry| &entry.run_spec);
        let run_spec = entry.or_else(|| run_specs.find(|own| own.id() == path));
        let pod = run_spec.is_some_and(|own| matches!(&**own, RunSpec::Pod(_)));
        json!({
            "id": id,
            "affectedApps": if pod { json!([]) } else { json!([path]) },
            "affectedPods": if pod { json!([path]) } else { json!([]) },
        })
    });
    Json(json.collect())
}

pub(super) async fn info(State(shared): State<Arc<Shared>>) -> Json<Value> {
    let store = shared.store();
    Json(json!({
        "name": "marathon",
        "version": shared.options.version.release(),
        "buildref": "contrail-mesos-sim",
        "elected": true,
        "leader": shared.leader_address().map(|leader| leader.to_string()),
        "frameworkId": store.framework_id,
        "marathon_config": {
            "master": shared.options.master,
            "mesos_role": store.defaults.role,
            "mesos_bridge_name": store.defaults.mesos_bridge_name,
            "default_network_name": store.defaults.network_name,
            "framework_name": shared.options.framework_name,
            "failover_timeout": shared.options.failover_timeout.as_secs(),
            "checkpoint": true,
        },
        "http_config": {"http_port": shared.options.listen.port()},
    }))
}

pub(super) async fn leader(State(shared): State<Arc<Shared>>) -> Response {
    let Some(leader) = shared.leader_address() else {
        let message = json!({"message": "There is no leader"});
        return (StatusCode::NOT_FOUND, Json(message)).into_response();
    };
    Json(json!({"leader": leader.to_string()})).into_response()
}

/// Responds with text or JSON according to the Accept header, else with nothing.
pub(super) async fn ping(headers: HeaderMap) -> Response {
    let accept = headers
        .get(header::ACCEPT)
        .and_then(|accept| accept.to_str().ok());
    match accept {
        None => "pong".into_response(),
        Some(accept) if accept.contains("text/") || accept.contains("*/*") => {
            "pong".into_response()
        }
        Some(accept) if accept.contains("application/json") => Json("pong").into_response(),
        Some(_) => StatusCode::NO_CONTENT.into_response(),
    }
}
