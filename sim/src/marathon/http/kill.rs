//! Requests that kill tasks and instances by id.

use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use serde::Deserialize;
use serde_json::{Value, json};
use std::sync::Arc;

use super::error::{ErrorResponse, json_body};
use super::{Query, apps, force, pods};
use crate::harness::clock::Timestamp;
use crate::marathon::id::{InstanceId, PathId};
use crate::marathon::instance::{Instance, Task};
use crate::marathon::model::run_spec::RunSpec;
use crate::marathon::state::Shared;
use crate::marathon::store::{Store, StoreError};
use crate::marathon::view;

fn scales(query: &Query) -> bool {
    query
        .iter()
        .any(|(name, value)| name == "scale" && value == "true")
}

/// The tasks of apps that have not ended and match a filter.
fn live(store: &Store, passes: impl Fn(&Instance, &Task) -> bool) -> Vec<(&Instance, &Task)> {
    let instances = store.instances();
    let apps = instances.filter(|own| matches!(&*own.run_spec, RunSpec::App(_)));
    apps.flat_map(|own| own.tasks.iter().map(move |task| (own, task)))
        .filter(|(own, task)| !task.condition.is_terminal() && passes(own, task))
        .collect()
}

/// `DELETE /v2/apps/{id}/tasks` and `DELETE /v2/apps/{id}/tasks/{task}`.
pub(super) fn of_app(
    shared: &Shared,
    app: &str,
    task: &str,
    query: &Query,
) -> Result<Json<Value>, ErrorResponse> {
    let mut store = shared.store();
    let id = apps::find(&store, app)?.0.id.clone();
    let task = task.trim_matches('/');
    let host = query.iter().find(|(name, _)| name == "host");
    let chosen = live(&store, |instance, own| {
        let agent = instance.agent.as_ref();
        *instance.run_spec.id() == id
            && (task.is_empty() || own.id == task)
            && host.is_none_or(|(_, host)| agent.is_some_and(|agent| agent.host == *host))
    });
    if chosen.is_empty() && !task.is_empty() {
        return Err(ErrorResponse::unknown("Task", task));
    }
    let json: Vec<Value> = chosen
        .iter()
        .map(|(instance, own)| view::task(instance, own, store.version))
        .collect();
    let ids: Vec<InstanceId> = chosen.iter().map(|(own, _)| own.id.clone()).collect();
    let answer = if scales(query) {
        let deployment = store.kill_and_scale(&id, &ids, force(query), Timestamp::now())?;
        let version = store.entry(&id).map(|entry| entry.version);
        apps::deployed(version, deployment)
    } else {
        store.kill(&ids);
        match json.as_slice() {
            [one] if !task.is_empty() => json!({"task": one}),
            all => json!({"tasks": all}),
        }
    };
    shared.wake();
    Ok(Json(answer))
}

#[derive(Deserialize)]
struct Ids {
    ids: Vec<String>,
}

/// `POST /v2/tasks/delete`.
pub(super) async fn tasks(
    State(shared): State<Arc<Shared>>,
    query: Query,
    body: Bytes,
) -> Result<Json<Value>, ErrorResponse> {
    let Ids { ids } = serde_json::from_value(json_body(&body)?)
        .map_err(|problem| ErrorResponse::invalid_json(&problem))?;
    let mut store = shared.store();
    let chosen = live(&store, |_, own| ids.contains(&own.id));
    let json: Vec<Value> = chosen
        .iter()
        .map(|(instance, own)| view::task(instance, own, store.version))
        .collect();
    let mut by_app: Vec<(PathId, Vec<InstanceId>)> = Vec::new();
    for (instance, _) in chosen {
        let app = instance.run_spec.id();
        match by_app.iter_mut().find(|(own, _)| own == app) {
            Some((_, ids)) => ids.push(instance.id.clone()),
            None => by_app.push((app.clone(), vec![instance.id.clone()])),
        }
    }
    let mut answer = json!({"tasks": json});
    for (app, ids) in by_app {
        if scales(&query) {
            let done = store.kill_and_scale(&app, &ids, force(&query), Timestamp::now());
            let version = store.entry(&app).map(|entry| entry.version);
            match done {
                Ok(deployment) => answer = apps::deployed(version, deployment),
                // Tasks of a deleted app end anyway.
                Err(StoreError::Unknown(_)) => {}
                Err(error) => return Err(error.into()),
            }
        } else {
            store.kill(&ids);
        }
    }
    shared.wake();
    Ok(Json(answer))
}

/// `DELETE /v2/pods/{id}::instances/{instance}`, or without an instance those that the body lists.
pub(super) fn of_pod(
    shared: &Shared,
    pod: &str,
    instance: &str,
    body: &Bytes,
) -> Result<Response, ErrorResponse> {
    let wanted: Vec<String> = match instance.trim_matches('/') {
        "" => serde_json::from_value(json_body(body)?)
            .map_err(|problem| ErrorResponse::invalid_json(&problem))?,
        one => vec![one.to_owned()],
    };
    let mut store = shared.store();
    let id = pods::find(&store, pod)?.run_spec.id().clone();
    let own = store.instances_of(&id).into_iter();
    let chosen: Vec<&Instance> = own
        .filter(|own| wanted.contains(&own.id.to_string()))
        .collect();
    if chosen.is_empty() {
        return Err(ErrorResponse::unknown("Instance", &wanted.join(", ")));
    }
    let mut json: Vec<Value> = chosen
        .iter()
        .map(|own| view::pod_instance(own, store.version))
        .collect();
    let ids: Vec<InstanceId> = chosen.iter().map(|own| own.id.clone()).collect();
    store.kill(&ids);
    shared.wake();
    let answer = match (json.len(), instance.is_empty()) {
        (1, false) => json.swap_remove(0),
        _ => Value::from(json),
    };
    Ok((StatusCode::OK, Json(answer)).into_response())
}
