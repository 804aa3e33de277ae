//! `/v2/apps` and `/v2/tasks`.

use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::{ConnectInfo, Path, State};
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use uuid::Uuid;

use super::error::{ErrorResponse, json_body};
use super::kill;
use super::{Query, client_ip, force};
use crate::harness::clock::Timestamp;
use crate::harness::connection::Peer;
use crate::marathon::events::Event;
use crate::marathon::id::PathId;
use crate::marathon::model::app::{self, App};
use crate::marathon::model::run_spec::RunSpec;
use crate::marathon::state::Shared;
use crate::marathon::store::{Entry, Store};
use crate::marathon::view::{self, Embed};

fn embed(query: &Query) -> Embed {
    let embeds = query.iter().filter(|(name, _)| name == "embed");
    Embed::from_parameters(embeds.map(|(_, value)| value.as_str()))
}

fn apps(store: &Store) -> impl Iterator<Item = (&App, &Entry)> {
    store
        .entries()
        .filter_map(|(_, entry)| match &*entry.run_spec {
            RunSpec::App(app) => Some((&**app, entry)),
            RunSpec::Pod(_) => None,
        })
}

pub(super) fn find<'a>(store: &'a Store, id: &str) -> Result<(&'a App, &'a Entry), ErrorResponse> {
    let path = PathId::parse(id).ok();
    path.and_then(|path| apps(store).find(|(app, _)| app.id == path))
        .ok_or_else(|| ErrorResponse::unknown("App", id))
}

/// Whether an app passes the filters of `GET /v2/apps`.
fn matches(app: &App, query: &Query) -> bool {
    query.iter().all(|(name, value)| match name.as_str() {
        "id" => app.id.to_string().contains(value.as_str()),
        "cmd" => app.cmd.as_ref().is_some_and(|cmd| cmd.contains(value)),
        "label" => value.split(',').all(|label| match label.split_once("==") {
            Some((key, value)) => app.labels.get(key).is_some_and(|own| own == value),
            None => app.labels.contains_key(label),
        }),
        _ => true,
    })
}

pub(super) async fn list(State(shared): State<Arc<Shared>>, query: Query) -> Json<Value> {
    let store = shared.store();
    let chosen = apps(&store).filter(|(app, _)| matches(app, &query));
    let json = chosen.map(|(app, entry)| view::app(&store, app, entry, embed(&query)));
    Json(json!({"apps": json.collect::<Value>()}))
}

pub(super) async fn show(
    State(shared): State<Arc<Shared>>,
    Path(path): Path<String>,
    query: Query,
) -> Result<Json<Value>, ErrorResponse> {
    let store = shared.store();
    let json = |(app, entry)| view::app(&store, app, entry, embed(&query));
    if let Some(group) = path.strip_suffix('*') {
        let below = apps(&store).filter(|(app, _)| app.id.is_below(group));
        return Ok(Json(json!({"*": below.map(json).collect::<Value>()})));
    }
    if let Some(id) = path.strip_suffix("/tasks") {
        let (app, _) = find(&store, id)?;
        return Ok(Json(json!({"tasks": view::tasks(&store, &app.id)})));
    }
    Ok(Json(json!({"app": json(find(&store, &path)?)})))
}

pub(super) async fn create(
    State(shared): State<Arc<Shared>>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    uri: Uri,
    body: Bytes,
) -> Result<Response, ErrorResponse> {
    let definition = json_body(&body)?;
    let mut store = shared.store();
    let app = app::parse(definition, &store.defaults)?;
    let id = app.id.clone();
    let deployment = store.create(RunSpec::App(Box::new(app)), Timestamp::now())?;
    let (app, entry) = find(&store, &id.to_string())?;
    let embed = Embed {
        tasks: true,
        ..Embed::default()
    };
    let json = view::app(&store, app, entry, embed);
    publish_change(&mut store, &peer, &uri, &id);
    shared.wake();
    let headers = [
        ("Location", format!("/v2/apps{id}")),
        ("Marathon-Deployment-Id", deployment.to_string()),
    ];
    Ok((StatusCode::CREATED, headers, Json(json)).into_response())
}

/// Publishes which client changed an app, and the new definition.
fn publish_change(store: &mut Store, peer: &Peer, uri: &Uri, id: &PathId) {
    if let Ok((app, _)) = find(store, &id.to_string()) {
        let definition = view::definition(app);
        let event = Event::api_post(&client_ip(peer), uri.path(), &definition);
        store.add_event(event);
    }
}

/// Applies a change to a definition.
fn merged(old: Option<&App>, id: &str, change: Value) -> Value {
    let Some(old) = old else {
        let mut definition = change;
        definition["id"] = json!(id);
        return definition;
    };
    let mut definition = view::definition(old);
    let Value::Object(mut change) = change else {
        return change;
    };
    let docker_network = change
        .get("container")
        .and_then(|container| container.pointer("/docker/network"));
    // A deprecated field of the change replaces its modern counterpart.
    if change.contains_key("ipAddress") || docker_network.is_some() {
        definition["networks"] = json!([]);
    }
    change.insert("id".to_owned(), json!(id));
    if let Some(definition) = definition.as_object_mut() {
        if change.contains_key("cmd") {
            definition.remove("args");
        } else if change.contains_key("args") {
            definition.remove("cmd");
        }
        definition.extend(change);
    }
    definition
}

pub(super) async fn update(
    State(shared): State<Arc<Shared>>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    uri: Uri,
    Path(path): Path<String>,
    query: Query,
    body: Bytes,
) -> Result<Response, ErrorResponse> {
    let change = json_body(&body)?;
    let mut store = shared.store();
    let old = find(&store, &path).ok().map(|(app, _)| app);
    let created = old.is_none();
    let definition = if change.is_object() {
        merged(old, &path, change)
    } else {
        change
    };
    let run_spec = RunSpec::App(Box::new(app::parse(definition, &store.defaults)?));
    let id = run_spec.id().clone();
    let deployment = if created {
        store.create(run_spec, Timestamp::now())?
    } else {
        store.update(run_spec, force(&query), Timestamp::now())?
    };
    let version = store.entry(&id).map(|entry| entry.version);
    publish_change(&mut store, &peer, &uri, &id);
    shared.wake();
    let status = if created {
        StatusCode::CREATED
    } else {
        StatusCode::OK
    };
    Ok((status, Json(deployed(version, deployment))).into_response())
}

pub(super) fn deployed(version: Option<Timestamp>, deployment: Uuid) -> Value {
    json!({"version": version.unwrap_or_else(Timestamp::now), "deploymentId": deployment})
}

pub(super) async fn delete(
    State(shared): State<Arc<Shared>>,
    Path(path): Path<String>,
    query: Query,
) -> Result<Json<Value>, ErrorResponse> {
    if let Some((app, task)) = path.split_once("/tasks") {
        return kill::of_app(&shared, app, task, &query);
    }
    let mut store = shared.store();
    let id = find(&store, &path)?.0.id.clone();
    let deployment = store.delete(&id, force(&query))?;
    shared.wake();
    Ok(Json(deployed(None, deployment)))
}

/// `POST /v2/apps/{id}/restart`.
pub(super) async fn act(
    State(shared): State<Arc<Shared>>,
    Path(path): Path<String>,
    query: Query,
) -> Result<Json<Value>, ErrorResponse> {
    let mut store = shared.store();
    let id = path.strip_suffix("/restart").unwrap_or_default();
    let id = find(&store, id)?.0.id.clone();
    let deployment = store.restart(&id, force(&query), Timestamp::now())?;
    let version = store.entry(&id).map(|entry| entry.version);
    shared.wake();
    Ok(Json(deployed(version, deployment)))
}

pub(super) async fn tasks(State(shared): State<Arc<Shared>>, query: Query) -> Json<Value> {
    let wanted: Vec<&str> = query
        .iter()
        .filter(|(name, _)| name == "status" || name == "status[]")
        .filter_map(|(_, value)| match value.as_str() {
            "running" => Some("TASK_RUNNING"),
            "staging" => Some("TASK_STAGING"),
            _ => None,
        })
        .collect();
    let store = shared.store();
    let tasks: Vec<Value> = apps(&store)
        .flat_map(|(app, _)| store.instances_of(&app.id))
        .flat_map(|instance| instance.tasks.iter().map(move |task| (instance, task)))
        .filter(|(_, task)| wanted.is_empty() || wanted.contains(&task.condition.mesos_state()))
        .map(|(instance, task)| view::task(instance, task, store.version))
        .collect();
    Json(json!({"tasks": tasks}))
}
